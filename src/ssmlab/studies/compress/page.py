"""The files of `ssmlab compress`: records, table, plots and one self-contained page."""

from pathlib import Path

import numpy as np

from ssmlab.core import formats
from ssmlab.reports import theme
from ssmlab.reports.markup import el
from ssmlab.reports.plots import Plot
from ssmlab.reports.sections import figure, named
from ssmlab.reports.tables import plain_table, to_html, to_markdown
from ssmlab.studies.compare.table import LEGEND
from ssmlab.studies.compress.result import AFTER, BEFORE, Result
from ssmlab.studies.compress.table import make_table
from ssmlab.studies.study import CIRCUMSTANCES, card, page, section

FACTORISATION = (
    "Each layer's weight W (m x n) becomes P Q of rank r from its singular values, r (m + n) weights and as many "
    "multiply-accumulates a position. The energy is the share of the squared norm of W that P Q keeps; the energy rule "
    "takes the least r with |W - PQ|^2 <= (1 - energy) |W|^2. A budget of operations (flops) is spent on the "
    "directions with the most energy per multiply-accumulate, over all layers."
)
INPUTS = {"image": "Batches of noise", "token": "Rows of random tokens"}


def method(result: Result) -> list[tuple[str, str]]:
    """How the numbers were made."""
    item = result.terms.item
    return [
        ("Factorisation", FACTORISATION),
        ("Operations", f"Of one {item}, scans included. One multiply-accumulate (MAC) is two operations (FLOP)."),
        (
            "Speed",
            f"{INPUTS[item]}, float32, without reading files; in every round each model has its turn. The median of n "
            "rounds, in parentheses the slowest and the fastest.",
        ),
        (
            "Quality",
            "On the test part, in brackets the 95 % interval. Fine-tuning trains all parameters, P and Q among them, "
            "of every model alike, the dense one too.",
        ),
    ]


def spectrum_plot(result: Result) -> Plot:
    """What is lost by cutting after r directions, of every layer."""

    def paint(picture):
        axes = picture.add_subplot()
        count = len(result.spectra)
        for i, shares in enumerate(result.spectra.values()):
            rest = np.clip(1 - np.cumsum(shares), 1e-9, None)
            ranks = np.arange(1, len(shares) + 1) / len(shares)
            axes.plot(ranks[:-1], rest[:-1], color=theme.colour(0), alpha=0.25 + 0.75 * (i + 1) / count, linewidth=1.3)
        axes.set(xlabel="rank, as a share of the full rank", title="Energy lost", ylim=(1e-4, 1.2), yscale="log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.yaxis.set_minor_formatter(lambda value, _: "")

    def half(shares):
        return int(np.searchsorted(np.cumsum(shares), 0.9)) + 1

    needed = {name: half(shares) / len(shares) for name, shares in result.spectra.items()}
    low, high = min(needed, key=needed.__getitem__), max(needed, key=needed.__getitem__)
    caption = (
        f"Each line is a layer, darker towards the output. 90 % of the energy takes {formats.percent(needed[low], 0)} "
        f"of the directions in {low} and {formats.percent(needed[high], 0)} in {high}."
    )
    return Plot("spectrum", theme.draw((420, 260), paint, "spectrum"), f"Singular spectra. {caption}", caption)


def quality_plot(result: Result) -> Plot | None:
    """The primary metric against multiply-accumulates, before and after fine-tuning."""
    terms, lines = result.terms, {}
    name, text = terms.quality[terms.primary_metric]
    for when in (BEFORE, AFTER):
        spots = [
            (result.cost(label), result.found[label, terms.primary_metric, when])
            for label in result.labels
            if (label, terms.primary_metric, when) in result.found
        ]
        if spots:
            lines[when] = sorted(spots, key=lambda spot: spot[0])
    if not lines:
        return None
    factor, unit = (100, ", %") if lines[next(iter(lines))][0][1].unit == "fraction" else (1, "")

    def paint(picture):
        axes = picture.add_subplot()
        for i, (when, spots) in enumerate(lines.items()):
            x = [macs for macs, _ in spots]
            y = np.array([record.value for _, record in spots])
            gaps = np.abs(np.array([record.spread or (record.value,) * 2 for _, record in spots]).T - y)
            look = {"color": theme.colour(i), "marker": theme.marker(i), "label": when, "capsize": 0, "elinewidth": 0.8}
            axes.errorbar(x, factor * y, yerr=factor * gaps, **look)
        axes.xaxis.set_major_formatter(lambda value, _: formats.large(value))
        axes.set(xlabel=f"multiply-accumulates of one {terms.item}", title=f"{name} on the test part{unit}")
        axes.legend(loc="lower right" if terms.higher_is_better else "upper right")

    caption = "; ".join(f"{when}: " + ", ".join(text(r.value) for _, r in spots) for when, spots in lines.items())
    caption = f"From the fewest operations to the dense model {caption}. Bars are 95 % intervals."
    return Plot("quality", theme.draw((420, 260), paint, "quality"), f"{name} by operations. {caption}", caption)


def write_result(result: Result) -> Path:
    """Write the files of a compression; returns the page's path."""
    table, ref = make_table(result), result.ref
    layers = {label: [vars(each) for each in found] for label, found in result.replaced.items()}
    head = ["# ssmlab compress", "", f"{ref.title}: {result.answer}.", ""]
    lines = [f"- {key}: {getattr(result.stamp, key)}" for key in CIRCUMSTANCES]
    plots = [plot for plot in (quality_plot(result), spectrum_plot(result)) if plot is not None]
    names = [named(i, label) for i, label in enumerate(result.labels)]
    ranks = [
        (name, [f"{x.rank + x.residual_rank} ({formats.percent(x.energy)})" for x in found])
        for name, *found in zip(result.spectra, *(result.replaced[label] for label in result.labels[1:]), strict=True)
    ]
    by_layer = plain_table("Layer", result.labels[1:], ranks, caption="Rank and energy kept", class_="wide")
    box = el("div", by_layer, class_="scroll", tabindex="0", role="region", aria_label="Ranks of every layer")
    text = page(
        "compress",
        ref.title,
        eyebrow=result.folder.name,
        heading=f"{ref.title}, factorised",
        answer=[el("p", el("strong", result.answer), ".", class_="answer")],
        sections=[
            el("section", card(to_html(table, names, caption=LEGEND)), class_="top single"),
            section("By rank", el("div", [figure(plot) for plot in plots], class_="grid")),
            section("Layers", card(box)),
        ],
        method=method(result),
        facts=result.facts(("Model", f"{ref.name}, weights {ref.state}")),
        models="Model",
    )
    markdown = "\n".join([*head, *lines, "", to_markdown(table)])
    about = {"model": str(ref.folder or ref.name), "doubt": result.doubt, "layers": layers}
    return result.write("compress", about, text, table=markdown, plots=plots)
