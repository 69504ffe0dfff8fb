"""Norms of gradients over the steps of a training, for runs that wrote `gradients.npz` next to their models."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ssmlab.core import formats
from ssmlab.core.errors import UserError
from ssmlab.reports import theme
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.run_folder import Run

FILE = "gradients.npz"
_MOST_STEPS, _ROW, _TALLEST = 120, 4.0, 400  # columns of the picture; points of a parameter's row, and of all rows


@dataclass(frozen=True)
class Norms:
    """Norms by parameter, in the order of the model, and step; NaN where a parameter had no gradient.

    folder: of the model. names: (p,). steps: (s,). gradients, weights: (s, p), 2-norms. frozen: some of the names.
    """

    folder: str
    names: tuple[str, ...]
    steps: np.ndarray
    gradients: np.ndarray
    weights: np.ndarray
    frozen: tuple[str, ...]

    @property
    def relative(self) -> np.ndarray:
        """||g|| / ||p||, (s, p); NaN where either is none or zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.gradients / self.weights
        return np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.nan)


def read_norms(path: Path) -> Norms:
    """Read a file that a training wrote.

    Raises:
        UserError: it is damaged.
    """
    keys = ("names", "steps", "gradients", "weights", "frozen")
    try:
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            names, steps, gradients, weights, frozen = (file[key] for key in keys)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{path.parent.name}/{path.name} is damaged: {str(error).splitlines()[0]}") from None
    return Norms(path.parent.name, tuple(names.tolist()), steps, gradients, weights, tuple(frozen.tolist()))


def found_norms(run: Run) -> list[Norms]:
    """Of every model of a run, of the first seed where there are several."""
    files = sorted((run.folder / "models").glob(f"*/{FILE}"))
    first = {path.parent.name.rpartition("_seed")[0] or path.parent.name: path for path in reversed(files)}
    return [read_norms(path) for path in sorted(first.values())]


def plots(run: Run) -> list[Plot]:
    """A heat map for each model: parameters from the input on downwards, steps to the right."""
    return [_plot(norms) for norms in found_norms(run) if len(norms.steps) and len(norms.names)]


def _plot(norms: Norms) -> Plot:
    values = np.log10(norms.relative)
    columns = np.array_split(np.arange(len(norms.steps)), min(len(norms.steps), _MOST_STEPS))
    # a mean over steps in which nothing had a gradient is NaN, without a warning
    shown = np.stack([_mean(values[part]) for part in columns], axis=1)
    known = shown[np.isfinite(shown)]
    low, high = np.floor(np.quantile(known, (0.02, 0.98)) * 2) / 2 + (0, 0.5) if len(known) else (-1.0, 0.0)
    places = _places(norms.names)

    def paint(figure):
        axes = figure.add_subplot()
        extent = (0.5, len(columns) + 0.5, len(norms.names) - 0.5, -0.5)
        image = axes.imshow(
            shown, aspect="auto", cmap="viridis", vmin=low, vmax=high, interpolation="nearest", extent=extent
        )
        ticks = sorted({int(i) for i in np.linspace(0, len(columns) - 1, 5)})
        axes.set_xticks([i + 1 for i in ticks], [f"{norms.steps[columns[i][-1]]}" for i in ticks])
        axes.set_yticks([i for i, _ in places], [name for _, name in places], fontsize=8)
        axes.set(xlabel="step", title="Gradient norm of every parameter, relative to its own")
        axes.grid(visible=False)
        rows = [i for i, name in enumerate(norms.names) if name in norms.frozen]
        edge = len(columns) * 1.02 + 0.5
        axes.plot([edge] * len(rows), rows, "s", color=theme.INK, markersize=2.5, clip_on=False)
        axes.set_xlim(0.5, len(columns) + 0.5)
        bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, pad=0.02)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{10**value:.0e}".replace("e-0", "e-"))
        bar.outline.set_visible(False)

    middle = _mean(values)
    order = [i for i in np.argsort(middle) if np.isfinite(middle[i])]
    least = ", ".join(f"{norms.names[i]} ({10 ** middle[i]:.1e})" for i in order[:3])
    most = ", ".join(f"{norms.names[i]} ({10 ** middle[i]:.1e})" for i in order[: -4 if len(order) > 3 else None : -1])
    said = f"{norms.folder}: least {least}; most {most}."
    if norms.frozen:
        said += f" Frozen, marked at the right edge: {formats.plural(len(norms.frozen), 'parameter')}."
    height = 90 + min(max(_ROW * len(norms.names), 120), _TALLEST)
    name = f"gradients-{norms.folder}"
    return Plot(name, theme.draw((440, height), paint, name), f"Relative gradient norms by step. {said}", said)


def _mean(rows: np.ndarray) -> np.ndarray:
    """Over the first axis, without NaN; NaN where there is nothing else."""
    there = np.isfinite(rows)
    count = there.sum(0)
    return np.where(count > 0, np.where(there, rows, 0.0).sum(0) / np.maximum(count, 1), np.nan)


def _places(names: tuple[str, ...]) -> list[tuple[int, str]]:
    """The row of a block's first parameter, with the block's name: there is no room for every parameter's."""
    found: list[tuple[int, str]] = []
    for i, name in enumerate(names):
        parts = name.split(".")
        numbers = [place for place, part in enumerate(parts[:-1]) if part.isdigit()]
        block = ".".join(parts[: min(numbers[-1] + 1, 4) if numbers else 1])
        room = max(1.0, len(names) * _ROW / _TALLEST) * 2.2
        if not found or (found[-1][1] != block and i - found[-1][0] >= room):
            found.append((i, block))
    return found


def section(run: Run, drawn: dict[str, Plot], figure) -> Html | None:
    """The heat maps, and what freezing by gradient saved. `figure` makes a plot an element of the page."""
    found = [figure(plot) for name, plot in drawn.items() if name.startswith("gradients-")]
    if not found:
        return None
    lede = (
        "The norm of each parameter's gradient over the norm of the parameter, before clipping: parameters from the "
        "input on downwards, steps to the right."
    )
    saved = []
    for label in run.labels:
        before, after = (run.final(label, "seconds_per_step", f"{when} freezing") for when in ("before", "after"))
        if before is None or after is None:
            continue
        values, all_ = run.final(label, "frozen_values"), run.final(label, "parameters")
        share = f"{formats.percent(values / all_, 0)} of {run.titles[label]} was frozen" if values and all_ else label
        text = f"{share}: a step took {formats.seconds(before)} before and {formats.seconds(after)} after"
        less, more = (run.final(label, "training_memory", f"{when} freezing") for when in ("after", "before"))
        if less is not None and more is not None:
            text += f", gradients, moments and kept activations {formats.size(more)} and {formats.size(less)}"
        saved.append(el("p", text + "."))
    return join([el("p", lede, class_="lede"), saved, el("div", found, class_="grid")])
