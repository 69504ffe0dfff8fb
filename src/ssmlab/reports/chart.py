"""Figures of matplotlib for notebooks: curves of a training, and numbers with their intervals."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ssmlab.core.record import Record

WIDTH = 7.0  # inches


class Chart(Figure):
    """A figure that a notebook shows as it is, whatever the notebook's settings for matplotlib are."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()


def curves(records: Sequence[Record]) -> Chart:
    """A panel for every metric that has steps: the training part dashed, the validation part solid."""
    stepped = [record for record in records if record.step is not None and record.metric != "epoch"]
    metrics = list(dict.fromkeys(record.metric for record in stepped))
    figure = Chart(figsize=(WIDTH, 2.2 * len(metrics)), layout="constrained")
    panels: Any = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0] if metrics else []
    for panel, metric in zip(panels, metrics, strict=True):
        for split in dict.fromkeys(record.split for record in stepped if record.metric == metric):
            points = [(r.step, r.value) for r in stepped if (r.metric, r.split) == (metric, split)]
            style = {"linestyle": "--"} if split == "train" else {"marker": "o", "markersize": 3}
            panel.plot(*zip(*points, strict=True), label=split, **style)
        panel.set_ylabel(metric.replace("_", " "))
        panel.legend(frameon=False)
    if metrics:
        panels[-1].set_xlabel("step")
    return figure


def bars(records: Sequence[Record]) -> Chart:
    """A bar for every fraction, with its 95 % interval where it has one; the confusion matrix is left out."""
    chosen = [record for record in records if record.unit == "fraction"]
    figure = Chart(figsize=(WIDTH, 0.8 + 0.28 * len(chosen)), layout="constrained")
    panel = figure.subplots()
    names = [" ".join(filter(None, (r.metric.replace("_", " "), r.class_))) for r in chosen]
    panel.barh(range(len(chosen)), [record.value for record in chosen], color="0.75")
    for place, record in enumerate(chosen):
        if record.spread is not None:
            panel.plot(record.spread, (place, place), color="black", linewidth=1.5)
    panel.set_yticks(range(len(chosen)), names)
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    return figure
