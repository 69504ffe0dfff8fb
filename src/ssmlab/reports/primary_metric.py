"""The number by which the models of a run are compared, and the words for it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.core.statistics import FEWEST, LEVEL, Interval, over_seeds, wilson


@dataclass(frozen=True)
class PrimaryMetric:
    """A metric of the test part.

    Args:
        metric: its name in records; that of the recorded differences ends in _difference.
        name: in words, "accuracy" or "bits per byte".
        higher_is_better: the direction.
        unit, better: of a difference: 1.2 "points", 0.05 "bits" " fewer".
        text, gap: a value and a difference with its sign, as people write them.
        bounds: the range that values lie in.
    """

    metric: str
    name: str
    higher_is_better: bool
    unit: str
    better: str
    text: Callable[[float], str]
    gap: Callable[[float], str]
    bounds: tuple[float, float]

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1

    @property
    def fraction(self) -> bool:
        return self.metric == "accuracy"

    @property
    def scale(self) -> float:
        """What a plot multiplies values with."""
        return 100.0 if self.fraction else 1.0


ACCURACY = PrimaryMetric("accuracy", "accuracy", True, "points", "", formats.percent, formats.points, (0.0, 1.0))


def signed(value: float) -> str:
    """A difference with three decimals and its sign."""
    number = f"{abs(value):.3f}"
    return number if number == "0.000" else ("+" if value > 0 else "−") + number


def primary_metric(records: Iterable[Record], candidates: Iterable[PrimaryMetric]) -> PrimaryMetric:
    """The first of some metrics that a run has measured, else the accuracy."""
    measured = {record.metric for record in records}
    return next((each for each in candidates if each.metric in measured), ACCURACY)


def interval_of(
    records: Iterable[Record], bounds: tuple[float, float] = (-math.inf, math.inf), *, fraction: bool = False,
    others: Iterable[Iterable[Record]] = (),
) -> Interval:  # fmt: skip
    """The mean of a number over seeds with its interval over cases and seeds; of one seed the recorded one.

    Args:
        records: one of every seed. bounds: of the values.
        fraction: a missing interval is Wilson's.
        others: the same number of other models; of two seeds all are taken to spread alike.
    """
    rows = list(records)
    spreads: list[tuple[float, float] | None] = [row.spread for row in rows]
    for i, row in enumerate(rows):
        if fraction and row.spread is None and row.n and math.isfinite(row.value):
            spreads[i] = wilson(round(row.value * row.n), row.n)
    alike = [[row.value for row in each] for each in others]
    return over_seeds([row.value for row in rows], spreads, alike, bounds=bounds)


def too_few(cases: int | None, many: str) -> str:
    """Why so few test cases carry no verdict: "2 test images; at least 6 are needed", or nothing where they do."""
    if cases is None or cases >= FEWEST:
        return ""
    return f"{cases} test {many if cases != 1 else many.removesuffix('s')}; at least {FEWEST} are needed"


def probability(value: float) -> str:
    """A p-value: two digits, or that it is smaller than what is printed."""
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def p_is(value: float) -> str:
    """ "p = 0.012", "p < 0.001"."""
    return f"p {probability(value)}" if value < 0.001 else f"p = {probability(value)}"


def undecided(difference: Interval, gap: Callable[[float], str], corrected: float | None, comparisons: int = 1) -> str:
    """Why a difference names no winner, nothing where it does. This rule is that of every task and page.

    It is `core.statistics.is_decided`; beside it, what is smaller than the printed digits is no difference, and an
    interval that begins there includes zero.

    Args:
        difference: of the better minus the worse, positive, with its 95 % interval.
        gap: a difference as it is printed.
        corrected: its p by Holm; None where none is known. comparisons: that it is corrected for.
    """
    nothing = gap(0.0)
    if math.isnan(difference.low):
        return "the margin has no interval"
    if gap(difference.value) == nothing:
        return "the difference is smaller than what is printed"
    if difference.low <= 0 or gap(difference.low) == nothing:
        return f"the 95 % interval {gap(difference.low)} to {gap(difference.high)} includes zero"
    if corrected is None:
        return "no p-value was recorded, as versions before did not"
    if corrected > LEVEL:
        return f"{p_is(corrected)}{corrected_for(comparisons)} is above {LEVEL:.2g}"
    return ""


def corrected_for(comparisons: int) -> str:
    """What a p-value is corrected for, in words; nothing where there was one comparison."""
    return f", corrected for {comparisons} comparisons," if comparisons > 1 else ""
