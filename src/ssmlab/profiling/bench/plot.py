"""Time per element against the number of tokens: a line that rises to the left is overhead, to the right memory."""

from ssmlab.ops._dispatch import example
from ssmlab.ops._example import CHANNEL, TIME
from ssmlab.profiling.bench.measure import EXP, Row
from ssmlab.reports import theme

_PANEL = (250, 215)
_STYLES = {CHANNEL: "-", TIME: (0, (4, 2))}


def plots(rows: list[Row]) -> dict[str, str]:
    """An SVG file's text for every operator and pass, by name."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        passes = "forward_backward" if row.shape.backward else "forward"
        groups.setdefault(f"{row.shape.op}_{passes}", []).append(row)
    return {name: _plot(name, group) for name, group in groups.items()}


def _plot(name: str, rows: list[Row]) -> str:
    """A panel for every number of channels and dtype; in it a line for every n and layout, and torch.exp."""
    first = rows[0].shape
    # A map's channels go with its size: those are one line.
    widths = [None] if example(first.op).is_map else sorted({row.shape.d for row in rows})
    dtypes = list(dict.fromkeys(row.shape.dtype for row in rows))
    states = sorted({row.shape.n for row in rows})

    def paint(figure):
        grid = figure.subplots(len(dtypes), len(widths), sharex=True, sharey=True, squeeze=False)
        for i, dtype in enumerate(dtypes):
            for j, width in enumerate(widths):
                chosen = [r for r in rows if r.shape.dtype == dtype and width in (None, r.shape.d)]
                _panel(grid[i][j], chosen, states)
                grid[i][j].set_title(dtype if width is None else f"{dtype}, d = {width}")
        for axes in grid[-1]:
            axes.set_xlabel("tokens")
        for line in grid:
            line[0].set_ylabel("ns per element")
        handles = {label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(widths))
        figure.suptitle(f"{first.op}, {first.passes}, {rows[0].ours}", x=0.01, ha="left", fontsize=11)

    lines = -(-(1 + len(states) * len({row.shape.layout for row in rows})) // len(widths))  # of the legend
    size = (max(300, _PANEL[0] * len(widths)), 60 + _PANEL[1] * len(dtypes) + 15 * lines)
    return theme.draw(size, paint, f"bench-{name}")


def _panel(axes, rows: list[Row], states: list[int]) -> None:
    from matplotlib.ticker import LogLocator

    lengths = sorted({row.shape.l for row in rows})
    for index, n in enumerate(states):
        for layout, style in _STYLES.items():
            line = sorted((r for r in rows if (r.shape.n, r.shape.layout) == (n, layout)), key=lambda r: r.shape.l)
            if line:
                axes.plot(
                    [r.shape.l for r in line],
                    [r.per_element for r in line],
                    linestyle=style,
                    color=theme.colour(index),
                    marker=theme.marker(index),
                    markersize=4,
                    label=f"n = {n}, {layout}",
                )
    exp = [(r.shape.l, 1e9 * r.seconds(EXP) / r.shape.elements) for r in rows if r.shape.n == states[-1]]
    best = [min(value for l, value in exp if l == length) for length in lengths]
    axes.plot(lengths, best, color=theme.MUTED, linestyle=":", linewidth=1.2, label=f"torch.exp, n = {states[-1]}")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(lengths)
    low, high = axes.get_ylim()
    if high < 100 * low:  # powers of ten alone would leave one tick or none
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
