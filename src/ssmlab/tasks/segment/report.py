"""What reports say of segmentations: curves against seconds, differences of all models, marked images."""

import base64
import json
from pathlib import Path

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.reports import seconds
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.primary_metric import PrimaryMetric, signed
from ssmlab.reports.run_folder import Run
from ssmlab.reports.seconds import Curve
from ssmlab.reports.tables import plain_table
from ssmlab.reports.task_report import QUALITY, Measure, TaskReport
from ssmlab.tasks.shared.measures import FORGETTING, LOSS

CURVES = (
    Curve("loss", "train", "Loss, nats + (1 − Dice)"),
    Curve("dice", "val", "Dice, validation part"),
)
DIFFERENCES = {
    "dice_difference": "at equal iterations",
    "dice_at_equal_seconds_difference": "at equal seconds",
}
_LARGEST_IMAGE = 2_000_000


def plots(run: Run) -> list[Plot]:
    """Loss and Dice against seconds."""
    return seconds.plots(run, CURVES, "Pretraining is not counted.")


def differences(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """Every two models' difference in test Dice, at equal iterations and at equal seconds."""
    last: dict[tuple[str, str], Record] = {}
    for record in run.records:
        if record.metric in DIFFERENCES and record.model and record.spread:
            last[record.model, record.metric] = record
    if not last:
        return None
    pairs = list(dict.fromkeys(pair for pair, _ in last))
    shown = [metric for metric in DIFFERENCES if any(found == metric for _, found in last)]
    rows = [(_titled(run, pair), [_difference(last.get((pair, metric))) for metric in shown]) for pair in pairs]
    note = (
        "The first model's Dice minus the second's on the same images, with the 95 % interval of a paired bootstrap "
        "over images and seeds. At equal seconds: with the weights that each had when the fastest model was ready."
    )
    heads = [DIFFERENCES[metric] for metric in shown]
    table = plain_table("Dice, test part", heads, rows, caption=note, class_="wide")
    return el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")


def _difference(record: Record | None) -> str:
    if record is None or record.spread is None:
        return formats.UNKNOWN
    return f"{signed(record.value)} [{signed(record.spread[0])}, {signed(record.spread[1])}]"


def _titled(run: Run, pair: str) -> str:
    first, _, second = pair.partition(" - ")
    return f"{run.titles.get(first, first)} − {run.titles.get(second, second)}"


def overlays(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """Test images with what every model marked: green right, red too much, blue missed."""
    folder = run.folder / "overlays"
    if not (folder / "overlays.json").is_file():
        return None
    try:
        listed = json.loads((folder / "overlays.json").read_text(encoding="utf-8"))
        cards = [_card(run, folder, row) for row in listed]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        run.problems.append("overlays/overlays.json is damaged.")
        return None
    lede = "Test images at equal distances in the list. Green: marked by both; red: by the model alone; blue: missed."
    return join([el("p", lede, class_="lede"), cards]) if cards else None


def _card(run: Run, folder: Path, row: dict) -> Html:
    pictures = [("truth", row["truth"]), *((run.titles.get(m, m), file) for m, file in row["models"].items())]
    items = [el("li", _image(folder / Path(file).name, f"{row['id']}, {title}"), el("p", title), class_="card")
             for title, file in pictures]  # fmt: skip
    return join([el("h3", str(row["id"])), el("ul", items, class_="samples")])


def _image(file: Path, alt: str) -> Html | None:
    content = file.read_bytes()
    if len(content) > _LARGEST_IMAGE:
        return None
    return el("img", src=f"data:image/png;base64,{base64.b64encode(content).decode()}", alt=alt)


def _overlap(metric: str, label: str, help: str) -> Measure:
    return Measure(metric, label, QUALITY, 1, formats.decimal(3), help=help, interval=True)


REPORT = TaskReport(
    items=("image", "images"),
    passes=("patch", "patches"),
    primary=(
        PrimaryMetric(
            "dice", "Dice", True, "Dice", "", lambda value: f"Dice {formats.decimal(3)(value)}", signed, (0.0, 1.0)
        ),
    ),
    measures=(
        LOSS,
        _overlap("dice", "Dice", "overlap; mean over images and classes"),
        _overlap("total_dice", "Dice in total", "pixels of all images together"),
        _overlap("iou", "IoU", "intersection over union"),
        _overlap("precision", "Precision", "share of what is marked that is right"),
        _overlap("recall", "Recall", "share of what is there that is marked"),
        _overlap("surface_dice", "Surface Dice", "outlines within the tolerance"),
        Measure("hausdorff95", "95 % Hausdorff", QUALITY, -1, formats.rate, help="distance of outlines", interval=True,
                bounded=False),
        *FORGETTING,
    ),
    interval="A class that neither mask of an image has is left out of the image's mean; one that only one of them "
    "has counts as 0. Intervals are 95 % percentile intervals of a bootstrap over images.",
    notes=(
        (
            frozenset({"macs", "images_per_second"}),
            "Patch",
            "What the network sees at once, of the size it was trained on; a larger image takes several.",
        ),
    ),
    plots=(plots,),
    sections=(
        ("seconds", "Against seconds", seconds.section),
        ("differences", "Differences", differences),
        ("overlays", "Marked images", overlays),
    ),
)  # fmt: skip
