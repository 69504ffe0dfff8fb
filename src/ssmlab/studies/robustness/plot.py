"""Accuracy under every transformation: those that cost least and those that cost most, as two panels."""

import numpy as np

from ssmlab.core.record import Record
from ssmlab.reports import theme
from ssmlab.reports.plots import Plot
from ssmlab.robustness.scores import ORIGINAL
from ssmlab.studies.robustness.table import FIRST, by_model, interval_of

MOST = 10  # rows of a panel
ROW, HEAD = 15, 66  # points of height
CAPTION = "With 95 % intervals; transformations in the order of the models' mean; dotted lines: the original images."


def best_and_worst(records: list[Record], titles: dict[str, str], names: dict[str, str]) -> list[Plot]:
    """The whole with two panels of at most ten transformations, then each panel alone, for narrow pages.

    Args:
        titles: label -> what to call the model. names: transformation -> what to call it, without the original.
    """
    found = by_model(records)
    metric = next(name for name in FIRST if any(key[1] == name for key in found))
    means = {name: float(np.mean([interval_of(found[model, metric, name])[0] for model in titles])) for name in names}
    order = sorted(names, key=lambda name: -means[name])
    each = min(MOST, -(-len(order) // 2))
    panels = {"Cost least": order[:each], "Cost most": order[each:][-each:]}
    panels = {title: rows for title, rows in panels.items() if rows}

    shown = [ORIGINAL, *(row for panel in panels.values() for row in panel)]
    intervals = [interval_of(found[model, metric, row]) for row in shown for model in titles]
    low, high = min(low for _, low, _ in intervals), max(high for _, _, high in intervals)
    room = 0.04 * (high - low) + 0.01
    limits = 100 * max(low - room, -0.02), 100 * min(high + room, 1.02)  # of all panels, so that they can be compared

    def drawn(name: str, chosen: dict[str, list[str]]) -> Plot:
        def paint(figure):
            axes = figure.subplots(1, len(chosen), squeeze=False)[0]
            for axis, (title, rows) in zip(axes, chosen.items(), strict=True):
                _panel(axis, rows, found, titles, names, metric)
                axis.set_title(title)
                axis.set_xlim(*limits)
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(len(labels), 2 * len(chosen))))

        height = HEAD + each * max(ROW, 7 * len(titles) + 5) + 13 * (len(titles) // (2 * len(chosen)))
        svg = theme.draw((400 * len(chosen), height), paint, name)
        lines = []
        for model, title in titles.items():
            shares = {row: interval_of(found[model, metric, row])[0] for rows in chosen.values() for row in rows}
            lines.append(f"{title}: {', '.join(f'{names[row]} {100 * v:.1f} %' for row, v in shares.items())}.")
        return Plot(name, svg, f"Scores under transformations. {' '.join(lines)}", CAPTION)

    alone = [drawn(title.lower().replace(" ", "-"), {title: rows}) for title, rows in panels.items()]
    return [drawn("transformations", panels), *alone]


def _panel(axis, rows: list[str], found, titles: dict[str, str], names: dict[str, str], metric: str) -> None:
    spread = np.linspace(-0.28, 0.28, len(titles)) if len(titles) > 1 else [0.0]
    for i, (model, title) in enumerate(titles.items()):
        values = [interval_of(found[model, metric, name]) for name in rows]
        middle = [100 * value for value, _, _ in values]
        bars = [[100 * max(v - low, 0) for v, low, _ in values], [100 * max(high - v, 0) for v, _, high in values]]
        axis.errorbar(
            middle,
            np.arange(len(rows)) + spread[i],
            xerr=bars,
            fmt=theme.marker(i),
            color=theme.colour(i),
            markersize=5,
            elinewidth=1.1,
            label=title,
        )
        original = 100 * interval_of(found[model, metric, ORIGINAL])[0]
        axis.axvline(original, color=theme.colour(i), linewidth=1, linestyle=":")
    axis.set_yticks(np.arange(len(rows)), [names[name] for name in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel("Top-1, %" if metric == FIRST[0] else "Mean ROC AUC over labels, %")
