"""Who won, by how much and how sure that is: one sentence for the page and for the terminal."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmlab.core.formats import listing, plural
from ssmlab.core.record import Record
from ssmlab.core.statistics import LEVEL, Interval, differences, statistics_of
from ssmlab.reports.differences import best_gap, impossible, pairs_of
from ssmlab.reports.primary_metric import (
    PrimaryMetric,
    corrected_for,
    interval_of,
    p_is,
    primary_metric,
    too_few,
    undecided,
)
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
        corrected: p of no difference, corrected by Holm for the comparisons; None where it is not known.
        comparisons: pairs of models that it is corrected for.
        n, seeds: test images, and seeds that the accuracy is a mean over.
        cases: independent ones, the groups where there are some; None where it is not known.
        reason: why no winner is named, where two models could be compared.
    """

    kind: str
    headline: str
    detail: str
    leader: str | None = None
    runner_up: str | None = None
    difference: Interval | None = None
    corrected: float | None = None
    comparisons: int = 1
    n: int | None = None
    cases: int | None = None
    seeds: int = 1
    reason: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.headline}: {self.detail}"

    @property
    def clear(self) -> bool:
        return self.kind == "clear"


Predicted = dict[str, dict[int | None, Predictions]]


def winner(
    records: list[Record],
    task: TaskReport,
    predictions: Predicted | None = None,
    titles: dict[str, str] | None = None,
    tested: str = "",
) -> Winner:
    """Compare the models of a run by its primary metric on the test part.

    Args:
        records: of the run; the interval and p of the difference are taken from `<metric>_difference` and its p-values
            where they were recorded.
        task: what reports know of the run's task.
        predictions: label -> seed -> Predictions, to compute these where they were not.
        titles: label -> what to call the model; also says which models were to be measured.
        tested: "45 test images of 9 groups (patient)", where more is known than the records' n.
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
    facts |= _difference(records, predictions or {}, measured, leader, ranking[1], metric)
    tested = tested or (f"{facts['n']:,} test {many}" if facts["n"] else f"the test {many}")
    return _compared(titles, measured, len(ranking), facts, metric, many, tested)


def _compared(
    titles: dict, measured: dict, models: int, facts: dict, metric: PrimaryMetric, many: str, tested: str
) -> Winner:
    leader, second, difference = facts["leader"], facts["runner_up"], facts["difference"]
    cases, comparisons, corrected = facts["cases"], facts["comparisons"], facts["corrected"]
    basis = f"on {tested}"
    basis += f", mean of {facts['seeds']} seeds" if facts["seeds"] > 1 else ", one seed trained"
    first_text, second_text = _accuracy(measured[leader], metric), _accuracy(measured[second], metric)
    a, b = titles[leader], titles[second] + ("" if models == 2 else f", the next of {models}")
    # Where the interval is over something else than what the metric counts, such as rows of tokens, that is the case.
    what = many if cases in (None, facts["n"]) else "groups" if "groups" in tested else "rows"
    if few := too_few(cases or facts["n"], what):
        detail = f"{few}. {a} reaches {first_text} and {b}, {second_text} {basis}."
        return Winner("unclear", "No verdict", detail, reason=few, **facts)
    reason = undecided(difference, metric.gap, corrected, comparisons)
    if corrected is not None and corrected > LEVEL and (never := impossible(cases, comparisons, facts["seeds"], what)):
        reason = never
    interval = f"95 % interval {metric.gap(difference.low)} to {metric.gap(difference.high)}"
    ahead = metric.gap(difference.value).lstrip("+")
    if not reason:
        margin = f"{ahead if metric.better else metric.gap(difference.value)} {metric.unit}{metric.better}"
        detail = f"{first_text} against {second_text} for {b}, {basis}; {margin}"
        sure = f"{interval}, {p_is(corrected)}{corrected_for(comparisons).rstrip(',')}"
        return Winner("clear", f"{a} wins", f"{detail} ({sure}).", **facts)
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
        images += f", mean of {plural(len(values), 'seed')}"
    mean, low, high = interval_of(values.values(), metric.bounds, fraction=metric.fraction)
    if math.isnan(low):
        return f"classifies {metric.text(record.value)}{images} correctly."
    interval = f"(95 % interval {metric.text(low)} to {metric.text(high)})"
    if not metric.fraction:
        verb = "reaches" if metric.higher_is_better else "needs"
        return f"{verb} {metric.text(mean)}{images.replace(' of', ' on', 1)} {interval}."
    return f"classifies {metric.text(mean)}{images} correctly {interval}."


def _difference(
    records: list[Record], predictions: Predicted, measured: dict, a: str, b: str, metric: PrimaryMetric
) -> dict[str, Any]:
    """By how much `a` is better, its corrected p, and of how many cases and comparisons, where that is known."""
    value = metric.sign * (_mean(measured[a]) - _mean(measured[b]))
    pairs = pairs_of(records, list(measured), metric.metric)
    pair = next((each for each in pairs if {each.first, each.second} == {a, b}), None)
    bounds = best_gap(metric, a, pair) if pair is not None else None
    difference = Interval(*(bounds or (value, math.nan, math.nan)))
    found: dict[str, Any] = {"difference": difference, "comparisons": max(len(pairs), 1), "cases": None}
    found["corrected"] = None
    if pair is not None and bounds is not None:
        found |= {"cases": pair.difference.n, "corrected": pair.corrected}
        if pair.corrected is not None:
            return found
    models, groups = _right(predictions, list(measured))
    if metric.fraction and {a, b} <= models.keys():
        order = [*(label for label in models if label not in (a, b)), b, a]  # so that the difference is a - b
        of = differences({label: models[label] for label in order}, groups=groups, bounds=(-1.0, 1.0))
        each = of[a, b]
        found |= {"difference": each.interval, "cases": each.cases, "corrected": each.corrected,
                  "comparisons": len(of)}  # fmt: skip
    return found


def _right(predictions: Predicted, labels: list[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Statistics of every model that has predictions of the same images, (seeds, images, 2), and the images' groups."""
    ids: tuple[str, ...] = ()
    groups, found = None, {}
    for label in labels:
        rows = []
        for own in predictions.get(label, {}).values():
            if not ids:
                ids, groups = own.ids, own.groups
            by_id = dict(zip(own.ids, own.correct, strict=True))
            if own.ids != ids and (len(by_id) != len(own.ids) or set(by_id) != set(ids)):
                return {}, None
            rows.append(own.correct if own.ids == ids else np.array([by_id[id_] for id_ in ids]))
        if rows:
            found[label] = statistics_of(np.stack(rows))
    return found, groups
