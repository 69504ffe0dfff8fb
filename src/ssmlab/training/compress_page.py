"""The files of `ssmlab compress`: records, table, plots and one self-contained page."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ssmlab.reports import formats, theme
from ssmlab.reports.intervals import wilson
from ssmlab.reports.markup import Html, definitions, document, el
from ssmlab.reports.plots import Plot
from ssmlab.reports.record import Record
from ssmlab.reports.sections import figure, named
from ssmlab.reports.tables import Cell, Row, Table
from ssmlab.training.checkpoints import write_atomically
from ssmlab.training.compare.subjects import Subject
from ssmlab.training.compare.table import to_html, to_markdown
from ssmlab.training.compress import AFTER, BEFORE, DENSE, write_mark
from ssmlab.training.environment import Stamp
from ssmlab.training.outputs import write_records

METHOD = (
    (
        "Factorisation",
        "Each layer's weight W (m x n) becomes P Q of rank r from its singular values, r (m + n) weights and as many "
        "multiply-accumulates a position. The energy is the share of the squared norm of W that P Q keeps; the energy "
        "rule takes the least r with |W - PQ|^2 <= (1 - energy) |W|^2. A budget of operations (flops) is spent on the "
        "directions with the most energy per multiply-accumulate, over all layers.",
    ),
    ("Operations", "Of one image, scans included. One multiply-accumulate (MAC) is two operations (FLOP)."),
    (
        "Speed",
        "Batches of noise, float32, without reading files; in every round each model has its turn. The median of n "
        "rounds, in parentheses the slowest and the fastest.",
    ),
    (
        "Accuracy",
        "On the test part. Fine-tuning trains all parameters, P and Q among them, of every model alike, the dense one "
        "too.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the command found.

    Args:
        spectra: by layer, the share of the energy of every direction, the largest first.
        replaced: by model, what was replaced. unmeasured: why there is no accuracy, or None.
        settings: the options as they were used. stamp: the circumstances.
    """

    folder: Path
    subject: Subject
    records: list[Record]
    spectra: dict[str, list[float]]
    replaced: dict[str, list]
    unmeasured: str | None
    settings: dict
    stamp: Stamp
    started: str
    finished: str

    @cached_property
    def found(self) -> dict[tuple[str, str, str | None], Record]:
        return {(r.model, r.metric, r.class_): r for r in self.records}

    def value(self, label: str, metric: str, class_: str | None = None) -> float | None:
        """A number of a model, or None."""
        record = self.found.get((label, metric, class_))
        return None if record is None else record.value

    @property
    def labels(self) -> list[str]:
        return list(self.replaced)

    @cached_property
    def table(self) -> Table:
        return _table(self)

    @property
    def answer(self) -> str:
        """One sentence: the lightest model that is not less accurate than the dense one, else what is saved at most."""
        dense = self.value(DENSE, "macs") or 1
        when = AFTER if self.value(DENSE, "accuracy", AFTER) is not None else BEFORE
        accuracy = {label: self.value(label, "accuracy", when) for label in self.labels}
        least = min(self.labels[1:], key=lambda label: self.value(label, "macs") or 0)
        if accuracy[DENSE] is None:
            share = (self.value(least, "macs") or 0) / dense
            return f"{least} has {formats.percent(share)} of the dense model's multiply-accumulates"
        record = self.found[DENSE, "accuracy", when]
        low, _ = wilson(round(record.value * record.n), record.n)
        good = [label for label in self.labels[1:] if (accuracy[label] or 0) >= low]
        if not good:
            return f"every setting falls below the dense model's interval ({formats.percent(low)})"
        best = min(good, key=lambda label: self.value(label, "macs") or 0)
        share = (self.value(best, "macs") or 0) / dense
        return (
            f"{best} has {formats.percent(share)} of the multiply-accumulates and {formats.percent(accuracy[best])} "
            f"accuracy, dense {formats.percent(accuracy[DENSE])}"
        )


def _table(result: Result) -> Table:
    many = f"batch {result.settings['batch']}"
    rows = [
        _ranks(result),
        _energies(result),
        _row(result, "Layers", "Their weights", None, formats.large, value=_weights),
        _row(result, "Cost of one image", "Parameters", "parameters", formats.large),
        _row(result, "Cost of one image", "MAC", "macs", formats.large),
        _row(result, "Cost of one image", "of which scan", "scan_macs", formats.large),
        _row(result, "Cost of one image", "FLOP", "flops", formats.large),
        _row(result, "Speed", f"Images/s, {many}", "images_per_second", formats.rate, many),
        _row(result, "Speed", "Latency, median", "latency", formats.seconds, "percentile 50"),
        _row(result, "Speed", f"Training images/s, {many}", "train_images_per_second", formats.rate, many),
        _row(result, "Quality, test part", "Accuracy before fine-tuning", "accuracy", formats.percent, BEFORE),
        _row(result, "Quality, test part", "Accuracy after fine-tuning", "accuracy", formats.percent, AFTER),
        _row(result, "Quality, test part", "Fine-tuning", "train_seconds", formats.seconds),
    ]
    if result.unmeasured:
        cells = tuple(Cell("not measured", result.unmeasured if label == DENSE else "") for label in result.labels)
        rows.append(Row("Accuracy", "Quality, test part", cells))
    return Table(tuple(result.labels), tuple(row for row in rows if row), tuple(result.labels), ())


def _row(
    result: Result, group: str, name: str, metric: str | None, text: Callable, class_: str | None = None, value=None
) -> Row | None:
    cells = []
    for label in result.labels:
        record = result.found.get((label, metric, class_)) if metric else None
        number = value(result, label) if value else record.value if record else None
        cells.append(Cell(formats.UNKNOWN) if number is None else Cell(text(number), _detail(record, text)))
    return Row(name, group, tuple(cells)) if any(cell.value != formats.UNKNOWN for cell in cells) else None


def _detail(record: Record | None, text: Callable) -> str:
    if record is None or (record.metric != "accuracy" and record.spread is None):
        return ""
    if record.metric == "accuracy":
        return formats.percent_range(*wilson(round(record.value * record.n), record.n))
    return f"({text(record.spread[0])} to {text(record.spread[1])}, n {record.n})"


def _weights(result: Result, label: str) -> float:
    layers = result.replaced[label]
    return sum(x.parameters for x in layers) if layers else sum(x.dense for x in result.replaced[result.labels[1]])


def _ranks(result: Result) -> Row:
    full = Cell("full")
    cells = [full]
    for label in result.labels[1:]:
        ranks = [x.rank for x in result.replaced[label]]
        side = max(x.residual_rank for x in result.replaced[label])
        text = f"{min(ranks)}" if len(set(ranks)) == 1 else f"{min(ranks)} to {max(ranks)}"
        cells.append(Cell(text, f"+ {side}" if side else ""))
    return Row(f"Rank of {formats.plural(len(result.spectra), 'layer')}", "Layers", tuple(cells))


def _energies(result: Result) -> Row:
    kept = [[x.energy for x in result.replaced[label]] for label in result.labels[1:]]
    cells = [Cell(formats.percent(min(each)), f"to {formats.percent(max(each))}") for each in kept]
    return Row("Energy kept", "Layers", (Cell(formats.percent(1)), *cells))


def spectrum_plot(result: Result) -> Plot:
    """What is lost by cutting after r directions, of every layer."""

    def paint(picture):
        axes = picture.add_subplot()
        count = len(result.spectra)
        for i, shares in enumerate(result.spectra.values()):
            rest = np.clip(1 - np.cumsum(shares), 1e-9, None)
            ranks = np.arange(1, len(shares) + 1) / len(shares)
            axes.plot(ranks[:-1], rest[:-1], color=theme.colour(0), alpha=0.25 + 0.75 * (i + 1) / count, linewidth=1.3)
        axes.set(xlabel="rank, as a share of the full rank", title="Energy lost", ylim=(1e-4, 1.2), yscale="log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.yaxis.set_minor_formatter(lambda value, _: "")

    def half(shares):
        return int(np.searchsorted(np.cumsum(shares), 0.9)) + 1

    needed = {name: half(shares) / len(shares) for name, shares in result.spectra.items()}
    low, high = min(needed, key=needed.get), max(needed, key=needed.get)
    caption = (
        f"Each line is a layer, darker towards the output. 90 % of the energy takes {formats.percent(needed[low], 0)} "
        f"of the directions in {low} and {formats.percent(needed[high], 0)} in {high}."
    )
    return Plot("spectrum", theme.draw((420, 260), paint, "spectrum"), f"Singular spectra. {caption}", caption)


def accuracy_plot(result: Result) -> Plot | None:
    """Accuracy against multiply-accumulates, before and after fine-tuning."""
    lines = {}
    for when in (BEFORE, AFTER):
        spots = [
            (macs, result.found[label, "accuracy", when])
            for label in result.labels
            if (label, "accuracy", when) in result.found and (macs := result.value(label, "macs"))
        ]
        if spots:
            lines[when] = sorted(spots, key=lambda spot: spot[0])
    if not lines:
        return None

    def paint(picture):
        axes = picture.add_subplot()
        for i, (when, spots) in enumerate(lines.items()):
            x = [macs for macs, _ in spots]
            y = np.array([record.value for _, record in spots])
            bounds = np.array([wilson(round(r.value * r.n), r.n) for _, r in spots])
            gaps = np.abs(bounds.T - y)
            look = {"color": theme.colour(i), "marker": theme.marker(i), "label": when, "capsize": 0, "elinewidth": 0.8}
            axes.errorbar(x, 100 * y, yerr=100 * gaps, **look)
        axes.xaxis.set_major_formatter(lambda value, _: formats.large(value))
        axes.set(xlabel="multiply-accumulates of one image", title="Test accuracy, %")
        axes.legend(loc="lower right")

    caption = "; ".join(
        f"{when}: " + ", ".join(formats.percent(r.value) for _, r in spots) for when, spots in lines.items()
    )
    text = f"From the fewest operations to the dense model {caption}. Bars are 95 % intervals."
    return Plot("accuracy", theme.draw((420, 260), paint, "accuracy"), f"Accuracy by operations. {text}", text)


def write_result(result: Result) -> Path:
    """Write everything, each file in one step, the page last."""
    folder = result.folder
    circumstances = {key: getattr(result.stamp, key) for key in ("command", "commit", "machine", "versions")}
    layers = {label: [vars(each) for each in found] for label, found in result.replaced.items()}
    content = {"model": str(result.subject.folder or result.subject.name), "settings": result.settings}
    write_mark(
        folder, content | {"layers": layers, **circumstances, "started": result.started, "finished": result.finished}
    )
    write_records(folder / "records.jsonl", result.records)
    head = ["# ssmlab compress", "", f"{result.subject.title}: {result.answer}.", ""]
    facts = [f"- {key}: {value}" for key, value in circumstances.items()]
    write_atomically(folder / "table.md", "\n".join([*head, *facts, "", to_markdown(result.table)]))
    plots = [plot for plot in (accuracy_plot(result), spectrum_plot(result)) if plot is not None]
    for plot in plots:
        write_atomically(folder / "plots" / f"{plot.name}.svg", plot.svg)
    write_atomically(folder / "report.html", page(result, plots))
    return folder / "report.html"


def page(result: Result, plots: list[Plot]) -> str:
    """The page's text."""
    names = [named(i, label) for i, label in enumerate(result.labels)]
    set_ = {key: value for key, value in result.settings.items() if value not in (None, "", (), 0)}
    facts = [
        ("Model", f"{result.subject.name}, weights {result.subject.state}"),
        ("Settings", ", ".join(f"{key} {json.dumps(value)}" for key, value in set_.items())),
        ("Command", result.stamp.command or ""),
        ("Machine", result.stamp.machine),
        ("Versions", result.stamp.versions),
        ("Started, finished", f"{result.started}, {result.finished}"),
    ]
    body = el(
        "main",
        el(
            "header",
            el("p", f"ssmlab compress · {result.folder.name}", class_="eyebrow"),
            el("h1", f"{result.subject.title}, factorised"),
            el("p", el("strong", result.answer), ".", class_="answer"),
        ),
        el("section", el("div", to_html(result.table, names), class_="card"), class_="top single"),
        el("section", el("h2", "By rank"), el("div", [figure(plot) for plot in plots], class_="grid")),
        el("section", el("h2", "Layers"), el("div", _layers(result), class_="card")),
        el("section", el("h2", "How these numbers were made"), el("div", definitions(METHOD), class_="card")),
        el("section", el("h2", "Model, settings, machine"), el("div", definitions(facts), class_="card")),
        el("footer", "Made by ssmlab; the numbers are in records.jsonl, the table in table.md."),
    )
    return document(f"{result.subject.title} – ssmlab compress", body)


def _layers(result: Result) -> Html:
    """Every layer's rank and energy in every model."""
    head = el(
        "tr", el("th", "Layer", scope="col", class_="left"), [el("th", m, scope="col") for m in result.labels[1:]]
    )
    rows = []
    for i, name in enumerate(result.spectra):
        found = [result.replaced[label][i] for label in result.labels[1:]]
        cells = [el("td", f"{x.rank + x.residual_rank} ({formats.percent(x.energy)})") for x in found]
        rows.append(el("tr", el("th", name, scope="row"), cells))
    table = el("table", el("caption", "Rank and energy kept"), el("thead", head), el("tbody", rows), class_="wide")
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label="Ranks of every layer")
