"""Who won, by how much and how sure that is: one sentence for the page and for the terminal."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmlab.core.formats import listing, plural
from ssmlab.core.record import Record
from ssmlab.core.statistics import Interval, mean_interval, paired_bootstrap_difference, wilson
from ssmlab.reports.primary_metric import PrimaryMetric, primary_metric, too_few, undecided
from ssmlab.reports.run_folder import Predictions, model_labels
from ssmlab.reports.task_report import TaskReport


@dataclass(frozen=True)
class Winner:
    """The answer of a run.

    Args:
        kind: "clear" (see `primary_metric.undecided`), "unclear", "single" (one model only), "partial" (a model has no
            result yet) or "none" (no model has).
        headline, detail: the two halves of the sentence.
        leader, runner_up: labels of the best model and of the next best, None where there is none.
        difference: by how much the leader is better than the runner-up in the primary metric, with its 95 % interval;
            the bounds are nan where neither the records nor the predictions give them.
        n, seeds: test images, and seeds that the accuracy is a mean over.
        reason: why no winner is named, where two models could be compared.
    """

    kind: str
    headline: str
    detail: str
    leader: str | None = None
    runner_up: str | None = None
    difference: Interval | None = None
    n: int | None = None
    seeds: int = 1
    reason: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.headline}: {self.detail}"

    @property
    def clear(self) -> bool:
        return self.kind == "clear"


def winner(
    records: list[Record],
    task: TaskReport,
    predictions: dict[str, dict[int | None, Predictions]] | None = None,
    titles: dict[str, str] | None = None,
) -> Winner:
    """Compare the models of a run by its primary metric on the test part.

    Args:
        records: of the run; the interval of the difference is taken from `<metric>_difference` where it was recorded.
        task: what reports know of the run's task.
        predictions: label -> seed -> Predictions, to compute that interval where it was not.
        titles: label -> what to call the model; also says which models were to be measured.
    """
    titles = titles or {label: label for label in model_labels(records)}
    metric, (_, many) = primary_metric(records, task.primary), task.items
    accuracies: dict[str, dict[int | None, Record]] = {label: {} for label in titles}
    for r in records:  # the last one counts where a run was repeated
        final = r.split == "test" and r.step is None and r.class_ is None
        if final and r.metric == metric.metric and r.model in accuracies:
            accuracies[r.model][r.seed] = r
    measured = {label: values for label, values in accuracies.items() if values}
    missing = [titles[label] for label, values in accuracies.items() if not values]
    if not measured and task.not_compared:
        return Winner("none", *task.not_compared)
    if not measured:
        return Winner("none", "No result yet", "no model of this run was tested.")
    means = {label: _mean(values) for label, values in measured.items()}
    ranks = {label: metric.sign * mean if math.isfinite(mean) else -math.inf for label, mean in means.items()}
    ranking = sorted(measured, key=lambda label: ranks[label], reverse=True)
    leader, reference = ranking[0], next(iter(measured[ranking[0]].values()))
    facts: dict[str, Any] = {
        "leader": leader,
        "n": reference.n,
        "seeds": max(len(values) for values in measured.values()),
    }
    if missing:
        results = listing([f"{titles[label]} reaches {_accuracy(measured[label], metric)}" for label in ranking])
        return Winner("partial", "Not finished", f"{results}; no test result of {listing(missing)} yet.", **facts)
    if len(ranking) == 1:
        return Winner("single", titles[leader], _alone(measured[leader], metric, many), **facts)
    facts["runner_up"] = ranking[1]
    facts["difference"], cases = _difference(records, predictions or {}, measured, leader, ranking[1], metric)
    # Where the interval is over something else than what the metric counts, such as rows of tokens, that is the case.
    few = too_few(cases or facts["n"], many if cases in (None, facts["n"]) else "rows")
    return _compared(titles, measured, len(ranking), facts, metric, many, few)


def _compared(titles, measured, models: int, facts: dict, metric: PrimaryMetric, many: str, few: str) -> Winner:
    leader, second, difference = facts["leader"], facts["runner_up"], facts["difference"]
    basis = f"on {facts['n']:,} test {many}" if facts["n"] else f"on the test {many}"
    basis += f", mean of {facts['seeds']} seeds" if facts["seeds"] > 1 else ", one seed trained"
    first_text, second_text = _accuracy(measured[leader], metric), _accuracy(measured[second], metric)
    a, b = titles[leader], titles[second] + ("" if models == 2 else f", the next of {models}")
    if few:
        detail = f"{few}. {a} reaches {first_text} and {b}, {second_text} {basis}."
        return Winner("unclear", "No verdict", detail, reason=few, **facts)
    reason = undecided(difference, metric.gap)
    interval = f"95 % interval {metric.gap(difference.low)} to {metric.gap(difference.high)}"
    ahead = metric.gap(difference.value).lstrip("+")
    if not reason:
        margin = f"{ahead if metric.better else metric.gap(difference.value)} {metric.unit}{metric.better}"
        detail = f"{first_text} against {second_text} for {b}, {basis}; {margin}"
        return Winner("clear", f"{a} wins", f"{detail} ({interval}).", **facts)
    if math.isnan(difference.low):
        detail = (
            f"{a} reaches {first_text} and {b}, {second_text} {basis}, but without the predictions of both the margin "
            "has no interval."
        )
    elif metric.gap(difference.value) == metric.gap(0.0):
        both = f"both reach {first_text}" if first_text == second_text else f"reach {first_text} and {second_text}"
        detail = f"{a} and {b} {both} {basis} (difference {metric.gap(0.0)} {metric.unit}, {interval})."
    else:
        detail = (
            f"{a} is {ahead} {metric.unit} ahead of {b} ({first_text} against {second_text} {basis}), but {reason}."
        )
    return Winner("unclear", "No clear winner", detail, reason=reason, **facts)


def _mean(values: dict[int | None, Record]) -> float:
    mean = float(np.mean([record.value for record in values.values()]))
    return mean if math.isfinite(mean) else -math.inf


def _accuracy(values: dict[int | None, Record], metric: PrimaryMetric) -> str:
    return metric.text(float(np.mean([record.value for record in values.values()])))


def _alone(values: dict[int | None, Record], metric: PrimaryMetric, many: str) -> str:
    record = next(iter(values.values()))
    images = f" of {record.n:,} test {many}" if record.n else f" of the test {many}"
    if len(values) > 1:
        mean, low, high = mean_interval([r.value for r in values.values()])
        low, high = max(low, metric.bounds[0]), min(high, metric.bounds[1])
        images += f", mean of {plural(len(values), 'seed')}"
    elif record.spread:
        mean, (low, high) = record.value, record.spread
    elif record.n and metric.fraction:
        mean, (low, high) = record.value, wilson(round(record.value * record.n), record.n)
    else:
        return f"classifies {metric.text(record.value)}{images} correctly."
    interval = f"(95 % interval {metric.text(low)} to {metric.text(high)})"
    if not metric.fraction:
        verb = "reaches" if metric.higher_is_better else "needs"
        return f"{verb} {metric.text(mean)}{images.replace(' of', ' on', 1)} {interval}."
    return f"classifies {metric.text(mean)}{images} correctly {interval}."


def _difference(records, predictions, measured, a: str, b: str, metric: PrimaryMetric) -> tuple[Interval, int | None]:
    """By how much `a` is better, and over how many independent cases that was resampled, where that is known."""
    value = metric.sign * (_mean(measured[a]) - _mean(measured[b]))
    for name, sign in ((f"{a} - {b}", metric.sign), (f"{b} - {a}", -metric.sign)):
        rows = [
            r for r in records if r.model == name and r.metric == f"{metric.metric}_difference" and r.split != "val"
        ]
        rows = [r for r in rows if r.spread is not None]
        if rows:
            # With several seeds one record may be of all (seed null), next to one for each seed.
            pooled = [r for r in rows if r.seed is None] or rows
            last = pooled[-1] if len({r.seed for r in pooled}) == 1 else None
            if last is not None:
                low, high = sorted(sign * bound for bound in last.spread)
                return Interval(sign * last.value, low, high), last.n
    # Correctness of both models on the same images in the same order, (seeds, images).
    correct: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    ids: tuple[str, ...] = ()
    of_a, of_b = predictions.get(a, {}), predictions.get(b, {})
    for seed in (seed for seed in of_a if seed in of_b):
        ids = ids or of_a[seed].ids
        for rows, own in zip(correct, (of_a[seed], of_b[seed]), strict=True):
            by_id = dict(zip(own.ids, own.correct, strict=True))
            if own.ids != ids and (len(by_id) != len(own.ids) or set(by_id) != set(ids)):
                return Interval(value, math.nan, math.nan), None
            rows.append(own.correct if own.ids == ids else np.array([by_id[id_] for id_ in ids]))
    if not ids:
        return Interval(value, math.nan, math.nan), None
    return paired_bootstrap_difference(*correct), len(ids)
