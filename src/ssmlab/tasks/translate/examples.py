"""Translations side by side: the sentences on which the models of a run differ most."""

from pathlib import Path

import numpy as np

from ssmlab.core import formats
from ssmlab.core.errors import DataError
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.run_folder import Run
from ssmlab.reports.sections import named
from ssmlab.tasks.translate.scores import REFERENCES, SOURCES, Scores, chrf_of, read_lines
from ssmlab.tasks.translate.together import folders_of

COUNT = 12


def scores_of(run: Run) -> dict[str, Scores]:
    """The scores of every model's first seed, by label, where there are some; what sacreBLEU warns of is noted."""
    found = {}
    for label in run.labels:
        folder = next((folder for folder in folders_of(run, label) if (folder / "records.jsonl").is_file()), None)
        if folder is not None:
            try:
                found[label] = Scores.load(folder)
                run.problems += [f"{run.titles[label]}: {text}" for text in found[label].warnings[:1]]
            except DataError as error:
                run.problems.append(f"{error}.")
    return found


def most_different(scores: dict[str, Scores], count: int = COUNT) -> list[int]:
    """Numbers of the sentences whose chrF++ differs most between models, the largest difference first."""
    values = np.stack([chrf_of(found.chrf) for found in scores.values()])
    spread = values.max(0) - values.min(0)
    order = np.argsort(-spread, kind="stable")[:count]
    return [int(i) for i in order if spread[i] > 0]


def examples(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """The section: source, reference and every model's translation, with the sentence's chrF++."""
    scores = scores_of(run)
    texts = [_lines(run, name) for name in (SOURCES, REFERENCES)]
    counts = {len(found.lines) for found in scores.values()} | {len(lines) for lines in texts if lines is not None}
    if not scores or None in texts or len(counts) > 1:
        return None
    sources, references = texts[0] or [], texts[1] or []
    chosen = most_different(scores) if len(scores) > 1 else [int(i) for i in np.linspace(0, len(sources) - 1, COUNT)]
    cards = []
    for i in dict.fromkeys(chosen):
        rows = [(el("span", "Source"), sources[i], ""), (el("span", "Reference"), references[i], "")]
        for label, found in scores.items():
            value = float(chrf_of(found.chrf[i]))
            title = named(run.labels.index(label), run.titles[label])
            rows.append((title, found.lines[i] or "(empty)", formats.decimal(1)(value)))
        said = [
            [el("dt", name), el("dd", text, el("small", f" chrF++ {value}") if value else None)]
            for name, text, value in rows
        ]
        cards.append(el("div", el("h3", f"Sentence {i + 1:,}"), el("dl", said), class_="card"))
    lede = "Sentences of the test part at equal distances."
    if len(scores) > 1:
        lede = "The sentences of the test part on which chrF++ of the models differs most, so this is no fair sample."
    if len(run.seeds) > 1:
        lede += " Of the first seed."
    return join([el("p", lede, class_="lede"), el("div", cards, class_="grid")])


def _lines(run: Run, name: str) -> list[str] | None:
    path: Path = run.folder / name
    return read_lines(path) if path.is_file() else None
