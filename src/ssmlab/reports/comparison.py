"""The comparison of a run's models as a table."""

import math
from dataclasses import replace

import numpy as np

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.reports.primary_metric import interval_of, primary_metric, too_few
from ssmlab.reports.run_folder import Finals, final_records, model_labels
from ssmlab.reports.tables import Cell, Row, Table, best_cells
from ssmlab.reports.task_report import COST, QUALITY, Measure, TaskReport

PROCESS = "process"  # the class of a peak of memory that is not the model's alone
COSTS = (
    Measure("tokens", "Tokens", COST, 0, formats.whole, help="positions that are scanned"),
    Measure("parameters", "Parameters", COST, -1, formats.large),
    Measure("macs", "MAC per {item}", COST, -1, formats.large, part="scan_macs", help="multiply-accumulates"),
    Measure("flops", "FLOP per {item}", COST, -1, formats.large, part="scan_flops", help="operations"),
    Measure("macs_per_token", "MAC per token", COST, -1, formats.large, part="scan_macs_per_token"),
    Measure("images_per_second", "{Items} per second", COST, 1, formats.rate, help="after warm-up"),
    Measure("tokens_per_second", "Tokens per second", COST, 1, formats.rate, help="read, after warm-up"),
    Measure("cold_seconds", "First batch", COST, -1, formats.seconds, help="cold"),
    Measure("trained_parameters", "Trained parameters", COST, -1, formats.large),
    Measure("kept_epoch", "Epoch kept", COST, 0, formats.whole, help="the best on the validation part"),
    Measure("kept_iteration", "Iteration kept", COST, 0, formats.whole, help="the best on the validation part"),
    Measure("train_seconds", "Training time", COST, -1, formats.seconds),
    Measure("seconds_per_iteration", "Iteration", COST, -1, formats.seconds, help="mean over the training"),
    Measure("seconds_per_step", "Step, all trained", COST, 0, formats.seconds, "before freezing", help="median"),
    Measure("seconds_per_step", "Step, some frozen", COST, 0, formats.seconds, "after freezing", help="median"),
    Measure("pretraining_seconds", "Pretraining time", COST, -1, formats.seconds, help="once, shared by strategies"),
    Measure("test_seconds", "Testing time", COST, -1, formats.seconds),
    Measure("peak_memory", "Peak memory", COST, -1, formats.size),
    Measure("peak_memory", "Peak memory, process", COST, 0, formats.size, PROCESS, help="the whole process's"),
)
RATES = ("images_per_second", "tokens_per_second")  # measured in rounds, with their range


def comparison(records: list[Record], task: TaskReport, titles: dict[str, str] | None = None) -> Table:
    """Compare the models of a run by their final numbers.

    Quality is the mean over seeds with its interval over cases and seeds, cost the plain mean. The primary metric comes
    first. The best value of a row is marked unless all values print alike, or no model can be better, as where lengths
    are compared or where the test part has fewer than six cases.

    Args:
        records: of the run; curves (with a step) are left out, and of repeated records the last one counts.
        task: what reports know of the run's task.
        titles: label -> what to call the model, in the order of the columns; models without results show dashes.
    """
    titles = titles or {label: label for label in model_labels(records)}
    values = final_records(records)
    metric = primary_metric(records, task.primary).metric
    measures = [replace(m, label=task.per_pass(m.label)) for m in (*task.measures, *COSTS)]
    measures = sorted(measures, key=lambda measure: measure.metric != metric)
    fewest = min((r.n for label in titles for r in values.get((label, metric, None), {}).values() if r.n), default=None)
    if task.not_compared:
        measures = [replace(measure, better=0) for measure in measures]
    if too_few(fewest, ""):  # then nothing of the quality is the best
        measures = [replace(m, better=0) if m.group == QUALITY else m for m in measures]
    rows = [_row(measure, list(titles), values) for measure in measures]
    decided = any((label, metric, None) in values for label in titles)
    seeds = {len(values.get((label, metric, None), {})) for label in titles}
    notes = []
    if max(seeds, default=0) > 1:
        notes.append(f"Mean of {max(seeds)} seeds; intervals are over test cases and seeds.")
        if len(seeds) > 1:
            counts = [f"{titles[m]} {len(values.get((m, metric, None), {}))}" for m in titles]
            notes.append(f"Not every seed is there: {formats.listing(counts)}.")
    return Table(tuple(titles.values()), tuple(row for row in rows if row), tuple(titles), tuple(notes), decided)


def _row(measure: Measure, labels: list[str], values: Finals) -> Row | None:
    class_ = measure.class_
    if class_ == "*":
        # The positive class is known from the record alone; of more than two classes their mean is shown.
        named = {key[2] for key in values if key[1] == measure.metric}
        class_ = "macro" if len(named) > 1 else next(iter(named), None)
        if class_ == "macro":
            measure = replace(measure, help="mean over classes")
        elif class_ is not None:
            measure = replace(measure, label=f"{measure.label} ({class_})", help=f"{measure.help} {class_}")
    of_model = [list(values.get((label, measure.metric, class_), {}).values()) for label in labels]
    if not any(of_model):
        return None
    cells = [
        _cell(measure, label, found, values, [each for each in of_model if each is not found])
        for label, found in zip(labels, of_model, strict=True)
    ]
    means = [float(np.mean([r.value for r in found])) if found else math.nan for found in of_model]
    return Row(measure.label, measure.group, best_cells(cells, means, measure.better), measure.help)


def _cell(measure: Measure, label: str, found: list[Record], values: Finals, others: list[list[Record]]) -> Cell:
    if not found:
        scans = measure.metric == "tokens" and values.get((label, "scan_macs", None))
        return Cell("not counted" if scans and any(r.value for r in scans.values()) else formats.UNKNOWN)
    numbers = [record.value for record in found]
    mean = float(np.mean(numbers))
    detail = ""
    if measure.part:
        parts = [record.value for record in values.get((label, measure.part, None), {}).values()]
        if parts and mean and np.mean(parts) > 0:
            share = float(np.mean(parts)) / mean
            detail = f"scan {formats.percent(share) if share >= 0.0005 else 'under 0.1 %'}"
    elif measure.interval:
        limits = (0.0, 1.0 if measure.bounded else math.inf)
        _, low, high = interval_of(found, limits, fraction=measure.metric == "accuracy", others=others)
        if math.isfinite(low):
            form = measure.format
            detail = formats.percent_range(low, high) if form is formats.percent else f"[{form(low)}, {form(high)}]"
    elif measure.metric in RATES and len(spreads := [r.spread for r in found if r.spread]) == len(found):
        low, high = min(low for low, _ in spreads), max(high for _, high in spreads)
        detail = f"({formats.rate(low)} to {formats.rate(high)})"
    return Cell(measure.format(mean), detail)
