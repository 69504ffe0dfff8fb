"""Every class with all of its measures and their intervals, a table for each model."""

from ssmlab.core import formats
from ssmlab.reports.calibration import ranged
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.run_folder import Run
from ssmlab.reports.sections import named
from ssmlab.reports.tables import Sheet

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
    boxes = []
    for label, sheet in sheets(run).items():
        boxes += [el("h3", named(run.labels.index(label), run.titles[label]), class_="apart"), sheet.html]
    if not boxes:
        return None
    lede = "Shares have Wilson's interval over the cases that they are of, areas DeLong's, F1 one by drawing cases."
    return join([el("p", lede, class_="lede"), *boxes])


def sheets(run: Run) -> dict[str, Sheet]:
    """A table for every model that has such measures."""
    found = {}
    for label in run.labels if len(run.classes) <= MOST else ():
        known = [each for each in COLUMNS if any((label, each[0], name) in run.finals for name in run.classes)]
        rows = []
        for name in [*run.classes, "macro"]:
            support = run.final(label, "support", name)
            cells = [formats.UNKNOWN if support is None else formats.whole(support)]
            for metric, _, form in known:
                # the mean of the areas has no class of its own
                class_ = None if name == "macro" and metric.endswith("auc") else name
                cells.append(ranged(run, label, metric, form, class_))
            rows.append(("mean over classes" if name == "macro" else name, tuple(cells)))
        heads = (run.items[1].capitalize(), *(title for _, title, _ in known))
        if known:
            found[label] = Sheet(f"{run.titles[label]}, per class", "Class", heads, tuple(rows))
    return found
