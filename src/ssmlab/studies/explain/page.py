"""An explanation as one self-contained page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssmlab.core import formats
from ssmlab.interpret.pictures import SMALL, outlined, over, ramp, source
from ssmlab.reports import theme
from ssmlab.reports.markup import Html, definitions, el, join, words
from ssmlab.reports.plots import Plot
from ssmlab.reports.sections import figure
from ssmlab.reports.tables import plain_table
from ssmlab.studies import study
from ssmlab.studies.explain.explanation import ClassFound, Explanation, PictureFound, ScanFound, enlarged
from ssmlab.studies.explain.opening import short

UNTRAINED = "The weights are random: these pictures say nothing about a trained model."
STYLE = """.card + .grid { margin-top: 12px; }
h3.apart { margin-top: 18px; }
@media (min-width: 561px) { .samples { grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); } }
"""
METHOD = (
    ("Grad-CAM, HiResCAM", "The map of a late layer, weighted by the mean gradient of the class's logit "
     "(arXiv:1610.02391); where a class token reads the map, every position by its own (arXiv:2011.08891)."),
    ("Integrated gradients", "The gradient on the way from the mean colour to the picture, times the difference "
     "(arXiv:1703.01365), summed over the colours. Orange speaks for the class, blue against it."),
    ("Deletion, insertion", "The class's probability while pixels are replaced by the mean colour, those with the "
     "largest values first, and while they come back into the blurred picture (arXiv:1806.07421). The number is the "
     "area under the curve: small is good for deletion, large for insertion. Random maps have the coarse map's grid."),
    ("Features", "Gradient ascent on the spectrum of an image that is shifted, turned and scaled at every step, with "
     "colours that vary together as those of photographs (Olah et al. 2017, Distill)."),
    ("Attention", "A scan is a matrix times its input (arXiv:2403.01590). Shown is the row of one position, the mean "
     "of the channels' absolute values, summed over directions; the white frame is the position itself. Attention of "
     "that position says what it can have taken up, not what it was used for."),
    ("Step sizes and states", "The mean dt of a position, that is how strongly it is written into the state, and the "
     "mean length of the state there."),
    ("Sanity", "Spearman's correlation of the signed coarse map of the first picture and class with that of the same "
     "network after its weights were drawn anew, from the output to the layer named (arXiv:1810.03292)."),
    ("Receptive field", "The squared gradient of the feature in the middle of the last map (arXiv:1701.04128)."),
)  # fmt: skip


def page(found: Explanation, *, heading: str, answer: str, eyebrow: str, facts: list[tuple[str, str]]) -> str:
    """The page's text.

    Args:
        heading, answer, eyebrow: the top of the page.
        facts: name and text of the circumstances at the end.
    """
    warning = UNTRAINED if found.model.untrained else doubted(found.model.doubt)
    learned = [
        _tile(pixels, short(found.model.classes[index]), f"taken for it with {formats.percent(sure)}")
        for index, (pixels, sure) in found.learned.items()
    ]
    lede = "Images made from noise to raise the logit of one class; they show what the model responds to."
    for picture in found.pictures:
        heading, answer = (text.replace(picture.name, _short_name(picture)) for text in (heading, answer))
    return study.page(
        "explain",
        heading,
        eyebrow=eyebrow,
        heading=heading,
        answer=[
            el("p", words(answer), class_="answer"),
            el("p", warning, class_="banner", role="note") if warning else None,
        ],
        sections=[
            *(_picture(found, picture, number) for number, picture in enumerate(found.pictures)),
            el(
                "section",
                el("h2", "What the model looks for"),
                el("p", lede, class_="lede"),
                el("ul", learned, class_="samples"),
            )
            if learned
            else None,
            _checks(found),
        ],
        method=METHOD,
        facts=facts,
        models="Model",
        made="pictures",
        files="the numbers are in records.jsonl",
        style=STYLE,
    )


def doubted(doubt: str, what: str = "pictures") -> str:
    """What a doubt about a model means for its pictures or colours; empty without one."""
    if not doubt or doubt.startswith("nothing says"):
        return doubt[:1].upper() + doubt[1:] + "." * bool(doubt)
    return f"{doubt}: these {what} say little about a model that learned."


def methods(found: Explanation) -> dict[str, str]:
    """What the methods are called, by the keys of the curves."""
    return {"camera": found.camera, "gradients": "Integrated gradients", "random": "Random maps"}


def predicted(found: Explanation, picture: PictureFound, count: int = 2) -> str:
    """The first classes with their probabilities: "guacamole (91.0 %), plate (3.1 %)"."""
    names = found.model.classes
    return ", ".join(f"{short(names[c])} ({formats.percent(p)})" for c, p in picture.ranking[:count])


def _short_name(picture: PictureFound) -> str:
    """Of a file's whole path the name; what data call their images stays."""
    path = Path(picture.name)
    return path.name if path.is_absolute() else picture.name


def _picture(found: Explanation, picture: PictureFound, number: int) -> Html:
    names = [short(found.model.classes[each.index]) for each in picture.classes]
    tiles = [] if picture.before is None else [_tile(picture.before, "Before", "as it was")]
    tiles.append(_tile(picture.pixels, "Picture", predicted(found, picture)))
    for name, each in zip(names, picture.classes, strict=True):
        sure = formats.percent(each.probability)
        tiles.append(_tile(over(picture.pixels, each.camera), f"{found.camera}: {name}", sure))
        tiles.append(_tile(over(picture.pixels, each.gradients, signed=True), f"Integrated gradients: {name}", sure))
    scored = [(name, each) for name, each in zip(names, picture.classes, strict=True) if each.curves]
    return el(
        "section",
        el("h2", words(_short_name(picture)), title=picture.name),
        el("p", picture.note, class_="lede") if picture.note else None,
        el("ul", tiles, class_="samples"),
        [el("h3", "Are these the pixels that matter?", class_="apart"), _scores(scored, methods(found), number)]
        if scored
        else None,
        [_scan(picture, scan) for scan in reversed(picture.scans)],
        id=f"picture-{number}",
    )


def _scores(scored: list[tuple[str, ClassFound]], names: dict[str, str], number: int) -> Html:
    """The areas under the curves as a table, and the curves: a colour for every class, a stroke for every method."""
    dashes = {"camera": "-", "gradients": (0, (1, 1.2)), "random": (0, (5, 3))}

    def drawn(kind: str, gone: str, best: str) -> Plot:
        def paint(figure_):
            axes = figure_.add_subplot()
            for i, (name, each) in enumerate(scored):
                for method, curves in each.curves.items():
                    curve = curves[kind]
                    axes.plot(
                        100 * curve.shares.numpy(), 100 * curve.probability.numpy(), linestyle=dashes[method],
                        color=theme.MUTED if method == "random" and len(scored) == 1 else theme.colour(i),
                        label=f"{name}: {names[method]}", linewidth=1.3 if method == "random" else 1.8,
                    )  # fmt: skip
            top = max(float(each.curves[m][kind].probability.max()) for _, each in scored for m in each.curves)
            axes.set(xlabel=gone, ylabel="Probability, %", ylim=(-2 * top, 105 * top), title=kind.capitalize())
            figure_.legend(loc="outside lower center", fontsize=8.5, ncols=2)

        plot, height = f"{kind}-{number}", 250 + 14 * -(-3 * len(scored) // 2)
        alt = f"{kind.capitalize()}: the probability {best} earlier with a better map; the areas are in the table."
        return Plot(plot, theme.draw((420, height), paint, plot), alt)

    rows = []
    for name, each in scored:
        for method, curves in each.curves.items():
            areas = [f"{float(curves[kind].auc):.3f}" for kind in ("deletion", "insertion")]
            rows.append((f"{name}: {names[method]}", areas))
    table = plain_table("Class and map", ("Deletion ↓", "Insertion ↑"), rows)
    plots = [
        figure(drawn("deletion", "Pixels taken away, %", "falls")),
        figure(drawn("insertion", "Pixels given back, %", "rises")),
    ]
    box = el("div", table, class_="scroll", tabindex="0", role="region", aria_label="Scores of the maps")
    return join([el("div", box, class_="card"), el("div", plots, class_="grid")])


def _scan(picture: PictureFound, scan: ScanFound) -> Html:
    times = -(-SMALL // min(picture.pixels.shape[:2]))  # small pictures are enlarged, so that the frame is thin
    pixels = picture.pixels.repeat(times, 0).repeat(times, 1)
    size = pixels.shape[:2]
    grid = scan.steps.shape
    tiles = []
    for text, weights, place in scan.attention:
        picture_ = over(pixels, enlarged(weights, size))
        picture_ = picture_ if place is None else outlined(picture_, place, grid)
        tiles.append(_tile(picture_, f"Attention, {text}", ""))
    tiles.append(_tile(ramp(enlarged(scan.steps, size)), "Step sizes", _range(scan.steps)))
    tiles.append(_tile(ramp(enlarged(scan.states, size)), "States", _range(scan.states)))
    title = f"Hidden attention of {scan.name}, {grid[0]} × {grid[1]}"
    return join([el("h3", title, class_="apart"), el("ul", tiles, class_="samples")])


def _checks(found: Explanation) -> Html:
    field = found.field
    radii = [f"{formats.percent(share, 0)} within {field.radius(share):.1f} pixels" for share in (0.5, 0.95)]
    energy = field.energy.cpu().numpy()
    shown = np.log10(np.maximum(energy, 1e-12 + energy.max() * 1e-4))
    tile = _tile(ramp(shown), "Receptive field", f"{'; '.join(radii)} of the middle (four decades)")
    boxes = [el("ul", tile, class_="samples")]
    if found.sanity is not None:
        rows = [
            (f"down to {name}", f"{float(value.mean()):+.2f}")
            for name, value in zip(found.sanity.stages, found.sanity.correlation, strict=True)
        ]
        text = "Correlation with the map of the trained weights after new random ones; far from 1 is good."
        title = el("h3", "Does the map depend on the weights?")
        boxes.append(el("div", title, definitions(rows), el("p", text, class_="note"), class_="card"))
    return el("section", el("h2", "The model as a whole"), el("div", boxes, class_="grid"))


def _range(map_: np.ndarray) -> str:
    return f"{formats.large(float(map_.min()))} to {formats.large(float(map_.max()))}"


def _tile(pixels: np.ndarray, title: str, text: str) -> Html:
    small = min(pixels.shape[:2]) < SMALL
    image = el("img", src=source(pixels), alt=f"{title}. {text}", class_="pixels" if small else None)
    return el("li", image, el("p", el("strong", words(title))), el("p", words(text), class_="note"), class_="card")
