"""Curves against seconds of optimisation, where models take different times for an update."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ssmlab.core import formats
from ssmlab.reports import theme
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.run_folder import Run
from ssmlab.reports.sections import figure, legend


class Curve(NamedTuple):
    """A metric that is drawn.

    split: "train" or "val". title: of the plot. text: how a value is written.
    """

    metric: str
    split: str
    title: str
    text: Callable[[float], str] = formats.decimal(3)


def against_seconds(run: Run, metric: str, split: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By model a curve a seed, seconds and values.

    Seconds are those that were recorded at these steps, else the steps' share of the training's.
    """
    values: dict[tuple, dict[int, float]] = {}
    seconds: dict[tuple, dict[int, float]] = {}
    for record in run.records:
        if record.step is not None and record.split == split and record.metric in (metric, "seconds"):
            found = seconds if record.metric == "seconds" else values
            found.setdefault((record.model, record.seed), {})[record.step] = record.value
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for (label, seed), points in values.items():
        times = seconds.get((label, seed), {})
        whole = run.finals.get((label, "train_seconds", None), {}).get(seed)
        if not times and whole and whole.n:
            times = {step: step * whole.value / whole.n for step in points}
        steps = sorted(step for step in points if step in times and np.isfinite(points[step]))
        if steps and label in run.titles:
            x, y = np.array([times[step] for step in steps]), np.array([points[step] for step in steps])
            curves.setdefault(label, []).append((x, y))
    return curves


def plots(run: Run, curves: Sequence[Curve], note: str) -> list[Plot]:
    """A plot of every metric that is there; `note` ends the captions."""
    made = []
    for curve in curves:
        lines = against_seconds(run, curve.metric, curve.split)
        if lines:
            made.append(_plot(run, curve, lines, note))
    return made


def _plot(run: Run, curve: Curve, curves: dict[str, list[tuple[np.ndarray, np.ndarray]]], note: str) -> Plot:
    def paint(figure):
        axes = figure.add_subplot()
        for label, lines in curves.items():
            index = run.labels.index(label)
            for x, y in lines:
                few = len(x) <= 40
                look = {"color": theme.colour(index), "alpha": 1 if len(lines) == 1 else 0.6}
                axes.plot(x, y, linewidth=1.6, marker=theme.marker(index) if few else None, markersize=4, **look)
        axes.set(xlabel="seconds of optimisation", title=curve.title)
        axes.margins(x=0.02)

    ends = [
        f"{run.titles[label]} {curve.text(float(np.mean([y[-1] for _, y in lines])))} after "
        f"{formats.seconds(float(np.mean([x[-1] for x, _ in lines])))}"
        for label, lines in curves.items()
    ]
    caption = f"Last values: {'; '.join(ends)}. {note}"
    name = f"seconds-{curve.metric}"
    drawing = theme.draw((380, 240), paint, f"s{curve.metric}")
    return Plot(name, drawing, f"{curve.title} by seconds. {caption}", caption)


def section(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """The section of these plots."""
    found = [figure(plot) for name, plot in drawn.items() if name.startswith("seconds-")]
    return join([legend(run), el("div", found, class_="grid")]) if found else None
