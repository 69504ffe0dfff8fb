"""The parts of the page that say what came out: answer, table, curves, confusion, classes, samples."""

import base64
import struct
from collections.abc import Sequence

import numpy as np

from ssmlab.core import formats
from ssmlab.reports import lengths as by_length
from ssmlab.reports import series, theme
from ssmlab.reports.markup import Html, el, join, words
from ssmlab.reports.plots import Plot
from ssmlab.reports.run_folder import Run, Sample
from ssmlab.reports.tables import MOST_COLUMNS, Table, to_html
from ssmlab.reports.verdict import Winner

_LARGEST_MATRIX = 25
PER_CLASS = (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1"))
MOST_WITH_THREE = 3  # models whose three measures a class fit side by side
_LARGEST_IMAGE = 2_000_000
_IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_PRICES = (
    ("parameters", "Parameters"),
    ("macs", "MAC per {item}"),
    ("train_seconds", "Training time"),
    ("images_per_second", "{Items} per second"),
    ("tokens_per_second", "Tokens per second"),
)


def chip(index: int) -> Html:
    """A model's mark in the colour and shape that the plots use."""
    shapes = {
        "o": '<circle cx="5" cy="5" r="4.5"/>',
        "s": '<rect x="0.8" y="0.8" width="8.4" height="8.4"/>',
        "^": '<path d="M5 .5 9.6 9.3H.4z"/>',
        "D": '<path d="M5 0 10 5 5 10 0 5z"/>',
        "v": '<path d="M5 9.5 9.6.7H.4z"/>',
        "P": '<path d="M3.2 0h3.6v3.2H10v3.6H6.8V10H3.2V6.8H0V3.2h3.2z"/>',
    }
    variable = theme.VARIABLES[theme.colour(index)]
    shape = shapes[theme.marker(index)]
    return Html(f'<svg class="chip" viewBox="0 0 10 10" fill="var({variable})" aria-hidden="true">{shape}</svg>')


def named(index: int, title: str) -> Html:
    """A model's mark and name; the mark stays with the first word."""
    first, *rest = title.split(" ", 1)
    return join([el("span", chip(index), words(first), class_="whole"), *(words(" " + text) for text in rest)])


def _shade(index: int) -> str:
    return f"--shade:var({theme.VARIABLES[theme.colour(index)]})"


def _scroll(content: Html, what: str, tall: bool = False) -> Html:
    """A box that scrolls by itself, also with the keyboard."""
    return el(
        "div",
        content,
        class_="scroll tall" if tall else "scroll",
        tabindex="0",
        role="region",
        aria_label=what,
    )


def figure(plot: Plot) -> Html:
    drawing = el("div", Html(theme.inline(plot.svg, plot.name)), role="img", aria_label=plot.alt)
    return el("figure", drawing, el("figcaption", plot.caption) if plot.caption else None, class_="card")


def header(run: Run, verdict: Winner) -> Html:
    description = str(run.info.get("description") or "").strip()
    task = str(run.info.get("task") or run.records[0].task or "run")
    short = description if 0 < len(description) <= 110 else run.name
    warnings: list[str] = list(run.problems)
    if not run.finished and run.info:
        parts = []
        for label in run.labels:
            steps = [r.step for r in run.records if r.model == label and r.step is not None]
            if run.final(label, run.primary_metric.metric) is not None:
                parts.append(f"{run.titles[label]} is tested")
            elif steps:
                parts.append(f"{run.titles[label]} has reached step {max(steps):,}")
            else:
                parts.append(f"{run.titles[label]} has no numbers yet")
        command = str(run.info.get("command") or "ssmlab run RECIPE")
        resume = command if "--resume" in command else f"{command} --resume"
        stopped = words(f"This run was stopped half-way or is still running: {'; '.join(parts)}. Continue it with ")
        warnings.insert(0, join([stopped, el("code", resume), "."]))
    return el(
        "header",
        el("p", f"ssmlab report · {task} · {run.name}", class_="eyebrow"),
        el("h1", words(short.rstrip("."))),
        el("p", description, class_="lede") if description and short != description else None,
        el(
            "p",
            el("strong", words(verdict.headline + ": ")),
            words(verdict.detail),
            class_=f"answer {verdict.kind}",
        ),
        el("div", [el("p", text) for text in warnings], class_="banner", role="note") if warnings else None,
    )


def top(run: Run, verdict: Winner, table: Table, margin: Plot | None) -> Html:
    """The comparison table and, next to it, the margin with its interval and its price."""
    side = _margin(run, verdict, margin)
    marks = "● marks the best of a measure; brackets hold 95 % intervals, parentheses the range."
    names = [named(i, title) for i, title in enumerate(table.columns)]
    shown = to_html(table, names, caption=" ".join((*table.notes, *([marks] if table.marked else []))))
    boxes = [el("div", shown, class_="card"), side]
    return el(
        "section",
        boxes,
        class_="top" if side is not None and len(table.columns) <= MOST_COLUMNS else "top single",
        id="comparison",
        aria_label="Comparison",
    )


def _margin(run: Run, verdict: Winner, plot: Plot | None) -> Html | None:
    if verdict.leader is None or verdict.runner_up is None or verdict.difference is None:
        return None
    leader, other, primary = run.titles[verdict.leader], run.titles[verdict.runner_up], run.primary_metric
    _, low, high = verdict.difference
    known = low == low
    interval = (
        f"95 % interval {primary.gap(low)} to {primary.gap(high)}" if known else "no interval: predictions missing"
    )
    conclusion = "The interval excludes zero." if verdict.clear else f"{verdict.headline}: {verdict.reason}."
    prices = []
    for metric, name in _PRICES:
        a, b = run.final(verdict.leader, metric), run.final(verdict.runner_up, metric)
        if a and b:
            prices.append([el("dt", run.task.per_pass(name)), el("dd", formats.ratio(a / b))])
    drawing = el("div", Html(theme.inline(plot.svg, plot.name)), role="img", aria_label=plot.alt) if plot else None
    return el(
        "aside",
        el("h3", words(f"{leader} {'minus' if primary.higher_is_better else 'below'} {other}, test {primary.name}")),
        el("p", primary.gap(verdict.difference.value), " ", el("small", primary.unit), class_="big"),
        el("p", interval + ". " + (conclusion if known else ""), class_="note"),
        drawing,
        [el("h3", words(f"Cost relative to {other}")), el("dl", prices)] if prices else None,
        class_="card",
        aria_label="Margin",
    )


def legend(run: Run, *, strokes: bool = False, titles: Sequence[str] = ()) -> Html:
    """Which mark is which model, once for several plots; those of the run where no `titles` are given."""
    own = titles or [run.titles[label] for label in run.labels]
    marks = [el("span", named(i, title)) for i, title in enumerate(own)]
    if strokes:
        for name, dash in (("validation part", ""), ("training part", ' stroke-dasharray="5 3"')):
            path = f'<path d="M0 4H26" stroke="currentColor" stroke-width="2"{dash}/>'
            line = f'<svg class="stroke" viewBox="0 0 26 8" aria-hidden="true">{path}</svg>'
            marks.append(el("span", Html(line), name))
    return el("p", marks, class_="legend")


def curves(run: Run, drawn: dict[str, Plot]) -> Html | None:
    names = dict.fromkeys(("curves-loss", f"curves-{run.primary_metric.metric}"))  # one where the loss is what decides
    found = [drawn[name] for name in names if name in drawn]
    if not found:
        return None
    return join([legend(run, strokes=True), el("div", [figure(plot) for plot in found], class_="grid")])


def lengths(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """Plots and tables of what was measured at several lengths."""
    found = [figure(plot) for name, plot in drawn.items() if name.startswith("length-")]
    if not found:
        return None
    return join([legend(run), el("div", found, class_="grid"), by_length.tables(run)])


def roc_and_speed(run: Run, drawn: dict[str, Plot]) -> Html | None:
    found = [drawn[name] for name in ("roc", "accuracy-throughput") if name in drawn]
    return join([legend(run), el("div", [figure(plot) for plot in found], class_="grid")]) if found else None


def confusion(run: Run) -> Html | None:
    classes = run.classes
    every = ((i, label, series.confusion(run, label, classes)) for i, label in enumerate(run.labels))
    found = [(i, label, matrix) for i, label, matrix in every if matrix is not None]
    if not found:
        return None
    boxes = []
    for index, label, matrix in found:
        wrong = series.mistakes(matrix, classes, 3 if len(classes) <= _LARGEST_MATRIX else 12)
        said = [f"{true} taken for {predicted} ({n} of {of})" for true, predicted, n, of in wrong]
        caption = f"Most frequent mistakes: {'; '.join(said)}." if said else "No mistakes."
        table = el("ol", [el("li", text) for text in said], class_="mistakes")
        if len(classes) > _LARGEST_MATRIX:
            caption = f"{int(matrix.sum() - matrix.trace()):,} mistakes altogether."
        if len(classes) <= _LARGEST_MATRIX:
            table = _scroll(_matrix(matrix, classes, index), f"Confusion matrix of {run.titles[label]}")
        title = el("h3", named(index, run.titles[label]))
        boxes.append(el("figure", title, table, el("figcaption", caption), class_="card"))
    lede = (
        f"Counts of test {run.items[1]}: rows are true classes, columns predictions; the shade is the share of the row."
    )
    if len(classes) > _LARGEST_MATRIX:
        lede = f"The matrices of {len(classes)} classes are in plots/; here are the most frequent mistakes."
    if len(run.seeds) > 1:
        lede += " Summed over the seeds."
    return join([el("p", lede, class_="lede"), el("div", boxes, class_="grid")])


def _matrix(matrix: np.ndarray, classes: list[str], index: int) -> Html:
    long = "long" if max(map(len, classes)) > 4 else None
    names = [el("th", el("span", series.shorten(name)), scope="col", title=name, class_=long) for name in classes]
    rows = []
    for name, counts in zip(classes, matrix, strict=True):
        cells = []
        for count in counts:
            share = count / max(counts.sum(), 1)
            # A single mistake among hundreds would be invisible; every one gets some shade.
            shown = max(share, 0.15) if count else 0
            # Black text turns to white at different depths in the light and the dark scheme.
            kind = "zero" if not count else "deep" if share > 0.85 else "middle" if share > 0.6 else None
            said = el("small", formats.percent(share)) if len(classes) <= 4 else None
            text = [f"{count}", said] if count else "·"
            cells.append(el("td", text, class_=kind, style=f"--share:{100 * shown:.0f}%"))
        rows.append(el("tr", el("th", series.shorten(name), scope="row", title=name), cells))
    corner = el("th", el("span", "predicted →", el("br"), "true ↓", class_="axis"), class_="left")
    return el("table", el("thead", el("tr", corner, names)), el("tbody", rows), class_="matrix", style=_shade(index))


def per_class(run: Run) -> Html | None:
    """Precision, recall and F1 of every class, side by side for the models; of more than three models F1 alone."""
    labels = [m for m in run.labels if any(run.final(m, "f1", name) is not None for name in run.classes)]
    if not labels:
        return None
    shown = PER_CLASS if len(labels) <= MOST_WITH_THREE else PER_CLASS[-1:]
    above = [
        el("th", named(run.labels.index(m), run.titles[m]), scope="colgroup", colspan=len(shown), class_="first left")
        for m in labels
    ]
    below = [
        el("th", name, scope="col", class_="first" if name == shown[0][1] else None)
        for _ in labels
        for _, name in shown
    ]
    left = [
        el("th", "Class", scope="col", rowspan=2, class_="left"),
        el("th", run.items[1].capitalize(), scope="col", rowspan=2),
    ]
    table = el(
        "table",
        el("thead", el("tr", left, above), el("tr", below)),
        el("tbody", [_class_row(run, labels, shown, name, name) for name in run.classes]),
        el("tfoot", [_class_row(run, labels, shown, name, f"{name} average") for name in ("macro", "weighted")]),
        class_="wide classes cards",
    )
    lede = "The bar under F1 is its value, the better of a row is bold. "
    if shown != PER_CLASS:
        lede += "Precision and recall are in records.jsonl. "
    hardest = []
    for label in labels:
        scores = [(value, c) for c in run.classes if (value := run.final(label, "f1", c)) is not None]
        if len(scores) >= 3:
            value, name = min(scores)
            hardest.append(f"Hardest for {run.titles[label]}: {name} (F1 {formats.percent(value)}).")
    lede += " ".join(hardest)
    box = _scroll(table, "Measures per class", tall=len(run.classes) > _LARGEST_MATRIX)
    return join([el("p", lede, class_="lede"), el("div", box, class_="card")])


def _class_row(run: Run, labels: list[str], measures: tuple, name: str, shown: str) -> Html:
    scores = [run.final(m, "f1", name) for m in labels]
    best = max((score for score in scores if score is not None), default=None)
    support = next((v for m in labels if (v := run.final(m, "support", name)) is not None), None)
    number = formats.UNKNOWN if support is None else formats.whole(support)
    cells = [el("td", number, data_label=run.items[1].capitalize())]
    for label, f1 in zip(labels, scores, strict=True):
        for metric, title in measures:
            first = "first" if metric == measures[0][0] else ""
            value, style = run.final(label, metric, name), None
            said = formats.UNKNOWN if value is None else formats.percent(value)
            if metric == "f1":
                style = None if f1 is None else f"{_shade(run.labels.index(label))};--share:{100 * f1:.1f}%"
                first += " bar" + (" lead" if f1 is not None and f1 == best and len(set(scores)) > 1 else "")
            cells.append(
                el("td", said, class_=first.strip() or None, style=style, data_label=f"{run.titles[label]}, {title}")
            )
    return el("tr", el("th", shown, scope="row"), cells)


def samples(run: Run) -> Html | None:
    """Test images with what each model predicted; the ones most models got wrong come first."""
    if not run.samples:
        return None

    def wrong(sample: Sample) -> int:
        return sum(said != sample.label for said, _ in sample.predictions.values())

    cards = []
    for sample in sorted(run.samples, key=wrong, reverse=True):
        content, kind = sample.file.read_bytes(), _IMAGE_TYPES.get(sample.file.suffix.lower())
        if kind is None or len(content) > _LARGEST_IMAGE:
            continue
        # PNG: signature, length, "IHDR", then width and height. Small images are shown as the pixels that they are.
        small = kind == "image/png" and len(content) >= 24 and max(struct.unpack(">II", content[16:24])) < 100
        source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        answers = []
        for label, (predicted, probability) in sample.predictions.items():
            right = predicted == sample.label
            sure = "" if probability is None else f" ({formats.percent(probability, 0)})"
            mark = el("span", "✓ " if right else "✗ ", el("span", "right: " if right else "wrong: ", class_="sr"))
            title = run.titles.get(label, label)
            position = chip(run.labels.index(label)) if label in run.titles else None
            answer = el("span", mark, predicted, class_=None if right else "wrong")
            answers.append(el("p", position, el("span", f"{title}: ", class_="sr"), answer, sure))
        alt = f"Test image {sample.id}, {sample.label}"
        image = el("img", src=source, alt=alt, class_="pixels" if small else None)
        truth = el("p", "true class ", el("strong", sample.label))
        id_ = el("p", series.shorten(sample.id, 40), class_="id", title=sample.id)
        cards.append(el("li", image, truth, answers, id_, class_="card"))
    if not cards:
        return None
    lede = "Test images that a model got wrong come first, so this is no fair sample."
    return join([el("p", lede, class_="lede"), legend(run), el("ul", cards, class_="samples")])
