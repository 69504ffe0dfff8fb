"""Areas under curves: ROC by DeLong's components, with groups and seeds; precision and recall of weighted cases."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ssmlab.core.statistics.intervals import CONFIDENCE, Interval, fraction_interval, group_numbers, student
from ssmlab.core.statistics.resampling import seed_errors


@dataclass(frozen=True)
class Area:
    """The area under the ROC curve of some seeds, or the mean of several classes', and what every case adds to it.

    Args:
        by_seed: (seeds,).
        influence: DeLong's structural component of every case about its mean, by the number of its side, (cases,).
        truth: (cases,) of one class; None of a mean over several.
        least: cases of the rarer side.
    """

    by_seed: np.ndarray
    influence: np.ndarray
    truth: np.ndarray | None
    least: int

    @property
    def value(self) -> float:
        return float(self.by_seed.mean())


def roc_area(truth, scores) -> Area:
    """The area under the ROC curve: the share of pairs of a positive and a negative case in the right order.

    Source of the components: DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837.

    Args:
        truth: booleans (cases,). scores: (cases,) or (seeds, cases), higher for positive cases.
    Raises:
        ValueError: there are no positive or no negative cases.
    """
    truth, scores = np.asarray(truth, bool), np.atleast_2d(np.asarray(scores, np.float64))
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise ValueError(f"roc_area: needs positive and negative cases, got {positives} and {negatives}")
    influence, areas = np.zeros(len(truth)), []
    for row in scores:
        above = _below(np.sort(row[~truth]), row[truth])  # the share of negatives below every positive
        under = 1 - _below(np.sort(row[truth]), row[~truth])
        areas.append(above.mean())
        influence[truth] += (above - above.mean()) / len(scores) / positives
        influence[~truth] += (under - under.mean()) / len(scores) / negatives
    return Area(np.array(areas), influence, truth, min(positives, negatives))


def _below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The share of sorted numbers below each value, equal ones counted half."""
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))


def mean_area(areas: Iterable[Area]) -> Area:
    """The mean of several classes' areas, of the same cases and seeds; of one class that itself.

    They are added up one by one: a thousand classes' components would not fit into memory.
    """
    total, count = None, 0
    for area in areas:
        count += 1
        if total is None:
            total = area
        else:
            sums = total.by_seed + area.by_seed, total.influence + area.influence
            total = Area(*sums, None, min(total.least, area.least))
    if total is None:
        raise ValueError("mean_area: there are no areas")
    return Area(total.by_seed / count, total.influence / count, None, total.least) if count > 1 else total


def area_variance(area: Area, minus: Area | None = None, groups=None) -> tuple[float, float]:
    """The variance over cases of an area, or of its difference to another's of the same cases, and its freedom.

    Of one class and without groups it is DeLong's. With groups the components are added up in each: Obuchowski 1997,
    Biometrics 53:567; never less than without groups.
    """
    parts = area.influence - minus.influence if minus is not None else area.influence
    sides = [parts] if area.truth is None else [parts[area.truth], parts[~area.truth]]
    variance = sum(len(side) / (len(side) - 1) * float(side @ side) for side in sides if len(side) > 1)
    if groups is not None:
        number = group_numbers(groups, len(parts))
        count = int(number.max()) + 1
        summed = np.bincount(number, parts)
        own = count / (count - 1) * float(summed @ summed) if count > 1 else np.inf
        if own > variance:
            return own, max(count - 1, 1)
    return float(variance), np.inf


def area_interval(area: Area, groups=None, confidence: float = CONFIDENCE) -> Interval:
    """An area of one seed with Wilson's interval of as many cases as have DeLong's error.

    It stays in 0 to 1, and has a width at 1.

    Raises:
        ValueError: there are several seeds; `over_seeds` puts their intervals together.
    """
    if len(area.by_seed) > 1:
        raise ValueError(f"area_interval: is of one seed, got {len(area.by_seed)}")
    variance, freedom = area_variance(area, groups=groups)
    cases = area.least
    if groups is not None:
        cases = min(cases, int(group_numbers(groups, len(area.influence)).max()) + 1)
    if not np.isfinite(variance):
        return Interval(area.value, 0.0, 1.0)
    return fraction_interval(area.value, variance, freedom, cases, confidence)


def delong(
    a: Area, b: Area, groups=None, *, seed: int = 0, resamples: int = 100_000, confidence: float = CONFIDENCE
) -> tuple[Interval, float]:
    """DeLong's test of two areas on the same cases: a minus b with its interval, and the two-sided p.

    Assumes that areas are distributed normally: some ten positive and negative cases at least. Of several seeds the
    seeds' error is added, drawn as in `seed_errors`.
    """
    from scipy.stats import norm, t

    value = a.value - b.value
    variance, freedom = area_variance(a, b, groups)
    if not np.isfinite(variance):
        return Interval(value, -1.0, 1.0), 1.0
    if len(a.by_seed) > 1 or len(b.by_seed) > 1:
        rng = np.random.default_rng(seed)
        errors = seed_errors([a.by_seed, b.by_seed], resamples, rng)
        cases = rng.standard_normal(resamples) if np.isinf(freedom) else rng.standard_t(freedom, resamples)
        errors = errors + cases * variance**0.5
        low, high = value + np.quantile(errors, [(1 - confidence) / 2, (1 + confidence) / 2])
        beyond = int(np.count_nonzero(np.abs(errors) >= abs(value)))
        return Interval(value, max(float(low), -1.0), min(float(high), 1.0)), (beyond + 1) / (resamples + 1)
    if not variance:
        return Interval(value, value, value), float(value == 0)
    error = variance**0.5
    statistic, half = abs(value) / error, student(freedom, confidence) * error
    p = 2 * float(norm.sf(statistic) if np.isinf(freedom) else t.sf(statistic, freedom))
    return Interval(value, max(value - half, -1.0), min(value + half, 1.0)), p


def weighted_roc_area(truth, scores, weights) -> np.ndarray:
    """Areas under the ROC curve of weighted cases, (r,); nan where a draw has cases of one side only.

    Args:
        truth: booleans (cases,). scores: (cases,), higher for positive cases. weights: (r, cases), as of resamples.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(np.asarray(scores)[order]) != 0))  # equal scores count half
    side, drawn = np.asarray(truth, bool)[order], weights[:, order].astype(np.float64)
    above, below = (np.add.reduceat(drawn * own, starts, axis=1) for own in (side, ~side))
    with np.errstate(divide="ignore", invalid="ignore"):
        right = (above * (np.cumsum(below, 1) - below / 2)).sum(1)
        return right / (above.sum(1) * below.sum(1))


def average_precision(truth, scores, weights) -> np.ndarray:
    """Areas under the curve of precision and recall, the sum of precision times the rise of recall, of weighted cases.

    Args:
        truth: booleans (cases,). scores: (seeds, cases), higher for positive cases.
        weights: (r, cases), as of resamples.
    Returns:
        (r, seeds), nan where a draw has no positive case.
    """
    truth, found = np.asarray(truth, bool), []
    for row in np.atleast_2d(np.asarray(scores, np.float64)):
        order = np.argsort(-row, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(row[order]) != 0, True))  # equal scores pass a threshold together
        drawn = weights[:, order]
        right = np.cumsum(drawn * truth[order], 1)[:, ends]
        taken = np.cumsum(drawn, 1)[:, ends]
        rise = np.diff(right, axis=1, prepend=0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(np.where(rise > 0, right / taken * rise, 0.0).sum(1) / right[:, -1])
    return np.stack(found, -1)
