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


def freedom_of(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of estimated variances (Satterthwaite 1946); infinite where all are zero."""
    squares = sum(v * v / f for v, f in zip(variances, freedoms, strict=True) if v and np.isfinite(f))
    return float(sum(variances)) ** 2 / squares if squares else np.inf


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
    """A share of cases, over cases and seeds: Wilson's interval of the number of cases with the same error.

    Of one seed and without groups it is Wilson's. Cases of a group, such as a patient's images, are not independent:
    the error is that of the groups' sums, and never less than that of independent cases. Seeds add the error of their
    mean; degrees of freedom are Satterthwaite's.

    Args:
        correct: booleans (cases,) or (seeds, cases).
        groups: of every case, anything that can be compared; None: every case is its own.
    Raises:
        ValueError: there are no cases.
    """
    correct = np.atleast_2d(np.asarray(correct, np.float64))
    seeds, cases = correct.shape
    if not cases:
        raise ValueError("share_interval: there are no cases")
    value, by_seed = float(correct.mean()), correct.mean(1)
    variances, freedoms, count = [value * (1 - value) / cases], [np.inf], cases
    if seeds > 1 or groups is not None:
        number = group_numbers(groups, cases)
        count = int(number.max()) + 1
        if count == 1:
            return Interval(value, 0.0, 1.0)
        residues = np.bincount(number, correct.mean(0) - value, count)
        variance = count / (count - 1) * float(residues @ residues) / cases**2
        if variance > variances[0] or seeds > 1:
            variances, freedoms = [max(variance, variances[0] / seeds)], [count - 1]
    if seeds > 1:
        variances.append(float(by_seed.var(ddof=1)) / seeds)
        freedoms.append(seeds - 1)
    return fraction_interval(value, sum(variances), freedom_of(variances, freedoms), count, confidence)


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
    values, spreads=None, cases: float | None = None, *, bounds: tuple[float, float] = (-np.inf, np.inf),
    confidence: float = CONFIDENCE,
) -> Interval:  # fmt: skip
    """Mean over seeds with an interval that contains both sources: the test cases, and the seeds.

    All seeds are tested on the same cases, so that their mean is no surer of the cases than one seed is: the mean of
    the intervals' reaches stays, on each side, and the seeds' standard error is added to it in squares. Degrees of
    freedom are Satterthwaite's, so that two seeds are not 12.7 standard errors wide where cases are most of the error.

    Args:
        values: of every seed.
        spreads: (low, high) of every seed, its interval over cases; None where it has none.
        cases: that the intervals rest on; bounds: of the values.
    Returns:
        of one seed its own interval, without bounds (nan) where it has none.
    """
    values = np.asarray(values, dtype=float)
    mean, count = float(values.mean()), len(values)
    if count == 1 and (spreads is None or spreads[0] is None):
        return Interval(mean, np.nan, np.nan)
    if count == 1:
        return Interval(mean, *map(float, spreads[0]))
    seeds, ends = float(values.var(ddof=1)) / count, []
    of_cases = np.array([s for s in spreads or () if s is not None], dtype=float)
    for side in (0, 1):
        case = 0.0
        if len(of_cases) == count:
            case = float((np.abs(of_cases[:, side] - values) / normal(confidence)).mean()) ** 2
        freedom = freedom_of([case, seeds], [cases - 1 if cases and cases > 1 else np.inf, count - 1])
        reach = student(freedom, confidence) * (case + seeds) ** 0.5
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
