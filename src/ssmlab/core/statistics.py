"""How sure a number is: 95 % intervals for a fraction, for differences of two models, and over seeds; a paired test."""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A value and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
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
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17 of it.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def paired_bootstrap_difference(
    correct_a, correct_b, seed: int = 0, *, resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Difference of two accuracies on the same images, with its percentile bootstrap interval.

    Images are drawn with replacement, the same ones for both models, so that what is hard for both cancels. With
    several seeds (rows), seeds are drawn as well: row i of a and row i of b were trained with the same seed.

    Args:
        correct_a, correct_b: booleans (images,) or (seeds, images), in the same order.
        seed: of the resampling; the same seed gives the same interval.
    Returns:
        accuracy of a minus accuracy of b, and the bounds of the interval, as fractions.
    Raises:
        ValueError: the shapes differ or there are no images.
    """
    a, b = (np.atleast_2d(np.asarray(correct)).astype(np.int8) for correct in (correct_a, correct_b))
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(f"paired_bootstrap_difference: both need the same images, got shapes {a.shape} and {b.shape}")
    rng = np.random.default_rng(seed)
    seeds, images = a.shape
    # Images with the same outcome under every seed are interchangeable: drawing how often each outcome occurs is the
    # same as drawing images, and costs resamples x outcomes (3 for one seed) whatever the number of images.
    outcomes, counts = np.unique(a - b, axis=1, return_counts=True)
    image_weights = rng.multinomial(images, counts / images, size=resamples) / images
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    differences = np.einsum("rs,so,ro->r", seed_weights, outcomes, image_weights, optimize=True)
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Interval(float(a.mean() - b.mean()), float(low), float(high))


def mean_interval(values, confidence: float = 0.95) -> Interval:
    """Mean over seeds with Student's t interval, which is honest about few seeds (12.7 standard errors wide for two).

    Raises:
        ValueError: fewer than two values; one says nothing about the spread.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"mean_interval: needs at least two values, got {values.size}")
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * values.std(ddof=1) / len(values) ** 0.5
    mean = float(values.mean())
    return Interval(mean, mean - float(half), mean + float(half))


def ratio_interval(parts, wholes, seed: int = 0, *, resamples: int = 2000, confidence: float = 0.95) -> Interval:
    """A ratio of sums over rows, such as bits by bytes, with its percentile bootstrap interval over rows.

    Args:
        parts, wholes: of every row, (rows,).
    """
    return ratio_difference(parts, np.zeros_like(parts), wholes, seed, resamples=resamples, confidence=confidence)


def ratio_difference(
    parts_a, parts_b, wholes, seed: int = 0, *, resamples: int = 2000, confidence: float = 0.95
) -> Interval:
    """Difference of two ratios of sums over the same rows, with its percentile bootstrap interval.

    Rows are drawn with replacement, the same ones for both models; with several seeds, seeds are drawn as well.

    Args:
        parts_a, parts_b: numerators, (rows,) or (seeds, rows). wholes: denominators, (rows,).
        seed: of the resampling.
    Raises:
        ValueError: the shapes differ or there are no rows.
    """
    a, b = (np.atleast_2d(np.asarray(parts, np.float64)) for parts in (parts_a, parts_b))
    wholes = np.asarray(wholes, np.float64)
    if a.shape != b.shape or a.shape[1:] != wholes.shape or a.size == 0:
        raise ValueError(f"ratio_difference: shapes {a.shape}, {b.shape} and {wholes.shape} do not belong together")
    rng = np.random.default_rng(seed)
    seeds, rows = a.shape
    found = []
    for _ in range(resamples):  # one by one: all at once would need resamples x rows numbers
        row_weights = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        seed_weights = np.bincount(rng.integers(0, seeds, seeds), minlength=seeds) / seeds
        found.append(seed_weights @ ((a - b) @ row_weights) / (wholes @ row_weights))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float((a - b).mean(0).sum() / wholes.sum()), float(low), float(high))


Score = Callable[[np.ndarray], np.ndarray]
"""Sums of the sentences' statistics (..., k) -> scores (...), such as BLEU of counts of n-grams."""

_AT_ONCE = 4_000_000  # numbers that are drawn at a time: 32 MB


def score_interval(
    a, score: Score, b=None, *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95
) -> Interval:
    """A score that is no mean over sentences, or its difference of two models, over sentences and seeds.

    The value is the mean over seeds. Sentences are drawn with replacement, the same ones for both models and all seeds.
    Seeds are not drawn so: of three, the bootstrap finds two thirds of the variance, and takes what is left for normal.
    Their part is Student's t of the seeds' standard error (Welch's of two models, which need not have the same seeds).

    Args:
        a, b: statistics of every sentence that add up, (seeds, sentences, k); b may have other seeds than a. Without
            `b` the interval is that of a's score.
        seed: of the resampling.
    Returns:
        the score of a, minus that of b where it is given, and the bounds. A model with one seed adds no error of seeds:
        nothing is known of it.
    Raises:
        ValueError: the sentences or statistics differ in number, or there are none.
    """
    models = _statistics("score_interval", a) if b is None else _statistics("score_interval", a, b)
    rng = np.random.default_rng(seed)
    sentences = models[0].shape[1]
    found = []
    for count in _chunks(resamples, sentences):
        drawn = rng.integers(0, sentences, (count, sentences)) + sentences * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * sentences).reshape(count, sentences).astype(float)
        found.append(_difference(score, [_weighted(weights, model) for model in models]))
    value = float(_difference(score, [model.sum(1) for model in models]))
    draws = np.concatenate(found) + _seed_errors(score, models, resamples, rng)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def approximate_randomisation(
    a, b, score: Score, *, seed: int = 0, resamples: int = 10_000, seeds: bool = True
) -> float:
    """p-value of the hypothesis that two models score the same, for sentences and seeds such as these.

    Under it, which model wrote a sentence says nothing: in every trial each sentence's outputs change sides with
    probability 1/2, those of all seeds together. p = (trials with at least this difference + 1) / (trials + 1), of both
    signs. Source: Riezler & Maxwell 2005, "On some pitfalls in automatic evaluation and significance testing for MT".

    That asks about these trained models. Seeds differ too, but exchanging three pairs of them has eight outcomes, so
    that no p would be below 1/4. Their error is added to every trial instead, as in `score_interval`.

    Args:
        a, b: statistics of every sentence that add up, (seeds, sentences, k), of as many seeds, or one of them of one.
        seeds: False asks about these trained models alone.
    Raises:
        ValueError: the sentences, statistics or seeds differ in number, or there are none.
    """
    a, b = _statistics("approximate_randomisation", a, b)
    rng = np.random.default_rng(seed)
    exchanged, total_a, total_b = b - a, a.sum(1), b.sum(1)
    found = []
    for count in _chunks(resamples, a.shape[1]):
        moved = _weighted(rng.integers(0, 2, (count, a.shape[1])).astype(float), exchanged)
        found.append(_difference(score, [total_a + moved, total_b - moved]))
    trials = np.concatenate(found)
    if seeds:
        trials = trials + _seed_errors(score, [a, b], resamples, rng)
    least = abs(_difference(score, [total_a, total_b])) * (1 - 1e-12)  # the same counts, added in another order
    return float((np.count_nonzero(np.abs(trials) >= least) + 1) / (resamples + 1))


def _statistics(name: str, *models) -> list[np.ndarray]:
    found = [np.asarray(statistics, np.float64) for statistics in models]
    if any(each.ndim != 3 or each.size == 0 or each.shape[1:] != found[0].shape[1:] for each in found):
        shapes = " and ".join(str(each.shape) for each in found)
        raise ValueError(f"{name}: needs (seeds, sentences, k) of the same sentences, got {shapes}")
    return found


def _chunks(resamples: int, sentences: int) -> list[int]:
    size = max(1, _AT_ONCE // sentences)
    return [min(size, resamples - begin) for begin in range(0, resamples, size)]


def _weighted(weights: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """(trials, sentences) and (seeds, sentences, k) -> sums (trials, seeds, k)."""
    return np.tensordot(weights, statistics, axes=(1, 1))


def _difference(score: Score, sums: list[np.ndarray]) -> np.ndarray:
    """The first model's mean over seeds, less the second's where there is one; sums are (..., seeds, k)."""
    means = [score(each).mean(-1) for each in sums]
    return means[0] - means[1] if len(means) == 2 else means[0]


def _seed_errors(score: Score, models: list[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """What the difference may be off by because of the seeds, drawn: Student's t with Welch's degrees of freedom."""
    by_seed = [score(model.sum(1)) for model in models if len(model) > 1]
    squares = np.array([values.var(ddof=1) / len(values) for values in by_seed])
    if not squares.any():
        return np.zeros(count)
    freedom = squares.sum() ** 2 / (squares**2 / np.array([len(values) - 1 for values in by_seed])).sum()
    return rng.standard_t(freedom, count) * squares.sum() ** 0.5
