"""Differences of all pairs of models as records: with intervals, p-values, and these corrected for how many pairs."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ssmlab.core.record import Record
from ssmlab.core.statistics import (
    Area,
    Interval,
    Score,
    delong,
    differences,
    group_numbers,
    holm,
    mean_area,
    nadeau_bengio,
    ratio,
    roc_area,
    statistics_of,
    wilcoxon,
)
from ssmlab.reports.differences import ALONE, FURTHER, HOLM, p_metric

Pairs = list[tuple[str, Record]]
UNBOUNDED = (-np.inf, np.inf)
DELONG, WILCOXON = "DeLong's test", "Wilcoxon's signed-rank test"
FOLDS = "corrected resampled t-test over folds"


def difference_records(
    metric: str, models: Mapping[str, np.ndarray], score: Score = ratio, *, groups: Sequence[str] | None = None,
    unit: str = "fraction", resamples: int = 2000, trials: int = 10_000, bounds: tuple[float, float] = UNBOUNDED,
) -> Pairs:  # fmt: skip
    """Records of every two models by the pair's name, "second - first".

    `<metric>_difference` has the 95 % interval over cases and seeds, and n, the independent cases: the groups where
    there are some. `p_of_<metric>_difference` has the test as its unit; of the class "Holm" it is corrected, of the
    class "these models" it leaves the error of the seeds out.

    Args:
        models: label -> statistics of every case that add up, (seeds, cases, k), all of the same cases.
    """
    records: Pairs = []
    found = differences(models, score, groups=groups, resamples=resamples, trials=trials, bounds=bounds)
    for (second, first), each in found.items():
        rows = [difference_record(metric, each.interval, unit, each.cases), p_record(metric, each.p, each.test)]
        rows.append(p_record(metric, each.corrected, each.test, HOLM))
        if each.seeds > 1 or each.alone != each.p:
            rows.append(p_record(metric, each.alone, each.test, ALONE))
        records += [(f"{second} - {first}", row) for row in rows]
    return records


def difference_record(metric: str, interval: Interval, unit: str, cases: int) -> Record:
    """A difference with its interval, where it has one."""
    spread = (interval.low, interval.high) if np.isfinite(interval).all() else None
    return Record(metric=f"{metric}_difference", value=interval.value, unit=unit, n=cases, spread=spread)


def p_record(metric: str, p: float, test: str, class_: str | None = None) -> Record:
    """The p-value of a difference."""
    return Record(metric=p_metric(metric), value=p, unit=test, class_=class_)


def tested_pairs(
    models: Mapping[str, np.ndarray], test: Callable[[np.ndarray, np.ndarray], float]
) -> dict[str, tuple[float, float]]:
    """p of another test for every pair, as it is and corrected by Holm."""
    pairs = [(f"{b} - {a}", test(models[b], models[a])) for a, b in combinations(models, 2)]
    return {name: (p, c) for (name, p), c in zip(pairs, holm([p for _, p in pairs]), strict=True)}


def wilcoxon_records(metric: str, values: Mapping[str, np.ndarray], groups: Sequence[str] | None = None) -> Pairs:
    """Wilcoxon's p of every pair, of values (seeds, cases); the classes of the records begin with its name."""
    found = tested_pairs(values, lambda a, b: wilcoxon(a, b, groups))
    return _further(metric, found, WILCOXON, FURTHER[0])


def fold_records(metric: str, scores: Mapping[str, np.ndarray], tested: float, trained: float) -> Pairs:
    """Nadeau & Bengio's p of every pair, of scores of the same folds; the classes of the records begin with its name.

    Args:
        scores: label -> a score of every fold, and of every repeat.
        tested, trained: cases in the test and in the training part of a fold.
    """
    if min(map(len, scores.values()), default=0) < 2:
        return []
    found = tested_pairs(scores, lambda a, b: nadeau_bengio(a - b, tested, trained)[1])
    return _further(metric, found, FOLDS, FURTHER[1])


def _further(metric: str, found: dict[str, tuple[float, float]], test: str, class_: str) -> Pairs:
    records: Pairs = []
    for name, ps in found.items():
        kinds = zip(ps, (class_, f"{class_}, {HOLM}"), strict=True)
        records += [(name, p_record(metric, p, test, kind)) for p, kind in kinds]
    return records


def class_differences(
    labels: np.ndarray, correct: Mapping[str, np.ndarray], probabilities: Mapping[str, np.ndarray], *,
    groups: Sequence[str] | None = None, resamples: int = 2000,
) -> Pairs:  # fmt: skip
    """What is compared of classifications: accuracy, the area under the ROC curve, and the loss.

    Args:
        labels: (n,) positions of the classes.
        correct: label -> (seeds, n). probabilities: label -> (seeds, n, classes).
    """
    right = {name: statistics_of(values) for name, values in correct.items()}
    records = difference_records("accuracy", right, groups=groups, resamples=resamples, bounds=(-1.0, 1.0))
    true = np.arange(len(labels))
    losses = {name: -np.log(np.maximum(p[:, true, labels], 1e-300)) for name, p in probabilities.items()}
    stacked = {name: statistics_of(values) for name, values in losses.items()}
    records += difference_records("loss", stacked, groups=groups, resamples=resamples, unit="nats")
    records += wilcoxon_records("loss", losses, groups)
    count = next(iter(probabilities.values())).shape[-1]
    some = [k for k in ([1] if count == 2 else range(count)) if 0 < (labels == k).sum() < len(labels)]
    if not some:
        return records
    areas = {n: mean_area(roc_area(labels == k, p[..., k]) for k in some) for n, p in probabilities.items()}
    return records + area_differences("roc_auc", areas, groups)


def label_differences(
    truths: np.ndarray, probabilities: Mapping[str, np.ndarray], *, groups: Sequence[str] | None = None,
    resamples: int = 2000,
) -> Pairs:  # fmt: skip
    """What is compared where an image has several labels: the mean area over labels, and the share of right answers.

    Args:
        truths: (n, labels). probabilities: label of the model -> (seeds, n, labels).
    """
    some = [k for k in range(truths.shape[1]) if 0 < truths[:, k].sum() < len(truths)]
    records: Pairs = []
    if some:
        areas = {n: mean_area(roc_area(truths[:, k], p[..., k]) for k in some) for n, p in probabilities.items()}
        records += area_differences("label_auc", areas, groups)
    right = {name: statistics_of(((p >= 0.5) == truths).mean(-1)) for name, p in probabilities.items()}
    how: dict[str, Any] = {"groups": groups, "resamples": resamples, "bounds": (-1.0, 1.0)}
    return records + difference_records("label_accuracy", right, **how)


def area_differences(metric: str, areas: Mapping[str, Area], groups: Sequence[str] | None = None) -> Pairs:
    """Records of every two models' areas under the ROC curve, by DeLong's test."""
    cases = int(group_numbers(groups, len(next(iter(areas.values())).influence)).max()) + 1
    pairs = {f"{b} - {a}": delong(areas[b], areas[a], groups) for a, b in combinations(areas, 2)}
    records: Pairs = []
    for (name, (interval, p)), corrected in zip(pairs.items(), holm([p for _, p in pairs.values()]), strict=True):
        rows = [difference_record(metric, interval, "fraction", cases), p_record(metric, p, DELONG)]
        records += [(name, row) for row in (*rows, p_record(metric, corrected, DELONG, HOLM))]
    return records
