"""Tests of two models on the same cases, and Holm's correction for several of them."""

from collections.abc import Sequence

import numpy as np

from ssmlab.core.statistics.intervals import CONFIDENCE, Interval, group_numbers, student
from ssmlab.core.statistics.resampling import Score, by_group, chunks, difference_of, ratio, seed_errors


def permutation_test(
    a, b, score: Score = ratio, *, groups=None, seed: int = 0, resamples: int = 10_000, seeds: bool = True
) -> float:
    """p-value of the hypothesis that two models score the same, for cases and seeds such as these.

    Under it, which model gave an answer says nothing: the outputs of every case, or group, change sides with
    probability 1/2, those of all seeds together. Where that has no more outcomes than trials, all are counted (at most
    13 cases of 10,000 trials), and p is exact; else p = (trials with at least this difference + 1) / (trials + 1).
    Two-sided. Sources: Fisher 1935; for scores of sums Riezler & Maxwell 2005, "On some pitfalls in automatic
    evaluation and significance testing for MT", as approximate randomisation.

    That asks about these trained models. Seeds differ too, but exchanging three pairs of them has eight outcomes, so
    that no p would be below 1/4. Their error, Student's t, is added to every trial instead.

    Args:
        a, b: statistics of every case that add up, (seeds, cases, k), of as many seeds, or one of them of one.
        groups: of every case; cases of one change sides together.
        seeds: False asks about these trained models alone.
    Raises:
        ValueError: the cases, statistics or seeds differ in number, or there are none.
    """
    a, b = by_group("permutation_test", [a, b], groups)
    rng, cases = np.random.default_rng(seed), a.shape[1]
    exchanged, totals = b - a, [a.sum(1), b.sum(1)]
    errors = seed_errors([score(total) for total in totals], resamples, rng) if seeds else np.zeros(resamples)
    exact = 2.0**cases <= resamples
    found = []
    for count in [2**cases] if exact else chunks(resamples, cases):
        swaps = np.arange(count)[:, None] >> np.arange(cases) & 1 if exact else rng.integers(0, 2, (count, cases))
        moved = np.tensordot(swaps.astype(float), exchanged, axes=(1, 1))
        found.append(difference_of([score(totals[0] + moved), score(totals[1] - moved)]))
    trials = np.concatenate(found)
    # the same counts, added in another order, differ in their last digits
    least = abs(float(difference_of([score(total) for total in totals]))) * (1 - 1e-9) - 1e-12
    if exact and not errors.any():
        return float(np.mean(np.abs(trials) >= least))
    trials = np.resize(trials, resamples) + errors
    return float((np.count_nonzero(np.abs(trials) >= least) + 1) / (resamples + 1))


def mcnemar(correct_a, correct_b) -> float:
    """McNemar's exact test of two accuracies on the same cases: the binomial test of the cases that one has right.

    It is the exact permutation test of their difference.

    Args:
        correct_a, correct_b: booleans (cases,).
    Raises:
        ValueError: the shapes differ.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"mcnemar: both need the same cases (n,), got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def wilcoxon(a, b, groups=None) -> float:
    """Wilcoxon's signed-rank test of paired values such as Dice or losses; exact up to 50 cases without ties.

    It asks whether differences lie as often and as far above zero as below; they should be symmetric.

    Args:
        a, b: (cases,) or (seeds, cases), whose means over seeds, and over the cases of a group, are tested.
    """
    from scipy.stats import wilcoxon as signed_rank

    difference = np.atleast_2d(np.asarray(a, np.float64)).mean(0) - np.atleast_2d(np.asarray(b, np.float64)).mean(0)
    number = group_numbers(groups, len(difference))
    difference = np.bincount(number, difference) / np.bincount(number)
    return float(signed_rank(difference).pvalue) if difference.any() else 1.0


def nadeau_bengio(differences, tested: float, trained: float, confidence: float = CONFIDENCE) -> tuple[Interval, float]:
    """Mean difference of folds, whose training parts overlap, with its interval and p: the corrected resampled t-test.

    The variance of k folds is s^2 (1 / k + tested / trained) instead of s^2 / k. Source: Nadeau & Bengio 2003, Machine
    Learning 52:239; for repeated folds Bouckaert & Frank 2004.

    Args:
        differences: of every fold (and repeat), in a score of its test part.
        tested, trained: cases in the test and in the training part of a fold.
    Raises:
        ValueError: fewer than two folds.
    """
    from scipy.stats import t as t_distribution

    values = np.asarray(differences, np.float64).ravel()
    if len(values) < 2:
        raise ValueError(f"nadeau_bengio: needs at least two folds, got {len(values)}")
    mean, freedom = float(values.mean()), len(values) - 1
    error = (float(values.var(ddof=1)) * (1 / len(values) + tested / trained)) ** 0.5
    half = student(freedom, confidence) * error
    # differences that are all the same, as of few cases, say nothing about how much they vary
    p = 2 * float(t_distribution.sf(abs(mean) / error, freedom)) if error > 1e-9 * abs(mean) else 1.0
    return Interval(mean, mean - half, mean + half), p


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for how many they are, by Holm 1979: no family of hypotheses errs in more than the level."""
    order = np.argsort(values, kind="stable")
    corrected, least = np.ones(len(values)), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = least
    return corrected.tolist()


def least_p(cases: int, comparisons: int = 1) -> float:
    """The smallest corrected p that a permutation of so many cases can have: all answers change sides, or none."""
    return min(1.0, comparisons * 2.0 ** (1 - cases))


def cases_needed(comparisons: int = 1, level: float = 1 - CONFIDENCE) -> int:
    """The fewest cases of which one comparison of so many can come out: 6 for one, 7 for three."""
    cases = 1
    while least_p(cases, comparisons) > level:
        cases += 1
    return cases
