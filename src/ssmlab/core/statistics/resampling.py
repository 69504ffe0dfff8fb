"""Intervals by resampling, over cases (whole groups of them) and seeds, with a small-sample correction."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ssmlab.core.statistics.intervals import CONFIDENCE, Interval, fraction_interval, group_numbers

Score = Callable[[np.ndarray], np.ndarray]
"""Sums of the cases' statistics (..., k) -> scores (...), such as BLEU of counts of n-grams."""
Weighted = Callable[[np.ndarray], np.ndarray]
"""How often each case is drawn (r, cases) -> scores (r, seeds), nan where a draw has none."""

_AT_ONCE = 4_000_000  # numbers that are drawn at a time: 32 MB
_EVERYTHING = (-np.inf, np.inf)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first statistic by the second: the mean of cases that count 1 each, bits by bytes; nan where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def statistics_of(values, wholes=None) -> np.ndarray:
    """Statistics for `ratio`, (seeds, cases, 2).

    Args:
        values: (cases,) or (seeds, cases). wholes: denominators (cases,), such as bytes; 1 for means.
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    wholes = np.ones(values.shape[1]) if wholes is None else np.asarray(wholes, np.float64)
    return np.stack([values, np.broadcast_to(wholes, values.shape)], -1)


def by_group(name: str, models: Sequence, groups=None) -> list[np.ndarray]:
    """Statistics of models added up in each group, (seeds, groups, k), which then are the cases.

    Args:
        name: of the function that is called, for its message.
    Raises:
        ValueError: they are not of the same cases.
    """
    found = [np.asarray(each, np.float64) for each in models]
    if any(each.ndim != 3 or each.size == 0 or each.shape[1:] != found[0].shape[1:] for each in found):
        shapes = " and ".join(str(each.shape) for each in found)
        raise ValueError(f"{name}: needs (seeds, cases, k) of the same cases, got {shapes}")
    if groups is None:
        return found
    number = group_numbers(groups, found[0].shape[1])
    summed = [np.zeros((number.max() + 1, len(each), each.shape[2])) for each in found]
    for whole, each in zip(summed, found, strict=True):
        np.add.at(whole, number, each.swapaxes(0, 1))
    return [whole.swapaxes(0, 1) for whole in summed]


def score_interval(
    a, score: Score = ratio, b=None, *, groups=None, seed: int = 0, resamples: int = 2000,
    bounds: tuple[float, float] = _EVERYTHING, confidence: float = CONFIDENCE,
) -> Interval:  # fmt: skip
    """A score of sums, or its difference of two models, over cases and seeds; see `resampled_interval`.

    Args:
        a, b: statistics of every case that add up, (seeds, cases, k); b may have other seeds than a. Without `b` the
            interval is that of a's score.
        groups: of every case; cases of one are drawn together.
    Returns:
        the score of a, minus that of b where it is given, and the bounds.
    Raises:
        ValueError: the cases or statistics differ in number, or there are none.
    """
    models = by_group("score_interval", [a] if b is None else [a, b], groups)

    def weighted(statistics: np.ndarray) -> Weighted:
        return lambda weights: score(np.tensordot(weights, statistics, axes=(1, 1)))

    return resampled_interval(
        [weighted(model) for model in models], models[0].shape[1], seed=seed, resamples=resamples, bounds=bounds,
        confidence=confidence,
    )  # fmt: skip


def resampled_interval(
    models: Sequence[Weighted], cases: int, *, groups=None, seed: int = 0, resamples: int = 2000,
    bounds: tuple[float, float] = _EVERYTHING, confidence: float = CONFIDENCE,
) -> Interval:  # fmt: skip
    """Any score of weighted cases, or the difference of two, with an interval over cases and seeds.

    The value is the mean over seeds. Cases, or whole groups, are drawn with replacement, the same ones for both models
    and all seeds, so that what is hard for both cancels.

    *Small samples*: of G groups the bootstrap finds (G - 1) / G of the variance, and takes its estimate for exact. The
    draws' distances from their mean are multiplied by (G / (G - 1))^0.5 and by that of (G - 1) / chi2(G - 1), drawn: of
    means that makes Student's t of a normal distribution.

    *Seeds* are not drawn: of three, the bootstrap would find two thirds of the variance. Their part is Student's t of
    the seeds' standard error, see `seed_errors`, added to every draw; two models need not have the same seeds. One seed
    adds none: nothing is known of it.

    The interval lies about the value, not about the mean of the draws: of a score that is biased for few cases, such as
    a calibration error, the draws are once more so.

    Args:
        models: one, or two whose difference is meant. cases: how many there are.
        groups: of every case; None: every case is its own.
        bounds: of the value.
    Returns:
        the bounds themselves where there is one group only.
    """
    number = group_numbers(groups, cases)
    count = int(number.max()) + 1
    by_seed = [model(np.ones((1, cases)))[0] for model in models]
    value = float(difference_of([each[None] for each in by_seed])[0])
    if count == 1:
        return Interval(value, *bounds)
    rng = np.random.default_rng(seed)
    drawn = [difference_of([model(weights[:, number]) for model in models]) for weights in draws(rng, resamples, count)]
    errors = seed_errors(by_seed, resamples, rng)
    return interval_of_draws(value, np.concatenate(drawn), count, rng, errors, bounds=bounds, confidence=confidence)


def interval_of_draws(
    value: float, found: np.ndarray, count: int, rng: np.random.Generator, errors: np.ndarray | float = 0.0, *,
    bounds: tuple[float, float] = _EVERYTHING, confidence: float = CONFIDENCE,
) -> Interval:  # fmt: skip
    """A value with the interval that resamples of it say, as `resampled_interval` describes.

    Args:
        found: the score of every resample; nan where it has none. count: independent cases that were drawn.
        errors: of the seeds, one for every resample.
    """
    known = np.isfinite(found)
    if not known.any() or count == 1:
        return Interval(value, *bounds)
    if bounds == (0.0, 1.0) and value in bounds and np.ptp(found[known]) == 0 and not np.any(errors):
        return fraction_interval(value, 0.0, np.inf, count)  # all cases agree: draws have no width, which the few have
    scale = (count / (count - 1)) ** 0.5 * ((count - 1) / rng.chisquare(count - 1, len(found))) ** 0.5
    spread = (value + (found - found[known].mean()) * scale + errors)[known]
    low, high = np.clip(np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2]), *bounds)
    return Interval(value, float(min(low, value)), float(max(high, value)))


def draws(rng: np.random.Generator, resamples: int, count: int) -> Iterator[np.ndarray]:
    """How often each of `count` is drawn, (r, count), some resamples at a time."""
    for size in chunks(resamples, count):
        chosen = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def chunks(resamples: int, count: int) -> list[int]:
    """How many resamples are made at a time."""
    size = max(1, _AT_ONCE // count)
    return [min(size, resamples - begin) for begin in range(0, resamples, size)]


def difference_of(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The first model's mean over seeds, less the second's where there is one; scores are (..., seeds)."""
    means = [each.mean(-1) for each in scores]
    return means[0] - means[1] if len(means) == 2 else means[0]


def seed_errors(by_seed: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """What a difference may be off by because of the seeds, drawn: Student's t of their means' standard error.

    Degrees of freedom are Welch's, so that one model may spread more than the other. Of two seeds they would be between
    one and two, with which hardly anything is ever found: there both models are taken to spread alike, which makes two.
    """
    several = [values for values in by_seed if len(values) > 1]
    squares = np.array([values.var(ddof=1) / len(values) for values in several])
    if not squares.any():
        return np.zeros(count)
    freedoms = np.array([len(values) - 1 for values in several])
    freedom = freedoms.sum() if freedoms.max() == 1 else squares.sum() ** 2 / (squares**2 / freedoms).sum()
    return rng.standard_t(freedom, count) * squares.sum() ** 0.5
