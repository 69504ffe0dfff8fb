"""Colours, line styles and fonts of every plot, and how a matplotlib figure becomes a themed piece of the page.

A plot is drawn once, in the colours of the light theme. In its own file they stay; in the page each of these exact
colours is replaced by a CSS variable, so that the reader's light or dark scheme decides.
"""

import io
import re
import warnings
from typing import Any

INK, MUTED, GRID, SURFACE = "#1b2029", "#59616e", "#dfe3e8", "#fefefe"
# Okabe & Ito's set, distinct with every kind of colour vision, ordered so that the first ones differ most.
SERIES = ("#0069ad", "#c94f00", "#00855f", "#a8457f", "#8a6d00", "#5a5fc7")
MARKERS = ("o", "s", "^", "D", "v", "P")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    SURFACE: "--card",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES, start=1)},
}
_RC: dict[Any, Any] = {  # matplotlib lists every key in its types
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "figure.facecolor": SURFACE,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
}


def colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    return MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]  # beyond the colours another pair of the two


class Drawing(str):
    """The text of an SVG file that can be drawn again in another format; `how` are the arguments of `draw`."""

    how: tuple[Any, ...] = ()


def draw(size: tuple[float, float], paint, name: str) -> Drawing:
    """Make an SVG file's text.

    Args:
        size: width and height in points; 380 wide stays readable on a phone.
        paint: function of the figure that draws into it.
        name: makes the ids in the file the same from run to run.
    """
    out = io.StringIO()
    # Without these, the file would hold the date and the address of matplotlib.
    _save(out, "svg", dict.fromkeys(("Date", "Creator", "Format", "Type")), size, paint, name)
    drawing = Drawing(out.getvalue())
    drawing.how = size, paint, name
    return drawing


def as_pdf(drawing: str) -> bytes | None:
    """The same plot as the content of a PDF file with fonts as text; None of a text that was not drawn here."""
    if not isinstance(drawing, Drawing):
        return None
    out = io.BytesIO()
    _save(out, "pdf", dict.fromkeys(("CreationDate", "Creator", "Producer")), *drawing.how)
    return out.getvalue()


def _save(out, format: str, metadata: dict, size: tuple[float, float], paint, name: str) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_RC, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser has the glyphs of a class name that matplotlib's own font lacks; only widths are guessed.
        warnings.filterwarnings("ignore", message="Glyph .* missing from (current )?font")
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        paint(figure)
        figure.savefig(out, format=format, metadata=metadata)


def inline(svg: str, name: str) -> str:
    """Turn an SVG file into an element of the page: its ids made unique, its colours variables, its font the page's."""
    svg = svg[svg.index("<svg") :]
    view = re.findall(r'viewBox="[^"]*"', svg)[0]
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # This style sheet holds for the whole page, not for its picture.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body)
    body = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 inherit", body)
    for value, variable in VARIABLES.items():
        body = body.replace(value, f"var({variable})")
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg {view} class="plot" aria-hidden="true" focusable="false">{body}</svg>'
