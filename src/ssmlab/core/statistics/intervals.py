"""Intervals of one number: fractions in closed form, and what is left of a number of several seeds and cases."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A value and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(k: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for k successes out of n, without continuity correction.

    It keeps its promise near 0 and 1, where accuracies live and the usual p +- 1.96 s leaves the unit interval.
    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209; examples in Newcombe 1998, Stat. Med. 17:857, table I.

    Returns:
        (low, high) in [0, 1]; (0, 1) for n = 0, where nothing is known.
    Raises:
        ValueError: k is not in 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson: k must lie in 0..n, got k={k}, n={n}")
    return _wilson(k / n if n else 0.5, n, normal(confidence))


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    if n == 0:
        return 0.0, 1.0
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17 of it.
    return (0.0 if p <= 0 else float(centre - half)), (1.0 if p >= 1 else float(centre + half))


def normal(confidence: float = CONFIDENCE) -> float:
    """The quantile of the normal distribution that a two-sided interval reaches to, 1.96."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def student(freedom: float, confidence: float = CONFIDENCE) -> float:
    """The same of Student's t; infinitely many degrees of freedom are the normal distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2)) if np.isfinite(freedom) else normal(confidence)


def fraction_interval(
    value: float, variance: float, freedom: float, cases: float, confidence: float = CONFIDENCE
) -> Interval:
    """Wilson's interval of a fraction with a known error: that of as many independent cases as have this error.

    Args:
        variance: of the value's sampling distribution; freedom: of its estimate, infinite for the binomial one.
        cases: taken where the variance is zero, as for a fraction of 0 or 1.
    """
    known = 0 < value < 1 and variance > 0
    low, high = _wilson(value, value * (1 - value) / variance if known else cases, student(freedom, confidence))
    return Interval(float(value), low, high)


def share_interval(correct, groups=None, confidence: float = CONFIDENCE) -> Interval:
    """A share of cases, over cases and seeds.

    Of one seed and without groups it is Wilson's interval. Cases of a group, such as a patient's images, are not
    independent: the error is that of the groups' sums, and never less than that of independent cases, and the interval
    Wilson's of as many cases as have this error. Of several seeds it is that of `over_seeds`.

    Args:
        correct: booleans (cases,) or (seeds, cases).
        groups: of every case, anything that can be compared; None: every case is its own.
    Raises:
        ValueError: there are no cases.
    """
    correct = np.asarray(correct, np.float64)
    if correct.ndim == 2 and len(correct) > 1:
        found = [share_interval(row, groups, confidence) for row in correct]
        spreads = [(each.low, each.high) for each in found]
        return over_seeds([each.value for each in found], spreads, bounds=(0.0, 1.0), confidence=confidence)
    correct = correct.ravel()
    cases = count = len(correct)
    if not cases:
        raise ValueError("share_interval: there are no cases")
    value = float(correct.mean())
    variance, freedom = value * (1 - value) / cases, np.inf
    if groups is not None:
        number = group_numbers(groups, cases)
        count = int(number.max()) + 1
        if count == 1:
            return Interval(value, 0.0, 1.0)
        residues = np.bincount(number, correct - value, count)
        own = count / (count - 1) * float(residues @ residues) / cases**2
        if own > variance:
            variance, freedom = own, count - 1
    return fraction_interval(value, variance, freedom, count, confidence)


def mean_interval(values, confidence: float = CONFIDENCE) -> Interval:
    """Mean over seeds with Student's t interval, where nothing is known of cases, as of seconds.

    Raises:
        ValueError: fewer than two values; one says nothing about the spread.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"mean_interval: needs at least two values, got {values.size}")
    return over_seeds(values, confidence=confidence)


def over_seeds(
    values, spreads=None, others: Sequence[Sequence[float]] = (), *,
    bounds: tuple[float, float] = (-np.inf, np.inf), confidence: float = CONFIDENCE,
) -> Interval:  # fmt: skip
    """Mean over seeds with an interval that contains both sources: the test cases, and the seeds.

    All seeds are tested on the same cases, so that their mean is no surer of the cases than one seed is. On each side
    the mean of the intervals' reaches and Student's t of the seeds' standard error are added in squares (Zou & Donner
    2008, Stat. Med. 27:1693), which is never less than either.

    Of two seeds t is 12.7: where other models were trained with two seeds too, all are taken to spread alike.

    Args:
        values: of every seed.
        spreads: (low, high) of every seed, its interval over cases; None where it has none.
        others: the same numbers of other models, by seed.
        bounds: of the values.
    Returns:
        of one seed its own interval, without bounds (nan) where it has none.
    """
    values = np.asarray(values, dtype=float)
    mean, count = float(values.mean()), len(values)
    if count == 1:
        spread = None if spreads is None else spreads[0]
        return Interval(mean, *(map(float, spread) if spread is not None else (np.nan, np.nan)))
    variance, freedom = float(values.var(ddof=1)), count - 1
    alike = [float(np.var(each, ddof=1)) for each in others if count == 2 == len(each)]
    if alike and np.isfinite(alike).all():
        variance, freedom = float(np.mean([variance, *alike])), 1 + len(alike)
    seeds, ends = student(freedom, confidence) * (variance / count) ** 0.5, []
    of_cases = np.array([s for s in spreads or () if s is not None], dtype=float)
    for side in (0, 1):
        case = float(np.abs(of_cases[:, side] - values).mean()) if len(of_cases) == count else 0.0
        reach = (case**2 + seeds**2) ** 0.5
        ends.append(min(max(mean + (reach if side else -reach), bounds[0]), bounds[1]))
    return Interval(mean, *ends)


def group_numbers(groups, cases: int) -> np.ndarray:
    """A number from 0 for the group of every case; every case is its own where there are none.

    Raises:
        ValueError: there is another number of groups than of cases.
    """
    if groups is None:
        return np.arange(cases)
    if len(groups) != cases:
        raise ValueError(f"there must be a group for each of {cases} cases, got {len(groups)}")
    return np.unique(np.asarray(groups), return_inverse=True)[1]
