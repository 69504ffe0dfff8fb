"""Every class with all of its measures and their intervals, a table for each model."""

from ssmlab.core import formats
from ssmlab.reports.calibration import ranged
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.run_folder import Run
from ssmlab.reports.sections import named
from ssmlab.reports.tables import plain_table

COLUMNS = (
    ("precision", "Precision", formats.percent),
    ("recall", "Sensitivity (recall)", formats.percent),
    ("specificity", "Specificity", formats.percent),
    ("f1", "F1", formats.percent),
    ("roc_auc", "ROC AUC", formats.decimal(3)),
    ("pr_auc", "PR AUC", formats.decimal(3)),
)
MOST = 25  # classes: more are in records.jsonl


def section(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """Precision, sensitivity, specificity, F1 and areas of every class and their means, with 95 % intervals."""
    if len(run.classes) > MOST:
        return None
    boxes = []
    for index, label in enumerate(run.labels):
        made = rows_of(run, label)
        if made is None:
            continue
        heads, rows = made
        table = plain_table("Class", [run.items[1].capitalize(), *heads], rows, class_="wide")
        scroll = el("div", table, class_="scroll", tabindex="0", role="region", aria_label="Measures per class")
        boxes.append(el("div", el("h3", named(index, run.titles[label])), scroll, class_="card"))
    if not boxes:
        return None
    lede = "Shares have Wilson's interval over the cases that they are of, areas DeLong's, F1 one by drawing cases."
    return join([el("p", lede, class_="lede"), *boxes])


def rows_of(run: Run, label: str) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """Headings of the measures that a model has, and a row for every class and for their mean; None without any."""
    known = [each for each in COLUMNS if any((label, each[0], name) in run.finals for name in run.classes)]
    if not known:
        return None
    rows = []
    for name in [*run.classes, "macro"]:
        support = run.final(label, "support", name)
        cells = [formats.UNKNOWN if support is None else formats.whole(support)]
        for metric, _, form in known:
            # the mean of the areas has no class of its own
            class_ = None if name == "macro" and metric.endswith("auc") else name
            cells.append(ranged(run, label, metric, form, class_))
        rows.append(("mean over classes" if name == "macro" else name, cells))
    return [title for _, title, _ in known], rows
