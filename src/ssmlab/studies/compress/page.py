"""The files of `ssmlab compress`: records, table, plots and one self-contained page."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ssmlab.core import formats
from ssmlab.core.files import write_atomically, write_records
from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp
from ssmlab.reports import theme
from ssmlab.reports.deciding import too_few
from ssmlab.reports.markup import Html, definitions, document, el
from ssmlab.reports.plots import Plot
from ssmlab.reports.sections import figure, named
from ssmlab.reports.table_html import to_html
from ssmlab.reports.tables import Cell, Row, Table
from ssmlab.studies.compare.subjects import Subject
from ssmlab.studies.compare.table import LEGEND, to_markdown
from ssmlab.studies.compress.compression import AFTER, BEFORE, DENSE, write_mark
from ssmlab.studies.compress.kinds import Terms

FACTORISATION = (
    "Each layer's weight W (m x n) becomes P Q of rank r from its singular values, r (m + n) weights and as many "
    "multiply-accumulates a position. The energy is the share of the squared norm of W that P Q keeps; the energy rule "
    "takes the least r with |W - PQ|^2 <= (1 - energy) |W|^2. A budget of operations (flops) is spent on the "
    "directions with the most energy per multiply-accumulate, over all layers."
)
QUALITY = "Quality, test part"
INPUTS = {"image": "Batches of noise", "token": "Rows of random tokens"}


def method(result: "Result") -> list[tuple[str, str]]:
    """How the numbers were made."""
    item = result.terms.item
    return [
        ("Factorisation", FACTORISATION),
        ("Operations", f"Of one {item}, scans included. One multiply-accumulate (MAC) is two operations (FLOP)."),
        (
            "Speed",
            f"{INPUTS[item]}, float32, without reading files; in every round each model has its turn. The median of n "
            "rounds, in parentheses the slowest and the fastest.",
        ),
        (
            "Quality",
            "On the test part, in brackets the 95 % interval. Fine-tuning trains all parameters, P and Q among them, "
            "of every model alike, the dense one too.",
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the command found.

    Args:
        spectra: by layer, the share of the energy of every direction, the largest first.
        replaced: by model, what was replaced. unmeasured: why there is no quality, or None.
        settings: the options as they were used. stamp: the circumstances.
        doubt: why the dense model's numbers decide nothing, see `reports.caveats.doubt`.
    """

    folder: Path
    subject: Subject
    terms: Terms
    records: list[Record]
    spectra: dict[str, list[float]]
    replaced: dict[str, list]
    unmeasured: str | None
    settings: dict
    stamp: Stamp
    started: str
    finished: str
    doubt: str = ""

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

    def cost(self, label: str) -> float:
        """Multiply-accumulates of an item."""
        return self.value(label, f"macs{self.terms.suffix}") or 0.0

    @property
    def answer(self) -> str:
        """One sentence: the lightest model that is not worse than the dense one, else what is saved at most."""
        terms, dense = self.terms, self.cost(DENSE) or 1
        name, text = terms.quality[terms.decides]
        when = AFTER if self.value(DENSE, terms.decides, AFTER) is not None else BEFORE
        record = self.found.get((DENSE, terms.decides, when))
        if record is None:
            least = min(self.labels[1:], key=self.cost)
            return f"{least} has {formats.percent(self.cost(least) / dense)} of the dense model's multiply-accumulates"
        if self.doubt:
            return f"No verdict: {self.doubt}"
        if few := too_few(record.n, f"{terms.item}s"):
            return f"No verdict: {few}"
        found = {label: self.found[label, terms.decides, when].value for label in self.labels}
        low, high = record.spread or (record.value, record.value)
        bound = low if terms.higher else high
        good = [label for label in self.labels[1:] if terms.better(found[label], bound)]
        if not good:
            return f"every setting is worse than the dense model's interval ({text(bound)})"
        best = min(good, key=self.cost)
        return (
            f"{best} has {formats.percent(self.cost(best) / dense)} of the multiply-accumulates and "
            f"{text(found[best])} {name.lower()}, dense {text(found[DENSE])}"
        )


def _table(result: Result) -> Table:
    terms, many = result.terms, f"batch {result.settings['batch']}"
    item, cost = f"{terms.item.capitalize()}s/s", f"Cost of one {terms.item}"

    def row(group: str, name: str, metric: str, text: Callable, class_: str | None = None) -> Row | None:
        return _row(result, group, name, metric, text, class_)

    rows = [
        _ranks(result),
        _energies(result),
        _weights(result),
        row(cost, "Parameters", "parameters", formats.large),
        row(cost, "MAC", f"macs{terms.suffix}", formats.large),
        row(cost, "of which scan", f"scan_macs{terms.suffix}", formats.large),
        row(cost, "FLOP", f"flops{terms.suffix}", formats.large),
        row("Speed", f"{item}, {many}", terms.speed, formats.rate, many),
        row("Speed", "Latency, median", "latency", formats.seconds, "percentile 50"),
        row("Speed", f"Training {item.lower()}, {many}", terms.train_speed, formats.rate, many),
        *(
            row(QUALITY, f"{name} {when}", metric, text, when)
            for when in (BEFORE, AFTER)
            for metric, (name, text) in terms.quality.items()
        ),
        row(QUALITY, "Fine-tuning", "train_seconds", formats.seconds),
    ]
    if result.unmeasured:
        cells = tuple(Cell("not measured", result.unmeasured if label == DENSE else "") for label in result.labels)
        rows.append(Row(terms.quality[terms.decides][0], QUALITY, cells))
    return Table(tuple(result.labels), tuple(row for row in rows if row), tuple(result.labels), ())


def _row(result: Result, group: str, name: str, metric: str, text: Callable, class_: str | None = None) -> Row | None:
    records = [result.found.get((label, metric, class_)) for label in result.labels]
    if not any(records):
        return None
    return Row(
        name, group, tuple(Cell(text(r.value), _detail(r, text)) if r else Cell(formats.UNKNOWN) for r in records)
    )


def _detail(record: Record, text: Callable) -> str:
    if record.spread is None:
        return ""
    if record.unit == "fraction":
        return formats.percent_range(*record.spread)
    low, high = map(text, record.spread)
    return f"[{low}, {high}]" if record.split == "test" else f"({low} to {high}, n {record.n})"


def _weights(result: Result) -> Row:
    dense = sum(layer.dense for layer in result.replaced[result.labels[1]])
    counts = [dense, *(sum(x.parameters for x in result.replaced[label]) for label in result.labels[1:])]
    return Row("Their weights", "Layers", tuple(Cell(formats.large(count)) for count in counts))


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


def quality_plot(result: Result) -> Plot | None:
    """The deciding metric against multiply-accumulates, before and after fine-tuning."""
    terms, lines = result.terms, {}
    name, text = terms.quality[terms.decides]
    for when in (BEFORE, AFTER):
        spots = [
            (result.cost(label), result.found[label, terms.decides, when])
            for label in result.labels
            if (label, terms.decides, when) in result.found
        ]
        if spots:
            lines[when] = sorted(spots, key=lambda spot: spot[0])
    if not lines:
        return None
    factor, unit = (100, ", %") if lines[next(iter(lines))][0][1].unit == "fraction" else (1, "")

    def paint(picture):
        axes = picture.add_subplot()
        for i, (when, spots) in enumerate(lines.items()):
            x = [macs for macs, _ in spots]
            y = np.array([record.value for _, record in spots])
            gaps = np.abs(np.array([record.spread or (record.value,) * 2 for _, record in spots]).T - y)
            look = {"color": theme.colour(i), "marker": theme.marker(i), "label": when, "capsize": 0, "elinewidth": 0.8}
            axes.errorbar(x, factor * y, yerr=factor * gaps, **look)
        axes.xaxis.set_major_formatter(lambda value, _: formats.large(value))
        axes.set(xlabel=f"multiply-accumulates of one {terms.item}", title=f"{name} on the test part{unit}")
        axes.legend(loc="lower right" if terms.higher else "upper right")

    caption = "; ".join(f"{when}: " + ", ".join(text(r.value) for _, r in spots) for when, spots in lines.items())
    caption = f"From the fewest operations to the dense model {caption}. Bars are 95 % intervals."
    return Plot("quality", theme.draw((420, 260), paint, "quality"), f"{name} by operations. {caption}", caption)


def write_result(result: Result) -> Path:
    """Write everything, each file in one step, the page last."""
    folder = result.folder
    circumstances = {key: getattr(result.stamp, key) for key in ("command", "commit", "machine", "versions")}
    layers = {label: [vars(each) for each in found] for label, found in result.replaced.items()}
    content = {"model": str(result.subject.folder or result.subject.name), "settings": result.settings}
    content |= {"doubt": result.doubt, "layers": layers, **circumstances}
    write_mark(folder, content | {"started": result.started, "finished": result.finished})
    write_records(folder / "records.jsonl", result.records)
    head = ["# ssmlab compress", "", f"{result.subject.title}: {result.answer}.", ""]
    facts = [f"- {key}: {value}" for key, value in circumstances.items()]
    write_atomically(folder / "table.md", "\n".join([*head, *facts, "", to_markdown(result.table)]))
    plots = [plot for plot in (quality_plot(result), spectrum_plot(result)) if plot is not None]
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
        el("section", el("div", to_html(result.table, names, caption=LEGEND), class_="card"), class_="top single"),
        el("section", el("h2", "By rank"), el("div", [figure(plot) for plot in plots], class_="grid")),
        el("section", el("h2", "Layers"), el("div", _layers(result), class_="card")),
        el("section", el("h2", "How these numbers were made"), el("div", definitions(method(result)), class_="card")),
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
