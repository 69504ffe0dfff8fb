"""What reports say of a learning curve: as of any classification, with all models against the share of images."""

from dataclasses import replace

import numpy as np

from ssmlab.core import formats
from ssmlab.reports import theme
from ssmlab.reports.markup import Html, el
from ssmlab.reports.plots import Plot, log_axis
from ssmlab.reports.run_folder import Run
from ssmlab.reports.sections import figure
from ssmlab.reports.tables import plain_table
from ssmlab.tasks.classify.report import REPORT as CLASSIFY

END = " %"


def points(run: Run, metric: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """By model: training images, mean over seeds, and the least and largest of them, the smallest share first."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for label in run.labels:
        for (model, name, class_), by_seed in run.finals.items():
            if model == label and name == metric and class_ and class_.endswith(END):
                images = run.finals.get((label, "train_images", class_))
                if images:
                    values = [record.value for record in by_seed.values()]
                    count = float(np.mean([record.value for record in images.values()]))
                    found.setdefault(label, []).append((count, float(np.mean(values)), min(values), max(values)))
    return {label: sorted(rows) for label, rows in found.items()}


def plots(run: Run) -> list[Plot]:
    """All models in one plot: the primary metric against the number of training images."""
    metric = run.primary_metric
    lines = points(run, metric.metric)
    if not lines:
        return []

    def paint(canvas):
        axes = canvas.add_subplot()
        for label, rows in lines.items():
            index = run.labels.index(label)
            x, y, low, high = np.array(rows).T
            axes.fill_between(x, metric.scale * low, metric.scale * high, color=theme.colour(index), alpha=0.15, lw=0)
            axes.plot(x, metric.scale * y, color=theme.colour(index), marker=theme.marker(index), markersize=5, lw=1.8)
        log_axis(axes.xaxis, axes.set_xscale, formats.whole)
        axes.set(xlabel="training images", title=f"{metric.name.capitalize()} on the test part")

    ends = [f"{run.titles[label]} {metric.text(rows[-1][1])} with {rows[-1][0]:,.0f}" for label, rows in lines.items()]
    caption = f"{'; '.join(ends)}. Bands: least and largest of the seeds, which draw their own images."
    name = "learning-curve"
    return [
        Plot(name, theme.draw((480, 300), paint, name), f"{metric.name.capitalize()} by images. {caption}", caption)
    ]


def section(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """The plot and its numbers."""
    lines = points(run, run.primary_metric.metric)
    if not lines or "learning-curve" not in drawn:
        return None
    counts = sorted({row[0] for rows in lines.values() for row in rows})
    rows = []
    for count in counts:
        cells = []
        for of in lines.values():
            value = next((row for row in of if row[0] == count), None)
            cells.append(formats.UNKNOWN if value is None else run.primary_metric.text(value[1]))
        rows.append((f"{count:,.0f}", cells))
    table = plain_table("Training images", [run.titles[label] for label in lines], rows)
    card = el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")
    return el("div", figure(drawn["learning-curve"]), card, class_="grid")


REPORT = replace(
    CLASSIFY,
    plots=(*CLASSIFY.plots, plots),
    sections=(*CLASSIFY.sections, ("share", "Quality by number of training images", section)),
)
