"""The comparison of a run's models: one table for the terminal and for the page."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.core.statistics import mean_interval, wilson
from ssmlab.reports.deciding import UNITS, deciding, in_passes, task_of, too_few
from ssmlab.reports.run_folder import Finals, final_records, model_labels


@dataclass(frozen=True)
class Cell:
    """What stands in one place of the table: a number, and in `detail` its interval or its parts."""

    value: str
    detail: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        return f"{self.value} {self.detail}".strip()


@dataclass(frozen=True)
class Row:
    """One measure; `cells` in the order of the table's columns, `help` says what it means."""

    label: str
    group: str
    cells: tuple[Cell, ...]
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Models in columns, measures in rows: two or three models then fit a terminal and a phone.

    Args:
        columns: what each model is called; `labels` its name in the records; `notes` what the reader must know.
        decided: whether the first row is the measure that decides, which then stands out.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    decided: bool = True

    @property
    def marked(self) -> bool:
        """Whether any cell is the best of its row."""
        return any(cell.best for row in self.rows for cell in row.cells)

    def unmarked(self, group: str | None = None) -> "Table":
        """The same without a best one, in all rows or in those of a group: where nothing decides which is better."""
        rows = (
            replace(row, cells=tuple(replace(cell, best=False) for cell in row.cells))
            if group in (None, row.group)
            else row
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))


@dataclass(frozen=True)
class _Measure:
    """How a metric becomes a row: `better` is 1 where more is better, -1 where less is, 0 where neither."""

    metric: str
    label: str
    group: str
    better: int
    format: Callable[[float], str]
    class_: str | None = None
    help: str = ""
    part: str | None = None


PROCESS = "process"  # the class of a peak of memory that is not the model's alone
_QUALITY, _COST = "Quality, test part", "Cost"
_MEASURES = (
    _Measure("accuracy", "Accuracy", _QUALITY, 1, formats.percent, help="share classified correctly"),
    _Measure(
        "balanced_accuracy",
        "Balanced accuracy",
        _QUALITY,
        1,
        formats.percent,
        help="mean recall over classes",
    ),
    _Measure("f1", "Macro F1", _QUALITY, 1, formats.percent, "macro", help="mean over classes"),
    _Measure("sensitivity", "Sensitivity", _QUALITY, 1, formats.percent, "*", help="recall of"),
    _Measure("specificity", "Specificity", _QUALITY, 1, formats.percent, "*", help="recall of all but"),
    _Measure("roc_auc", "ROC AUC", _QUALITY, 1, formats.decimal(4), help="area under the ROC curve"),
    *(_Measure(f"bits_per_{unit}", f"Bits per {unit}", _QUALITY, -1, formats.decimal(3)) for unit in UNITS),
    _Measure("perplexity", "Perplexity", _QUALITY, -1, formats.rate, help="exp of the loss"),
    _Measure("token_accuracy", "Next tokens right", _QUALITY, 1, formats.percent, help="share foretold correctly"),
    _Measure("all_right", "Without a mistake", _QUALITY, 1, formats.percent, help="share of whole sequences"),
    _Measure("loss", "Loss", _QUALITY, -1, formats.decimal(3), help="cross-entropy in nats"),
    _Measure("dice", "Dice", _QUALITY, 1, formats.decimal(3), help="overlap; mean over images and classes"),
    _Measure("total_dice", "Dice in total", _QUALITY, 1, formats.decimal(3), help="pixels of all images together"),
    _Measure("iou", "IoU", _QUALITY, 1, formats.decimal(3), help="intersection over union"),
    _Measure("precision", "Precision", _QUALITY, 1, formats.decimal(3), help="share of what is marked that is right"),
    _Measure("recall", "Recall", _QUALITY, 1, formats.decimal(3), help="share of what is there that is marked"),
    _Measure("surface_dice", "Surface Dice", _QUALITY, 1, formats.decimal(3), help="outlines within the tolerance"),
    _Measure("hausdorff95", "95 % Hausdorff", _QUALITY, -1, formats.rate, help="distance of outlines"),
    *(
        _Measure(f"base_bits_per_{unit}", "Old task", _QUALITY, -1, formats.decimal(3), help=f"bits per {unit}")
        for unit in UNITS
    ),
    *(_Measure(f"forgotten_bits_per_{unit}", "Forgotten", _QUALITY, -1, formats.decimal(3)) for unit in UNITS),
    _Measure("base_accuracy", "Old task", _QUALITY, 1, formats.percent, help="accuracy, with its own head"),
    _Measure("forgotten_accuracy", "Forgotten", _QUALITY, -1, formats.percent, help="accuracy lost since"),
    _Measure("tokens", "Tokens", _COST, 0, formats.whole, help="positions that are scanned"),
    _Measure("parameters", "Parameters", _COST, -1, formats.large),
    _Measure("macs", "MAC per image", _COST, -1, formats.large, part="scan_macs", help="multiply-accumulates"),
    _Measure("flops", "FLOP per image", _COST, -1, formats.large, part="scan_flops", help="operations"),
    _Measure("macs_per_token", "MAC per token", _COST, -1, formats.large, part="scan_macs_per_token"),
    _Measure("images_per_second", "Images per second", _COST, 1, formats.rate, help="after warm-up"),
    _Measure("tokens_per_second", "Tokens per second", _COST, 1, formats.rate, help="read, after warm-up"),
    _Measure("cold_seconds", "First batch", _COST, -1, formats.seconds, help="cold"),
    _Measure("trained_parameters", "Trained parameters", _COST, -1, formats.large),
    _Measure("kept_epoch", "Epoch kept", _COST, 0, formats.whole, help="the best on the validation part"),
    _Measure("kept_iteration", "Iteration kept", _COST, 0, formats.whole, help="the best on the validation part"),
    _Measure("train_seconds", "Training time", _COST, -1, formats.seconds),
    _Measure("seconds_per_iteration", "Iteration", _COST, -1, formats.seconds, help="mean over the training"),
    _Measure("seconds_per_step", "Step, all trained", _COST, 0, formats.seconds, "before freezing", help="median"),
    _Measure("seconds_per_step", "Step, some frozen", _COST, 0, formats.seconds, "after freezing", help="median"),
    _Measure("pretraining_seconds", "Pretraining time", _COST, -1, formats.seconds, help="once, shared by strategies"),
    _Measure("test_seconds", "Testing time", _COST, -1, formats.seconds),
    _Measure("peak_memory", "Peak memory", _COST, -1, formats.size),
    _Measure("peak_memory", "Peak memory, process", _COST, 0, formats.size, PROCESS, help="the whole process's"),
)
_FRACTIONS = ("accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity", "roc_auc")
_SHARES = ("dice", "total_dice", "iou", "precision", "recall", "surface_dice")
_INTERVALS = (*_FRACTIONS, *_SHARES, "hausdorff95", *(f"bits_per_{unit}" for unit in UNITS))
_RATES = ("images_per_second", "tokens_per_second")


def comparison(records: list[Record], titles: dict[str, str] | None = None) -> Table:
    """Compare the models of a run by their final numbers.

    With one seed, the accuracy carries its Wilson interval; with several, quality is the mean with Student's t interval
    over seeds and cost the plain mean. The measure that decides comes first. The best value of a row is marked unless
    all values print alike, or no model can be better, as where lengths are compared or where the test part has fewer
    than six cases.

    Args:
        records: of the run; curves (with a step) are left out, and of repeated records the last one counts.
        titles: label -> what to call the model, in the order of the columns; models without results show dashes.
    """
    titles = titles or {label: label for label in model_labels(records)}
    values = final_records(records)
    metric, task = deciding(records).metric, task_of(records)
    measures = sorted((_for_task(measure, task) for measure in _MEASURES), key=lambda m: m.metric != metric)
    fewest = min((r.n for label in titles for r in values.get((label, metric, None), {}).values() if r.n), default=None)
    if too_few(fewest, ""):  # then nothing of the quality is the best
        measures = [replace(m, better=0) if m.group == _QUALITY else m for m in measures]
    rows = [_row(measure, list(titles), values) for measure in measures]
    decided = any((label, metric, None) in values for label in titles)
    seeds = {len(values.get((label, metric, None), {})) for label in titles}
    notes = []
    if max(seeds, default=0) > 1:
        notes.append(f"Mean of {max(seeds)} seeds; intervals are Student's t over seeds.")
        if len(seeds) > 1:
            counts = [f"{titles[m]} {len(values.get((m, metric, None), {}))}" for m in titles]
            notes.append(f"Not every seed is there: {formats.listing(counts)}.")
    return Table(tuple(titles.values()), tuple(row for row in rows if row), tuple(titles), tuple(notes), decided)


def to_rich(table: Table, which: slice = slice(None)):
    """The table for the terminal, or some of its models; best values are bold and carry a dot: colour is not needed."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as RichTable

    # Narrow on purpose: two models with their intervals fit 80 columns.
    caption = "\n".join((*table.notes, *(["● best of the row"] if table.marked else [])))
    rich = RichTable(box=SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    rich.add_column("", no_wrap=True)
    for column in table.columns[which]:
        rich.add_column(escape(column), justify="right")
    group = None
    for row in table.rows:
        if row.group != group:
            group = row.group
            rich.add_row(f"[dim]{escape(group)}[/dim]")
        marked = [("[bold green]● {}[/]" if cell.best else "{}").format(escape(cell.text)) for cell in row.cells[which]]
        rich.add_row(escape(row.label), *marked)
    return rich


def _for_task(measure: _Measure, task: str | None) -> _Measure:
    """A measure in the words of a task; where lengths are compared no model is better."""
    better = 0 if task == "scaling" else measure.better
    return replace(measure, label=in_passes(measure.label, task), better=better)


def _row(measure: _Measure, labels: list[str], values: Finals) -> Row | None:
    class_ = measure.class_
    if class_ == "*":
        # The positive class is known from the record alone.
        class_ = next((key[2] for key in values if key[1] == measure.metric), None)
        if class_ is not None:
            measure = replace(measure, label=f"{measure.label} ({class_})", help=f"{measure.help} {class_}")
    of_model = [list(values.get((label, measure.metric, class_), {}).values()) for label in labels]
    if not any(of_model):
        return None
    cells = [_cell(measure, label, found, values) for label, found in zip(labels, of_model, strict=True)]
    means = [float(np.mean([r.value for r in found])) if found else math.nan for found in of_model]
    best = _best(measure, means, cells)
    marked = tuple(replace(cell, best=i in best) for i, cell in enumerate(cells))
    return Row(measure.label, measure.group, marked, measure.help)


def _best(measure: _Measure, means: list[float], cells: list[Cell]) -> set[int]:
    finite = [i for i, mean in enumerate(means) if math.isfinite(mean)]
    if not measure.better or len(finite) < 2 or len({cells[i].value for i in finite}) == 1:
        return set()
    top = max(finite, key=lambda i: measure.better * means[i])
    return {i for i in finite if cells[i].value == cells[top].value}


def _cell(measure: _Measure, label: str, found: list[Record], values: Finals) -> Cell:
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
    elif measure.metric in _INTERVALS:
        detail = _interval(measure, found, numbers)
    elif measure.metric in _RATES and all(record.spread for record in found):
        low, high = min(r.spread[0] for r in found), max(r.spread[1] for r in found)
        detail = f"({formats.rate(low)} to {formats.rate(high)})"
    return Cell(measure.format(mean), detail)


def _interval(measure: _Measure, found: list[Record], numbers: list[float]) -> str:
    if len(found) > 1:
        _, low, high = mean_interval(numbers)
        low, high = max(low, 0.0), min(high, 1.0) if measure.metric in (*_FRACTIONS, *_SHARES) else high
    elif found[0].spread:
        low, high = found[0].spread
    elif measure.metric == "accuracy" and found[0].n and math.isfinite(numbers[0]):
        low, high = wilson(round(numbers[0] * found[0].n), found[0].n)
    else:
        return ""
    if measure.format is formats.percent:
        return formats.percent_range(low, high)
    return f"[{measure.format(low)}, {measure.format(high)}]"
