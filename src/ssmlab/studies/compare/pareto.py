"""Quality or cost against speed: the points, the front, and the plot."""

from collections.abc import Callable
from dataclasses import dataclass

from ssmlab.core import formats
from ssmlab.reports import theme
from ssmlab.reports.plots import Plot

WIDTH, HEIGHT = 5.4, 12  # points of a character of a name, and of its line
_OFFSETS = (3, -13, 15, -25, 27, -37)  # where a name may begin, above its mark or below, in points


@dataclass(frozen=True)
class Spot:
    """A model in the plane: `x` images per second with its range, `y` with its interval or None."""

    label: str
    index: int
    x: float
    x_range: tuple[float, float]
    y: float
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Axis:
    """What `y` is: `better` is 1 where more is better, -1 where less is."""

    name: str
    title: str
    better: int
    format: Callable[[float], str]
    scale: float = 1.0

    def alike(self, one: Spot, other: Spot) -> bool:
        return self.format(one.y) == self.format(other.y)


ACCURACY = Axis("accuracy", "Test accuracy, %", 1, formats.percent, 100.0)
AREA = Axis("label_auc", "Mean ROC AUC over labels, test part", 1, formats.decimal(3))  # of several labels an image
MACS = Axis("macs", "G MAC per image", -1, formats.large, 1e-9)


def front(spots: list[Spot], axis: Axis) -> list[str]:
    """Labels of the models that no other one beats, by ascending speed: as fast and as good, and one of them more.

    Values that print alike are equal.
    """
    ahead = []
    for spot in spots:
        beaten = any(
            o.x > spot.x if axis.alike(o, spot) else o.x >= spot.x and axis.better * o.y > axis.better * spot.y
            for o in spots
        )
        if not beaten:
            ahead.append(spot)
    return [spot.label for spot in sorted(ahead, key=lambda spot: spot.x)]


def plot(spots: list[Spot], axis: Axis, titles: dict[str, str], batch: int) -> Plot | None:
    """The models with their names; those of the front are filled and joined by a line."""
    if not spots:
        return None
    ahead = front(spots, axis)
    found = {spot.label: spot for spot in spots}

    def paint(figure):
        axes = figure.add_subplot()
        line = [found[label] for label in ahead]
        axes.plot([s.x for s in line], [axis.scale * s.y for s in line], color=theme.MUTED, linewidth=1.2, zorder=1)
        for spot in spots:
            colour, y = theme.colour(spot.index), axis.scale * spot.y
            low, high = (axis.scale * bound for bound in spot.y_range or (spot.y, spot.y))
            axes.errorbar(
                spot.x,
                y,
                xerr=[[max(spot.x - spot.x_range[0], 0)], [max(spot.x_range[1] - spot.x, 0)]],
                yerr=[[max(y - low, 0)], [max(high - y, 0)]],
                fmt=theme.marker(spot.index),
                color=colour,
                markerfacecolor=colour if spot.label in ahead else theme.SURFACE,
                markersize=9,
                markeredgewidth=1.6,
                elinewidth=1.1,
            )
        _limits(axes, spots, axis)
        axes.set(xlabel=f"images per second, batches of {batch}", title=axis.title)
        figure.draw_without_rendering()  # only then is known what lies where
        _names(axes, spots, axis, titles)

    said = "; ".join(f"{titles[s.label]} {axis.format(s.y)} at {formats.rate(s.x)} images/s" for s in spots)
    names = formats.listing([titles[label] for label in ahead])
    better = "lighter" if axis is MACS else "more accurate" if axis is ACCURACY else "better"
    caption = f"On the Pareto front, filled and joined: {names}. No other model is both faster and {better}."
    svg = theme.draw((620, 330), paint, f"compare-{axis.name}")
    return Plot(f"{axis.name}-throughput", svg, f"{axis.title} against images per second. {said}. {caption}", caption)


def _limits(axes, spots: list[Spot], axis: Axis) -> None:
    """Room for the names, and a logarithmic axis where the models differ by much."""
    speeds = [spot.x for spot in spots]
    if max(speeds) > 8 * min(speeds) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    else:
        axes.set_xlim(0, 1.15 * max(spot.x_range[1] for spot in spots))
    axes.xaxis.set_major_formatter(lambda value, _: formats.large(value))
    values = [axis.scale * spot.y for spot in spots]
    if axis is MACS and max(values) > 8 * min(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.margins(x=0.14, y=0.2)


def _names(axes, spots: list[Spot], axis: Axis, titles: dict[str, str]) -> None:
    """Every name next to its mark, at the first place where it covers no other name and no mark."""
    dots = 72 / axes.figure.dpi
    places = {s.label: axes.transData.transform((s.x, axis.scale * s.y)) * dots for s in spots}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places.values()]
    for spot in spots:
        x, y = places[spot.label]
        width = WIDTH * len(titles[spot.label])
        starts = [(x + across, y + up) for up in _OFFSETS for across in (9, -9 - width)]  # right of the mark, or left
        boxes = [(left, bottom, left + width, bottom + HEIGHT) for left, bottom in starts]
        inside = [b for b in boxes if b[0] >= axes.bbox.x0 * dots and b[2] <= axes.figure.bbox.x1 * dots]
        free = [
            (left, bottom, right, top)
            for left, bottom, right, top in inside
            if not any(left < r and le < right and bottom < t and b < top for le, b, r, t in taken)
        ]
        box = (free or inside or boxes)[0]
        taken.append(box)
        axes.annotate(
            titles[spot.label],
            (spot.x, axis.scale * spot.y),
            xytext=(box[0] - x, box[1] - y + 2),
            textcoords="offset points",
            color=theme.INK,
            fontsize=9.5,
        )
