"""All pairs of some models on the same cases: effects with intervals, corrected p-values, and the rule of verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ssmlab.core.statistics.intervals import CONFIDENCE, Interval, group_numbers
from ssmlab.core.statistics.paired import holm, mcnemar, permutation_test
from ssmlab.core.statistics.resampling import Score, ratio, score_interval

FEWEST = 6  # independent cases: of five no permutation has a p below 0.0625
LEVEL = 1 - CONFIDENCE
MCNEMAR, PERMUTATION = "McNemar's exact test", "permutation test"


@dataclass(frozen=True)
class Difference:
    """One model minus another.

    Args:
        interval: of the difference, over cases and seeds.
        p: of no difference; corrected: by Holm for all pairs. test: which one.
        alone: p of these trained models, without the error of the seeds; the same as p where one seed was trained.
        cases: independent ones, the groups where there are some. seeds: the fewest that a model has.
    """

    interval: Interval
    p: float
    corrected: float
    test: str
    alone: float
    cases: int
    seeds: int

    @property
    def decided(self) -> bool:
        """Whether one of the two is better; see `is_decided`."""
        return is_decided(self.interval, self.corrected, self.cases)


def is_decided(interval: Interval, corrected: float, cases: int) -> bool:
    """The rule of every verdict: six independent cases, and interval and corrected p on the same side.

    With one seed it is about the models that were trained, not about training such models.
    """
    return cases >= FEWEST and corrected <= LEVEL and (interval.low > 0 or interval.high < 0)


def differences(
    models: Mapping[str, np.ndarray], score: Score = ratio, *, groups=None, seed: int = 0, resamples: int = 2000,
    trials: int = 10_000, bounds: tuple[float, float] = (-np.inf, np.inf),
) -> dict[tuple[str, str], Difference]:  # fmt: skip
    """Every two models, in the order in which they are given: second minus first, by (second, first).

    The test is McNemar's where answers are right or wrong, of one seed and without groups; else a permutation of cases,
    or groups, with the error of the seeds.

    Args:
        models: statistics of every case that add up, (seeds, cases, k), of the same cases.
        groups: of every case. bounds: of a difference.
        trials: of the permutation; fewer than 2 ** cases are drawn.
    """
    found: dict[tuple[str, str], tuple[Interval, float, str, float, int]] = {}
    cases = 0
    for first, second in combinations(models, 2):
        a, b = models[second], models[first]
        interval = score_interval(a, score, b, groups=groups, seed=seed, resamples=resamples, bounds=bounds)
        seeds = min(len(a), len(b))
        cases = int(group_numbers(groups, a.shape[1]).max()) + 1
        one = groups is None and len(a) == len(b) == 1 and score is ratio
        if one and all((each[..., 1] == 1).all() and np.isin(each[..., 0], (0, 1)).all() for each in (a, b)):
            p = alone = mcnemar(a[0, :, 0], b[0, :, 0])
            test = MCNEMAR
        else:
            pair = (a, b) if seeds == 1 else (a[:seeds], b[:seeds])
            p, alone = (
                permutation_test(*pair, score, groups=groups, seed=seed, resamples=trials, seeds=each)
                for each in (True, False)
            )
            test = PERMUTATION
        found[second, first] = (interval, p, test, alone, seeds)
    corrected = holm([p for _, p, *_ in found.values()])
    return {
        pair: Difference(interval, p, holms, test, alone, cases, seeds)
        for (pair, (interval, p, test, alone, seeds)), holms in zip(found.items(), corrected, strict=True)
    }
