"""Sums of nats and of correct tokens of every row: kept in a file, measured and compared."""

import csv
import io
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.files import write_atomically
from ssmlab.core.record import Record
from ssmlab.core.statistics import score_interval, statistics_of, wilson
from ssmlab.profiling import count_flops, count_parameters, images_per_second
from ssmlab.tasks.language.task import CORRECT, COUNT, NLL
from ssmlab.tasks.shared.differences import difference_records, wilcoxon_records
from ssmlab.training.predict import autocast

FILE = "rows.csv"


def write_rows(path: Path, sums: np.ndarray) -> None:
    """CSV with the columns row, nats, asked, right: what the paired intervals are computed from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "nats", "asked", "right"])
    for i, row in enumerate(sums):
        writer.writerow([i, f"{row[NLL]:.8g}", int(row[COUNT]), int(row[CORRECT])])
    write_atomically(path, text.getvalue())


def read_rows(path: Path) -> np.ndarray:
    """(n, 3): nats, predicted tokens, correct ones."""
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)[:, 1:]


def row_metrics(task: Any, sums: np.ndarray, resamples: int) -> list[Record]:
    """The task's numbers of a part; the primary one with its interval over rows."""
    values = task.validation(sums)
    n = int(sums[:, COUNT].sum())
    units = {"loss": "nats", "perplexity": None, "token_accuracy": "fraction", "accuracy": "fraction"}
    records = []
    for metric, value in values.items():
        spread = None
        if metric == task.primary_metric:
            column, scale = primary_column(task)
            spread = _interval(sums[sums[:, COUNT] > 0], column, scale, resamples)
        unit = units.get(metric, "fraction" if metric == "all_right" else "bits")
        records.append(Record(metric=metric, value=value, unit=unit, n=n, spread=spread))
    return records


def _interval(sums: np.ndarray, column: int, scale: float, resamples: int) -> tuple[float, float]:
    """The 95 % interval of a number: by drawing rows, but Wilson's where rows are wholly right or wrong.

    Rows that are all correct, or all wrong, say nothing where they are drawn: the interval has no width then.
    """
    count, correct = sums[:, COUNT], sums[:, CORRECT]
    if column == CORRECT and (count == 1).all():
        return wilson(round(correct.sum()), len(sums))
    if column == CORRECT and (correct.sum() in (0, count.sum())):
        return wilson(len(sums) if correct.any() else 0, len(sums))
    bounds = (0.0, 1.0 if column == CORRECT else math.inf)
    _, low, high = score_interval(statistics_of(scale * sums[:, column], count), resamples=resamples, bounds=bounds)
    return low, high


def primary_column(task: Any) -> tuple[int, float]:
    """The column of the primary metric and the factor that makes the metric of its mean."""
    if task.primary_metric == "accuracy":
        return CORRECT, 1.0
    return NLL, task.tokens_per_unit / math.log(2)


def row_differences(jobs: list[Any], task: Any, resamples: int) -> list[tuple[str, Record]]:
    """The difference of every two models in the primary metric over rows and seeds, with p-values.

    Of bits Wilcoxon's test of the rows' means is there too.
    """
    found: dict[str, list[np.ndarray]] = {}
    for job in jobs:
        found.setdefault(job.model.label, []).append(read_rows(job.folder / FILE))
    column, scale = primary_column(task)
    models, means = {}, {}
    for label, rows in found.items():
        some = np.stack([each[each[:, COUNT] > 0] for each in rows])
        models[label] = statistics_of(scale * some[..., column], some[0, :, COUNT])
        means[label] = scale * some[..., column] / some[..., COUNT]
    unit = "fraction" if task.primary_metric == "accuracy" else "bits"
    records = difference_records(task.primary_metric, models, unit=unit, resamples=resamples)
    return records + (wilcoxon_records(task.primary_metric, means) if column == NLL else [])


def token_costs(network: nn.Module, tokens: torch.Tensor, config: Any, compute: ComputeConfig) -> list[Record]:
    """Parameters, operations of a row, tokens per second, all of prediction in evaluation mode.

    Args:
        tokens: (n, l), int64.
    """
    batch = tokens[torch.arange(config.throughput_batch) % len(tokens)].to(compute.device)
    with autocast(compute) if compute.precision != "float32" else nullcontext():
        speed = images_per_second(network, batch, config.throughput_repeats)
    counts = count_flops(network, batch[:1])
    length = tokens.shape[1]
    return [
        Record(metric="parameters", value=count_parameters(network), unit="count"),
        Record(metric="macs_per_token", value=counts.macs / length, unit="multiply-accumulates"),
        Record(metric="scan_macs_per_token", value=counts.scan_macs / length, unit="multiply-accumulates"),
        Record(
            metric="tokens_per_second",
            value=speed.median * length,
            unit="tokens/s",
            n=config.throughput_repeats,
            spread=(speed.low * length, speed.high * length),
        ),
        Record(metric="cold_seconds", value=speed.cold_seconds, unit="seconds"),
    ]
