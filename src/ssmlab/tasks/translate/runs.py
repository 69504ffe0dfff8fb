"""Several runs on one page: scores by the number of training pairs and by the size of the models."""

import numpy as np

from ssmlab.core import formats
from ssmlab.reports import differences, theme
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot, log_axis
from ssmlab.reports.run_folder import Run
from ssmlab.reports.sections import figure, legend
from ssmlab.reports.tables import Sheet, plain_table
from ssmlab.tasks.translate.together import alike, differing

SIZES = (("pairs", "training pairs"), ("parameters", "parameters"))
ALIKE = 1.05  # sizes whose ratio is below count as one: models of one size are matched within 2 %
Spot = tuple[str, str, float, float]  # languages, model, size, BLEU


def languages(run: Run) -> str:
    """ "en-fr", or the data's path where the languages are not known."""
    source, target = run.data.get("source"), run.data.get("target")
    return f"{source}-{target}" if source and target else str(run.data.get("path", run.name))


def pairs_of(run: Run) -> int:
    """Pairs of the training part."""
    counts = run.data.get("counts")
    return int(counts.get("train", 0)) if isinstance(counts, dict) else 0


def titles_of(run: Run) -> list[str]:
    """The models of all runs, each once."""
    return list(dict.fromkeys(each.titles[label] for each in (run, *run.others) for label in each.labels))


def spots(run: Run, size: str) -> list[Spot]:
    """A point for every model of every run that was tested: its size in pairs or parameters, and its BLEU."""
    found = []
    for each in (run, *run.others):
        for label in each.labels:
            bleu = each.final(label, "bleu")
            x = pairs_of(each) if size == "pairs" else each.final(label, "parameters")
            if bleu is not None and x:
                found.append((languages(each), each.titles[label], float(x), bleu))
    return found


def plots(run: Run) -> list[Plot]:
    """BLEU against training pairs and against parameters, where runs differ in them."""
    made = []
    for size, name in SIZES:
        found = spots(run, size)
        sizes = [x for _, _, x, _ in found]
        if run.others and sizes and max(sizes) > ALIKE * min(sizes):
            made.append(_plot(run, size, name, found))
    return made


def _plot(run: Run, size: str, name: str, found: list[Spot]) -> Plot:
    titles = titles_of(run)
    pairs = list(dict.fromkeys(pair for pair, _, _, _ in found))

    def paint(figure):
        axes = figure.add_subplot()
        for title in titles:
            for place, pair in enumerate(pairs):
                line = sorted((x, y) for own, of, x, y in found if (own, of) == (pair, title))
                if line:
                    index = titles.index(title)
                    look = {"linestyle": ("-", "--", ":", "-.")[place % 4], "color": theme.colour(index)}
                    axes.plot(*np.array(line).T, marker=theme.marker(index), markersize=5, **look)
        log_axis(axes.xaxis, axes.set_xscale)
        axes.set(xlabel=name, title="BLEU, test part")

    styles = f" Line styles: {', '.join(pairs)}." if len(pairs) > 1 else ""
    caption = f"Means over seeds; the table has the numbers.{styles}"
    return Plot(f"runs-{size}", theme.draw((380, 260), paint, f"runs{size}"), f"BLEU by {name}. {caption}", caption)


def section(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """BLEU of every model in every run, and the differences of all models of those that have one test part."""
    if not run.others:
        return None
    every, titles = (run, *run.others), titles_of(run)
    rows = []
    for each in every:
        cells: list[str] = [formats.whole(pairs_of(each))]
        labels = {each.titles[label]: label for label in each.labels}
        for title in titles:
            bleu = each.final(labels[title], "bleu") if title in labels else None
            size = each.final(labels[title], "parameters") if title in labels else None
            number = formats.UNKNOWN if bleu is None else formats.decimal(2)(bleu)
            cells.append(number + (f" ({formats.large(size)})" if bleu is not None and size else ""))
        rows.append((f"{each.name}, {languages(each)}", cells))
    same = alike(run)
    apart = [each.name for each in every if not any(each is one for one in same)]
    note = "BLEU of the test part, means over seeds, and parameters."
    if apart:
        note += f" Tested on other sentences, and not to be compared with {run.name}: {', '.join(apart)}."
    table = plain_table("Run", ["Training pairs", *titles], rows, caption=note, class_="wide wrapped")
    figures = [figure(plot) for name, plot in drawn.items() if name.startswith("runs-")]
    box = el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")
    grid = [legend(run, titles=titles), el("div", figures, class_="grid")] if figures else []
    return join([*grid, box, differences.section(differing(run)) if len(same) > 1 else None])


def sheets(run: Run) -> list[Sheet]:
    """The differences of all models of the runs that have one test part, where there are several such runs."""
    return differences.sheets(differing(run)) if len(alike(run)) > 1 else []
