"""The plots of a report: learning curves, ROC, accuracy against throughput, margin and confusion matrices."""

import math
from dataclasses import dataclass

import numpy as np

from ssmlab.core import formats
from ssmlab.reports import series, theme
from ssmlab.reports.run_folder import Run
from ssmlab.reports.verdict import Winner

_WIDTH = 380
_TITLES = {"accuracy": "Accuracy, %", "loss": "Loss, nats", "bleu": "BLEU"}


@dataclass(frozen=True)
class Plot:
    """A plot: the text of its SVG file, what it shows in words, and a caption that says what to see."""

    name: str
    svg: str
    alt: str
    caption: str = ""


def log_axis(axis, set_scale, text=formats.large, *, binary: bool = False) -> None:
    """A logarithmic axis with plain numbers at `ticks`.

    Matplotlib's own labels need its formula parser, and its places are decades, of which a narrow range has few.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    class Places(LogLocator):
        def tick_values(self, vmin, vmax):
            return ticks(*sorted((vmin, vmax)), binary=binary)

    set_scale("log")
    axis.set_major_locator(Places())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: text(value))


def ticks(low: float, high: float, *, binary: bool = False) -> np.ndarray:
    """Two to six round numbers of a positive range, evenly spaced where it is narrow; binary ones for bytes."""
    if high < 8 * low:
        least = (high - low) / 5
        ten = 10.0 ** math.floor(math.log10(least))
        step = (
            2.0 ** math.ceil(math.log2(least)) if binary else next(n * ten for n in (1, 2, 5, 10) if n * ten >= least)
        )
        return step * np.arange(math.ceil(low / step), math.floor(high / step) + 1)
    log = math.log2 if binary else math.log10
    powers = np.arange(math.floor(log(low)), math.ceil(log(high)) + 1)
    if binary:
        choices = [2.0 ** powers[powers % n == 0] for n in (1, 2, 4, 10, 20)]
    else:
        choices = [np.outer(10.0**powers, (1, 2, 5)).ravel(), *(10.0 ** powers[powers % n == 0] for n in (1, 2, 3, 6))]
    inside = [places[(places >= low) & (places <= high)] for places in choices]
    return next((places for places in inside if len(places) <= 6), inside[-1])


def margin(run: Run, verdict: Winner) -> Plot | None:
    """The difference of the two best models with its interval on a line with zero."""
    leader, other, difference = verdict.leader, verdict.runner_up, verdict.difference
    if leader is None or other is None or difference is None or not np.isfinite(difference).all():
        return None
    metric = run.primary_metric
    value, low, high = (metric.scale * number for number in difference)
    first = run.labels.index(leader)
    mark = theme.colour(first) if verdict.clear else theme.MUTED
    reach = max(abs(low), abs(high), abs(value), metric.scale / 200) * 1.15

    def paint(figure):
        axes = figure.add_subplot()
        axes.axvline(0, color=theme.INK, linewidth=1.2)
        axes.plot([low, high], [0, 0], color=mark, linewidth=5, solid_capstyle="butt", alpha=0.45)
        axes.plot([value], [0], theme.marker(first), color=mark, markersize=9)
        axes.set(
            xlim=(-reach, reach),
            ylim=(-1, 1),
            yticks=[],
            xlabel="percentage points"
            if metric.fraction
            else f"{metric.name}{'' if metric.higher_is_better else ', fewer to the right'}",
        )
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    a, b = run.titles[leader], run.titles[other]
    alt = (
        f"{metric.name.capitalize()} of {a} minus {metric.name} of {b}: {metric.gap(difference.value)} {metric.unit}"
        f"{metric.better}, 95 % interval {metric.gap(difference.low)} to {metric.gap(difference.high)}."
    )
    return Plot("margin", theme.draw((300, 78), paint, "margin"), alt)


def curves(run: Run, metric: str) -> Plot | None:
    """Loss or accuracy during training, training part dashed and validation part solid, one colour a model."""
    lines = series.curves(run, metric)
    if not lines:
        return None
    axis, drawn = lines[0].axis, series.legible(lines)
    values = np.concatenate([line.y for line in drawn])
    fraction, higher = metric == "accuracy", metric == run.primary_metric.metric and run.primary_metric.higher_is_better

    def paint(figure):
        axes = figure.add_subplot()
        for line in drawn:
            index = run.labels.index(line.label)
            scale = 100 if fraction else 1
            solid = line.split == "val"
            if solid and line.low is not None and line.high is not None:
                axes.fill_between(
                    line.x, scale * line.low, scale * line.high, color=theme.colour(index), alpha=0.13, linewidth=0
                )
            axes.plot(
                line.x,
                scale * line.y,
                linestyle="-" if solid else (0, (4, 2)),
                color=theme.colour(index),
                linewidth=1.9 if solid else 1.2,
                alpha=0.6 if line.repeated and line.low is None else 1,
                marker=theme.marker(index) if solid and len(line.x) <= 40 else None,
                markersize=4 if len(line.x) > 1 else 7,
            )
        axes.set(xlabel=axis, title=_TITLES.get(metric) or metric.replace("_", " ").capitalize())
        positive = values[values > 0]
        if not fraction and len(positive) == len(values) and values.max() > 50 * values.min():
            log_axis(axes.yaxis, axes.set_yscale)
        axes.margins(x=0.02)

    ends = []
    for label in run.labels:
        best = series.best_validation(lines, label, higher=higher)
        if best:
            number = formats.percent(best[1]) if fraction else f"{best[1]:.3f}"
            ends.append(f"{run.titles[label]} {number} at {axis} {round(best[0], 2):,.9g}")
    caption = f"Best on the validation part: {'; '.join(ends)}." if ends else ""
    if any(line.low is not None and line.repeated for line in drawn):
        caption = f"Means over seeds, bands from the smallest to the largest. {caption}".strip()
    alt = f"Learning curves of the {metric} by {axis}. {caption}"
    return Plot(f"curves-{metric}", theme.draw((_WIDTH, 240), paint, metric), alt, caption)


def roc(run: Run) -> Plot | None:
    """ROC curves with a close-up of the corner where good models live."""
    found = {label: curve for label in run.labels if (curve := series.roc(run, label)) is not None}
    if not found:
        return None
    classes = next(iter(found.values())).classes

    def lines(axes, size):
        for label, curve in found.items():
            axes.plot(curve.fpr, curve.tpr, color=theme.colour(run.labels.index(label)), linewidth=size)

    def paint(figure):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=theme.MUTED, linewidth=1, linestyle=(0, (2, 3)))
        lines(axes, 1.9)
        axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="false-positive rate", ylabel="true-positive rate")
        if min(curve.area for curve in found.values()) > 0.98:
            corner = axes.inset_axes([0.42, 0.12, 0.55, 0.62], facecolor=theme.SURFACE)
            lines(corner, 1.9)
            corner.set(xlim=(0, 0.1), ylim=(0.8, 1.003), xticks=[0, 0.05, 0.1], yticks=[0.8, 0.9, 1.0])
            corner.set_title("close-up of the corner", fontsize=9.5, color=theme.MUTED, fontweight="normal")

    kind = f"positive class {classes}" if classes else "mean of one class against the rest, over the classes"
    measured = {label: run.final(label, "roc_auc") for label in found}
    areas = [f"{run.titles[m]} {curve.area if measured[m] is None else measured[m]:.4f}" for m, curve in found.items()]
    caption = f"Area under the curve: {'; '.join(areas)} ({kind})."
    return Plot("roc", theme.draw((_WIDTH, 280), paint, "roc"), f"ROC curves. {caption}", caption)


def speed(run: Run) -> Plot | None:
    """The primary metric against images, patches or tokens per second, both with their intervals."""
    spots, metric = series.speeds(run), run.primary_metric
    if not spots:
        return None
    rated = spots[0].rated

    def paint(figure):
        axes = figure.add_subplot()
        for spot in spots:
            index = run.labels.index(spot.label)
            axes.errorbar(
                spot.speed,
                metric.scale * spot.accuracy,
                xerr=[[max(spot.speed - spot.speed_low, 0)], [max(spot.speed_high - spot.speed, 0)]],
                yerr=[
                    [metric.scale * max(spot.accuracy - spot.low, 0)],
                    [metric.scale * max(spot.high - spot.accuracy, 0)],
                ],
                fmt=theme.marker(index),
                color=theme.colour(index),
                markersize=8,
                elinewidth=1.3,
            )
        speeds = [spot.speed for spot in spots]
        if max(speeds) > 10 * min(speeds) > 0:
            log_axis(axes.xaxis, axes.set_xscale)
        else:
            axes.set_xlim(0, 1.12 * max(spot.speed_high for spot in spots))
            axes.xaxis.set_major_formatter(lambda value, _: formats.large(value))
        name = f"Test {metric.name}{', %' if metric.fraction else ''}"
        axes.set(xlabel=f"{rated} per second, prediction after warm-up", title=name)
        axes.margins(y=0.12)

    said = [f"{run.titles[s.label]} {metric.text(s.accuracy)} at {formats.rate(s.speed)} {rated}/s" for s in spots]
    caption = f"{'; '.join(said)}. {'Up' if metric.higher_is_better else 'Down'} and to the right is better."
    return Plot("accuracy-throughput", theme.draw((_WIDTH, 240), paint, "speed"), caption, caption)


def confusion(run: Run, label: str, matrix: np.ndarray, names: list[str]) -> Plot:
    """A confusion matrix for the plots folder; the page has it as a table."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(names)
    side = 120 + min(30 * count, 900)

    def paint(figure):
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if count <= 30:
            for i, j in zip(*np.nonzero(matrix), strict=True):
                shade = theme.SURFACE if shares[i, j] > 0.5 else theme.INK
                axes.text(j, i, f"{matrix[i, j]:g}", ha="center", va="center", color=shade, fontsize=9)
            axes.set_xticks(range(count), [series.shorten(n) for n in names], rotation=60, ha="right")
            axes.set_yticks(range(count), [series.shorten(n) for n in names])
        axes.set(xlabel="predicted", ylabel="true", title=run.titles[label])
        axes.grid(visible=False)

    index = run.labels.index(label)
    alt = f"Confusion matrix of {run.titles[label]}, rows are the true classes."
    return Plot(f"confusion-{index + 1}", theme.draw((side, side), paint, f"confusion{index}"), alt)
