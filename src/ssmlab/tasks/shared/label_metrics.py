"""The numbers of pictures with several labels each: logits and truths to records, every label by itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmlab.core.record import Record
from ssmlab.core.statistics import Interval, score_interval, share_interval, statistics_of
from ssmlab.core.statistics.calibration import brier, calibration_error, calibration_statistics, sigmoid_log
from ssmlab.tasks.shared.calibration import probabilities_of
from ssmlab.tasks.shared.metrics import RESAMPLES, Groups, area_records, interval_record


def label_metrics(
    logits: np.ndarray, truths: np.ndarray, labels: tuple[str, ...], *, groups: Groups = None,
    calibration: Mapping[str, Any] | None = None, resamples: int = RESAMPLES,
) -> list[Record]:  # fmt: skip
    """Every number of a classification with several labels an image; labels that all or no images have are left out.

    `label_auc`, by which models are compared, is the mean area under the ROC curve over labels; `label_accuracy` the
    share of answers that are right (as MedMNIST counts), `all_right` that of images without a wrong answer. Answers
    are yes from 0.5 on, or from the calibration's threshold of the label on.

    Args:
        logits, truths: (n, labels).
        groups: of every image, such as its patient.
        calibration: see `shared.calibration`.
    """
    logits, truths = np.asarray(logits, np.float64), np.asarray(truths, bool)
    likely, n = probabilities_of(logits, calibration, several=True), len(truths)
    limits = np.asarray(calibration["threshold"] if calibration else [0.5] * len(labels))
    said = likely >= limits
    how: dict[str, Any] = {"groups": groups, "resamples": resamples}
    yes, no = sigmoid_log(logits)
    loss = statistics_of(-np.where(truths, yes, no).mean(1))
    right = statistics_of((said == truths).mean(1))
    shown = np.exp(yes)
    found = sum(calibration_statistics(shown[:, k], truths[:, k]) for k in range(len(labels)))
    records = [
        interval_record("loss", score_interval(loss, bounds=(0.0, np.inf), **how), n, unit="nats"),
        interval_record("label_accuracy", score_interval(right, bounds=(0.0, 1.0), **how), n),
        interval_record("all_right", share_interval((said == truths).all(1), groups), n),
        interval_record("ece", score_interval(np.asarray(found)[None], calibration_error, bounds=(0.0, 1.0), **how), n),
        interval_record("brier", score_interval(statistics_of(brier(shown, truths)), bounds=(0.0, 1.0), **how), n),
    ]
    if calibration:
        found = sum(calibration_statistics(likely[:, k], truths[:, k]) for k in range(len(labels)))
        error = score_interval(np.asarray(found)[None], calibration_error, bounds=(0.0, 1.0), **how)
        square = score_interval(statistics_of(brier(likely, truths)), bounds=(0.0, 1.0), **how)
        records += [
            Record(metric="temperature", value=calibration["temperature"], n=calibration["n"]),
            interval_record("ece_calibrated", error, n),
            interval_record("brier_calibrated", square, n),
        ]
    some = {name: truths[:, k] for k, name in enumerate(labels) if 0 < truths[:, k].sum() < n}
    areas = area_records(some, {name: likely[:, k] for k, name in enumerate(labels)}, groups, resamples, every=True)
    means = [r for r in areas if r.class_ is None]
    records += [Record(metric="label_auc", value=r.value, unit=r.unit, n=n, spread=r.spread) for r in means[:1]]
    return records + areas + _by_label(said, truths, labels, groups, resamples)


def _by_label(
    said: np.ndarray, truths: np.ndarray, labels: tuple[str, ...], groups: Groups, resamples: int
) -> list[Record]:
    """Support, precision, sensitivity (recall), specificity and F1 of every label, and their means."""
    n, records = len(truths), []
    found: dict[str, list[float]] = {}
    for k, name in enumerate(labels):
        truth, own = truths[:, k], said[:, k]
        records.append(Record(metric="support", value=int(truth.sum()), class_=name, unit="count", n=n))
        for metric, chosen, right in (
            ("precision", own, truth), ("recall", truth, own), ("specificity", ~truth, ~own),
        ):  # fmt: skip
            if chosen.any():
                some = None if groups is None else [groups[i] for i in np.flatnonzero(chosen).tolist()]
                share = share_interval(right[chosen], some)
            else:
                share = Interval(0.0, np.nan, np.nan)
            if chosen.any() or metric == "precision":
                records.append(interval_record(metric, share, int(chosen.sum()), name))
                found.setdefault(metric, []).append(share.value)
        if truth.any():
            counts = np.stack([2.0 * (truth & own), 1.0 * truth + own], -1)[None]
            f1 = score_interval(counts, groups=groups, resamples=resamples, bounds=(0.0, 1.0))
            records.append(interval_record("f1", f1, n, name))
            found.setdefault("f1", []).append(f1.value)
    return records + [
        Record(metric=metric, value=float(np.mean(values)), class_="macro", unit="fraction", n=n)
        for metric, values in found.items()
    ]
