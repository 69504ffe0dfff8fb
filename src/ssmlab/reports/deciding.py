"""The number by which the models of a run are compared, and the words for it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.core.statistics import Interval

FEWEST = 6  # independent cases: under no difference, a paired bootstrap of five leaves zero out in 18 % of comparisons
UNITS = ("byte", "base", "sample")
# what the test part counts, by task: one, many
ITEMS = {
    "classify": ("image", "images"),
    "classify_sequence": ("sequence", "sequences"),
    "language": ("token", "tokens"),
    "synthetic": ("answer", "answers"),
    "segment": ("image", "images"),
}


@dataclass(frozen=True)
class Deciding:
    """A metric of the test part.

    Args:
        metric: its name in records; that of the recorded differences ends in _difference.
        name: in words, "accuracy" or "bits per byte".
        higher: whether more is better.
        unit, better: of a difference: 1.2 "points", 0.05 "bits" " fewer".
        text, gap: a value and a difference with its sign, as people write them.
        bounds: the range that values lie in.
    """

    metric: str
    name: str
    higher: bool
    unit: str
    better: str
    text: Callable[[float], str]
    gap: Callable[[float], str]
    bounds: tuple[float, float]

    @property
    def sign(self) -> int:
        return 1 if self.higher else -1

    @property
    def fraction(self) -> bool:
        return self.metric == "accuracy"

    @property
    def scale(self) -> float:
        """What a plot multiplies values with."""
        return 100.0 if self.fraction else 1.0


ACCURACY = Deciding("accuracy", "accuracy", True, "points", "", formats.percent, formats.points, (0.0, 1.0))


def _bits(unit: str) -> Deciding:
    def text(value: float) -> str:
        return f"{formats.decimal(3)(value)} bits per {unit}"

    return Deciding(f"bits_per_{unit}", f"bits per {unit}", False, "bits", " fewer", text, signed, (0.0, float("inf")))


def signed(value: float) -> str:
    """A difference with three decimals and its sign."""
    number = f"{abs(value):.3f}"
    return number if number == "0.000" else ("+" if value > 0 else "−") + number


def _dice(value: float) -> str:
    return f"Dice {formats.decimal(3)(value)}"


DICE = Deciding("dice", "Dice", True, "Dice", "", _dice, signed, (0.0, 1.0))


def deciding(records: Iterable[Record]) -> Deciding:
    """Bits where a run has measured some, or Dice, else the accuracy."""
    found = {record.metric for record in records if record.metric.startswith("bits_per_") or record.metric == "dice"}
    if "dice" in found:
        return DICE
    return next((_bits(unit) for unit in UNITS if f"bits_per_{unit}" in found), ACCURACY)


def too_few(cases: int | None, many: str) -> str:
    """Why so many test cases carry no verdict: "2 test images; at least 6 are needed", or nothing where they do."""
    if cases is None or cases >= FEWEST:
        return ""
    return f"{cases} test {many if cases != 1 else many.removesuffix('s')}; at least {FEWEST} are needed"


def undecided(difference: Interval, gap: Callable[[float], str]) -> str:
    """Why a difference names no winner, nothing where it does. This rule is that of every task and page.

    What is smaller than the printed digits is no difference, and an interval that begins there includes zero.

    Args:
        difference: of the better minus the worse, positive, with its 95 % interval.
        gap: a difference as it is printed.
    """
    nothing = gap(0.0)
    if math.isnan(difference.low):
        return "the margin has no interval"
    if gap(difference.value) == nothing:
        return "the difference is smaller than what is printed"
    if difference.low <= 0 or gap(difference.low) == nothing:
        return f"the 95 % interval {gap(difference.low)} to {gap(difference.high)} includes zero"
    return ""


def items(task: str | None) -> tuple[str, str]:
    """What the test part of a task counts: "image", "images"."""
    return ITEMS.get(task or "classify", ITEMS["classify"])


def passed(task: str | None) -> tuple[str, str]:
    """What one forward pass takes and costs are counted for: whole images, or the patches that they are cut into."""
    return ("patch", "patches") if task == "segment" else ("image", "images")


def in_passes(label: str, task: str | None) -> str:
    """ "MAC per image" or "Images per second" in the words of a task."""
    one, many = passed(task)
    return label.replace("per image", f"per {one}").replace("Images", many.capitalize())


def task_of(records: Iterable[Record]) -> str | None:
    """The task that the records name."""
    return next((record.task for record in records if record.task), None)
