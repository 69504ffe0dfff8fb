"""What reports say of segmentations: curves against seconds, differences of all models, marked images."""

import base64
import json
from pathlib import Path

from ssmlab.core import formats
from ssmlab.reports import seconds
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.primary_metric import PrimaryMetric, signed
from ssmlab.reports.run_folder import Run
from ssmlab.reports.seconds import Curve
from ssmlab.reports.task_report import QUALITY, Compared, Measure, TaskReport
from ssmlab.tasks.shared.measures import FORGETTING, LOSS

CURVES = (
    Curve("loss", "train", "Loss, nats + (1 − Dice)"),
    Curve("dice", "val", "Dice, validation part"),
)
_LARGEST_IMAGE = 2_000_000


def plots(run: Run) -> list[Plot]:
    """Loss and Dice against seconds."""
    return seconds.plots(run, CURVES, "Pretraining is not counted.")


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
    compared=(
        Compared("dice", "Dice at equal iterations", signed),
        Compared("dice_at_equal_seconds", "Dice at equal seconds: as each was when the fastest was ready", signed),
    ),
    interval="A class that neither mask of an image has is left out of the image's mean; one that only one of them "
    "has counts as 0. Intervals are of 95 %: images are drawn with replacement, corrected for few of them.",
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
        ("overlays", "Marked images", overlays),
    ),
)  # fmt: skip
