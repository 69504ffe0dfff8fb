"""Numbers against the length of the sequence: records whose class is "length <tokens>"."""

from dataclasses import dataclass

import numpy as np

from ssmlab.core import formats
from ssmlab.reports import theme
from ssmlab.reports.markup import Html, el
from ssmlab.reports.plots import Plot, log_axis
from ssmlab.reports.run_folder import Run
from ssmlab.reports.tables import plain_table

PREFIX = "length "
# what is drawn: metric, title, how a number is written
METRICS = (
    ("prefill_seconds", "Reading a prompt, time", formats.seconds),
    ("prefill_memory", "Reading a prompt, memory", formats.size),
    ("training_step_seconds", "A training step, time", formats.seconds),
    ("training_step_memory", "A training step, memory", formats.size),
    ("decoding_seconds", "Writing a token, time", formats.seconds),
    ("decoding_memory", "State after writing, memory", formats.size),
    ("accuracy", "Accuracy at other lengths", formats.percent),
)


@dataclass(frozen=True)
class Series:
    """A model's values by length, over seeds the mean; `measured` is False where a value was extrapolated."""

    label: str
    lengths: tuple[int, ...]
    values: tuple[float, ...]
    measured: tuple[bool, ...]


def series(run: Run, metric: str) -> list[Series]:
    """A metric of every model that has it, in the order of the recipe, the shortest length first."""
    found = []
    for label in run.labels:
        points: dict[int, tuple[float, bool]] = {}
        for (model, name, class_), by_seed in run.finals.items():
            if model == label and name == metric and class_ and class_.startswith(PREFIX):
                records = list(by_seed.values())
                value = float(np.mean([record.value for record in records]))
                points[int(class_.removeprefix(PREFIX))] = value, all(record.n != 0 for record in records)
        if points:
            order = sorted(points)
            values, measured = zip(*(points[length] for length in order), strict=True)
            found.append(Series(label, tuple(order), values, measured))
    return found


def plots(run: Run) -> list[Plot]:
    """One plot a metric: both axes logarithmic, but shares."""
    made = []
    for metric, title, text in METRICS:
        lines = series(run, metric)
        if lines:
            made.append(_plot(run, metric, title, text, lines))
    return made


def _plot(run: Run, metric: str, title: str, text, lines: list[Series]) -> Plot:
    share = metric == "accuracy"

    def paint(figure):
        axes = figure.add_subplot()
        for line in lines:
            index = run.labels.index(line.label)
            x, y = np.array(line.lengths), np.array(line.values) * (100 if share else 1)
            known = int(sum(line.measured))
            look = {"color": theme.colour(index), "linewidth": 1.8}
            axes.plot(x[:known], y[:known], marker=theme.marker(index), markersize=5, **look)
            if known < len(x):
                start = max(known - 1, 0)
                axes.plot(x[start:], y[start:], linestyle=(0, (4, 2)), **look)
        log_axis(axes.xaxis, axes.set_xscale, formats.whole, binary=True)
        if share:
            axes.set_ylim(-3, 103)
        else:
            log_axis(axes.yaxis, axes.set_yscale, text, binary=text is formats.size)
            low, high = axes.get_ylim()
            if high < 2 * low:  # hardly anything changes, and that is what the plot should look like
                axes.set_ylim(low / 1.5, high * 1.5)
        axes.set(xlabel="length, tokens", title=f"{title}, %" if share else title)

    ends = [f"{run.titles[s.label]} {text(s.values[-1])} at {s.lengths[-1]:,}" for s in lines]
    dashed = any(not all(s.measured) for s in lines)
    caption = f"{'; '.join(ends)}.{' Dashed: extrapolated.' if dashed else ''}"
    return Plot(f"length-{metric}", theme.draw((380, 260), paint, metric), f"{title} by length. {caption}", caption)


def tables(run: Run) -> Html | None:
    """The same numbers in a table; extrapolated ones are in brackets."""
    boxes = []
    for metric, title, text in METRICS:
        lines = series(run, metric)
        if not lines:
            continue
        lengths = sorted({length for line in lines for length in line.lengths})
        rows = []
        for length in lengths:
            cells = []
            for line in lines:
                i = line.lengths.index(length) if length in line.lengths else None
                value = formats.UNKNOWN if i is None else text(line.values[i])
                cells.append(value if i is None or line.measured[i] else f"[{value}]")
            rows.append((f"{length:,}", cells))
        names = [run.titles[line.label] for line in lines]
        table = plain_table("Tokens", names, rows, caption=title, class_="wide wrapped")
        boxes.append(el("div", el("div", table, class_="scroll", tabindex="0"), class_="card"))
    return el("div", boxes, class_="grid") if boxes else None
