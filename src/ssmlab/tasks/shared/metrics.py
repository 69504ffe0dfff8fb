"""The numbers of a classification: logits and labels to records, each with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ssmlab.core.record import Record
from ssmlab.core.statistics import (
    Interval,
    area_interval,
    average_precision,
    group_numbers,
    mean_area,
    roc_area,
    score_interval,
    share_interval,
    statistics_of,
)
from ssmlab.core.statistics.calibration import brier, calibration_error, calibration_statistics, log_softmax
from ssmlab.core.statistics.resampling import draws, interval_of_draws
from ssmlab.tasks.shared.calibration import by_threshold, probabilities_of

WHOLE = 20  # more classes leave the empty cells out of the confusion matrix: a thousand have a million cells
RESAMPLES = 1000
FEWEST_RESAMPLES = 200
MOST_WORK = 10**7  # cases x resamples: what is more gets fewer resamples, and no interval where 200 are too many
BY_GROUP = ("accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity", "roc_auc", "pr_auc")
Groups = Sequence[str] | None


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], *, positive: str = "", groups: Groups = None,
    calibration: Mapping[str, Any] | None = None, resamples: int = RESAMPLES,
) -> list[Record]:  # fmt: skip
    """Every number of a classification, without the circumstances (run, model, split are added by the caller).

    Macro and weighted averages and the balanced accuracy are over the classes that occur in `labels`; a class that
    does not occur has support 0 and no recall. Intervals are of 95 %: of shares Wilson's, of areas under the ROC curve
    DeLong's, of the others by drawing cases; with groups over these (see `core.statistics`).

    Args:
        logits: (n, classes), in the order of `classes`.
        labels: (n,) indices into `classes`.
        positive: of two classes, the one whose recall is the sensitivity; the second if empty.
        groups: of every case, such as its patient. Numbers of whole groups, `group_<metric>`, are there then.
        calibration: see `shared.calibration`: numbers at its temperature, `<metric>_calibrated`, and at its threshold.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    n, predicted = len(labels), logits.argmax(1)
    likely = np.exp(log_softmax(logits))
    loss, *further = _probability_records(logits, labels, groups, resamples, "")
    records = [loss, _share("accuracy", predicted == labels, groups)]
    records += _per_class(labels, predicted, classes, groups, resamples)
    if len(classes) == 2:
        records += _two_classes(labels, predicted, classes, positive, groups)
    records += [*_areas(labels, likely, classes, groups, resamples, positive), *further]
    if calibration:
        records.append(Record(metric="temperature", value=calibration["temperature"], n=calibration["n"]))
        records += _probability_records(logits / calibration["temperature"], labels, groups, resamples, "_calibrated")
        if "positive" in calibration:
            said = by_threshold(probabilities_of(logits, calibration), calibration, classes)
            one = calibration["positive"]
            limit = Record(metric="threshold", value=calibration["threshold"], unit="fraction", class_=one, n=n)
            found = _two_classes(labels, said, classes, one, groups)
            records += [limit, *(replace(each, metric=f"{each.metric}_at_threshold") for each in found)]
    if groups is not None:
        records += _of_groups(likely, labels, classes, positive, groups, resamples)
    return records


def loss_and_accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Cross-entropy in nats and accuracy of logits (n, classes), every row counted once."""
    losses = -log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]
    return {"loss": float(losses.mean()), "accuracy": float((logits.argmax(1) == labels).mean())}


def interval_record(
    metric: str, interval: Interval, n: int, class_: str | None = None, unit: str = "fraction"
) -> Record:
    """A record of a value, with its interval where it has one."""
    spread = (interval.low, interval.high) if np.isfinite(interval).all() else None
    return Record(metric=metric, value=interval.value, class_=class_, unit=unit, n=n, spread=spread)


def _share(metric: str, right: np.ndarray, groups: Groups, class_: str | None = None) -> Record:
    return interval_record(metric, share_interval(right, groups), len(right), class_)


def _probability_records(
    logits: np.ndarray, labels: np.ndarray, groups: Groups, resamples: int, suffix: str
) -> list[Record]:
    """Loss, Brier score and calibration error of the most likely class."""
    log_likely, n = log_softmax(logits), len(labels)
    likely = np.exp(log_likely)
    loss = statistics_of(-log_likely[np.arange(n), labels])
    found = calibration_statistics(likely.max(1), likely.argmax(1) == labels)[None]
    how: dict[str, Any] = {"groups": groups, "resamples": resamples}
    error = score_interval(found, calibration_error, bounds=(0.0, 1.0), **how)
    square = score_interval(statistics_of(brier(likely, labels)), bounds=(0.0, 2.0), **how)
    return [
        interval_record(f"loss{suffix}", score_interval(loss, bounds=(0.0, np.inf), **how), n, unit="nats"),
        interval_record(f"ece{suffix}", error, n),
        interval_record(f"brier{suffix}", square, n, unit="squared distance"),
    ]


def class_measures(labels: np.ndarray, predicted: np.ndarray, count: int, weights: np.ndarray) -> dict[Any, np.ndarray]:
    """Precision, recall and F1 by (metric, class), of cases that count as weights (r, cases) say; (r,) each.

    Classes are numbers, "macro" and "weighted" their averages over those that occur; balanced accuracy has None. The
    recall and the F1 of a class without cases are nan; the precision of one that is never named is 0.
    """
    right = predicted == labels
    hits, support, named = (
        np.stack([np.bincount(of[some], row[some], count) for row in weights])
        for of, some in ((labels, right), (labels, slice(None)), (predicted, slice(None)))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "precision": np.where(named > 0, hits / named, 0.0),
            "recall": hits / support,
            "f1": np.where(support > 0, 2 * hits / (support + named), np.nan),
        }
    present = support > 0
    measures: dict[Any, np.ndarray] = {}
    for metric, values in found.items():
        known = np.where(present, values, 0.0)
        measures |= {(metric, k): values[:, k] for k in range(count)}
        measures[metric, "macro"] = known.sum(1) / present.sum(1)
        measures[metric, "weighted"] = (known * support).sum(1) / support.sum(1)
    measures["balanced_accuracy", None] = measures["recall", "macro"]
    return measures


def _drawn(labels, predicted, count: int, groups: Groups, resamples: int) -> dict[Any, Interval]:
    """The measures of `class_measures` with intervals over cases, all from the same draws."""
    n, number = len(labels), group_numbers(groups, len(labels))
    own, rng = int(number.max()) + 1, np.random.default_rng(0)
    whole = class_measures(labels, predicted, count, np.ones((1, n)))
    resamples = min(resamples, max(FEWEST_RESAMPLES, MOST_WORK // n))
    if own == 1:
        return {key: Interval(float(value[0]), np.nan, np.nan) for key, value in whole.items()}
    found = [class_measures(labels, predicted, count, rows[:, number]) for rows in draws(rng, resamples, own)]
    return {
        key: interval_of_draws(
            float(value[0]), np.concatenate([each[key] for each in found]), own, rng, bounds=(0.0, 1.0)
        )
        for key, value in whole.items()
    }


def _per_class(labels, predicted, classes, groups: Groups, resamples: int) -> list[Record]:
    n, count = len(labels), len(classes)
    support, drawn = np.bincount(labels, minlength=count), _drawn(labels, predicted, count, groups, resamples)
    records, spared = [], []
    for k, name in enumerate(classes):
        named, own = predicted == k, labels == k
        records.append(Record(metric="support", value=int(support[k]), class_=name, unit="count", n=n))
        if named.any():
            records.append(_share("precision", own[named], _some(groups, named), name))
        else:
            records.append(Record(metric="precision", value=0.0, class_=name, unit="fraction", n=n))
        if own.any():
            records.append(_share("recall", named[own], _some(groups, own), name))
            records.append(interval_record("f1", drawn["f1", k], n, name))
        if count > 2 and not own.all():
            records.append(_share("specificity", ~named[~own], _some(groups, ~own), name))
            spared.append(~named[~own])
    for metric in ("precision", "recall", "f1"):
        records += [interval_record(metric, drawn[metric, over], n, over) for over in ("macro", "weighted")]
    records.append(interval_record("balanced_accuracy", drawn["balanced_accuracy", None], n))
    if spared:
        mean = float(np.mean([each.mean() for each in spared]))
        records.append(Record(metric="specificity", value=mean, class_="macro", unit="fraction", n=n))
    counts = np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
    return records + [
        Record(metric="confusion", value=int(counts[i, j]), class_=f"{true} -> {guess}", unit="count", n=n)
        for i, true in enumerate(classes)
        for j, guess in enumerate(classes)
        if counts[i, j] or len(classes) <= WHOLE
    ]


def _two_classes(labels, predicted, classes, positive: str, groups: Groups) -> list[Record]:
    """Sensitivity: how many of the positive class are found; specificity: how many of the other."""
    one = classes.index(positive) if positive else 1
    records = []
    for metric, which in (("sensitivity", one), ("specificity", 1 - one)):
        own = labels == which
        if own.any():
            records.append(_share(metric, predicted[own] == which, _some(groups, own), classes[one]))
    return records


def area_records(
    truths: dict[str, np.ndarray], scores: dict[str, np.ndarray], groups: Groups, resamples: int, every: bool
) -> list[Record]:
    """Areas under the curves of ROC and of precision and recall, their means over classes, and those of every class.

    Args:
        truths, scores: name of a class -> (n,), where it has positive and negative cases.
        every: classes one by one too.
    """
    if not truths:
        return []
    n = len(next(iter(truths.values())))
    whole = mean_area(roc_area(truth, scores[name]) for name, truth in truths.items())
    records = [interval_record("roc_auc", area_interval(whole, groups), n)]
    for name in truths if every else ():
        records.append(interval_record("roc_auc", area_interval(roc_area(truths[name], scores[name]), groups), n, name))
    return records + _precise_records(truths, scores, groups, resamples, every)


def _precise_records(
    truths: dict[str, np.ndarray], scores: dict[str, np.ndarray], groups: Groups, resamples: int, every: bool
) -> list[Record]:
    """Areas under the curves of precision and recall, all from the same draws."""
    names, n = list(truths), len(next(iter(truths.values())))
    number, rng = group_numbers(groups, n), np.random.default_rng(0)
    own, work = int(number.max()) + 1, n * len(names)
    resamples = min(resamples, max(FEWEST_RESAMPLES, MOST_WORK // work))

    def precise(weights: np.ndarray) -> np.ndarray:
        found = [average_precision(truths[name], scores[name], weights)[:, 0] for name in names]
        return np.stack([np.mean(found, axis=0), *found])  # (classes + 1, r)

    whole = precise(np.ones((1, n)))[:, 0]
    if resamples * work > 5 * MOST_WORK or own == 1:
        intervals = [Interval(float(value), np.nan, np.nan) for value in whole]
    else:
        drawn = np.concatenate([precise(rows[:, number]) for rows in draws(rng, resamples, own)], 1)
        pairs = zip(whole, drawn, strict=True)
        intervals = [interval_of_draws(float(value), found, own, rng, bounds=(0.0, 1.0)) for value, found in pairs]
    records = [interval_record("pr_auc", intervals[0], n)]
    rest = zip(names, intervals[1:], strict=True)
    return records + [interval_record("pr_auc", interval, n, name) for name, interval in rest if every]


def _areas(labels, likely, classes, groups: Groups, resamples: int, positive: str) -> list[Record]:
    """Of two classes those of the positive one, of more every class against the rest."""
    count = len(classes)
    columns = [classes.index(positive) if positive else 1] if count == 2 else range(count)
    truths = {classes[k]: labels == k for k in columns if 0 < (labels == k).sum() < len(labels)}
    scores = {classes[k]: likely[:, k] for k in columns}
    return area_records(truths, scores, groups, resamples, every=2 < count <= WHOLE)


def _of_groups(likely, labels, classes, positive: str, groups: Sequence[str], resamples: int) -> list[Record]:
    """The main numbers of whole groups: the mean of the probabilities of their cases, for groups of one class."""
    found = whole_groups(likely, labels, groups)
    if not len(found[0]):
        return []
    with np.errstate(divide="ignore"):
        rows = classification_metrics(
            np.log(np.maximum(found[0], 1e-300)), found[1], classes, positive=positive, resamples=resamples
        )
    return [replace(row, metric=f"group_{row.metric}") for row in rows if row.metric in BY_GROUP]


def whole_groups(likely: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities (groups, classes) and labels (groups,) of the groups whose cases have one label."""
    number = group_numbers(groups, len(labels))
    count = int(number.max()) + 1
    sizes = np.bincount(number, minlength=count)
    means = np.stack([np.bincount(number, column, count) / sizes for column in likely.T], 1)
    least, most = np.full(count, likely.shape[1]), np.full(count, -1)
    np.minimum.at(least, number, labels)
    np.maximum.at(most, number, labels)
    return means[least == most], most[least == most]


def _some(groups: Groups, chosen: np.ndarray) -> Groups:
    return None if groups is None else [groups[i] for i in np.flatnonzero(chosen).tolist()]
