"""An explanation of texts as files: a page with every token in its colour, and whether the colours mean something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp, now
from ssmlab.reports.markup import Html, el, words
from ssmlab.studies import study
from ssmlab.studies.explain.texts import AnswerFound, Piece, Reader, SequenceFound, TextOptions

STYLE = """.tokens { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; }
.tokens { font-family: ui-monospace, monospace; }
.tokens span { border-radius: 3px; padding: 2px 0; }
.for { background: rgb(201 79 0 / var(--share)); }
.against { background: rgb(0 105 173 / var(--share)); }
h3.apart { margin-top: 18px; }
"""
METHOD = (
    ("Integrated gradients", "The gradient of the answer's logit on the way from the mean embedding to each token's "
     "own, times the difference (arXiv:1703.01365), summed over channels. Orange speaks for the answer, blue against "
     "it; the strongest token has the full colour."),
    ("Hidden attention", "A scan is a matrix times its input (arXiv:2403.01590). Shown is the row of the last token, "
     "or the mean of all rows where the model takes the mean over tokens: absolute values, a mean over channels and "
     "layers. It says what could be taken up, not what it was used for."),
    ("Deletion, insertion", "The answer's probability while tokens are replaced by the mean embedding, those with the "
     "largest values first, and while they come back (arXiv:1806.07421). The number is the area under the curve: small "
     "is good for deletion, large for insertion, and a random order is what both have to beat."),
    ("Rest", "What the sum of the integrated gradients lacks of the difference between the logit of the sequence and "
     "of one without content; small compared with the largest values is good."),
)  # fmt: skip


def page(
    title: str, found: Sequence[SequenceFound], folder: str, facts: list[tuple[str, str]], warning: str = ""
) -> str:
    """The page's text.

    Args:
        title: the model's. warning: why its answers say little.
        folder: the name of the report's.
        facts: name and text of the circumstances at the end.
    """
    one = len(found) == 1
    heading = f"{title}: {found[0].name if one else formats.plural(len(found), 'sequence') + ' explained'}"
    answer = "; ".join(f"{each.name}: {predicted(each)}" for each in found[:4])
    return study.page(
        "explain",
        heading,
        eyebrow=folder,
        heading=heading,
        answer=[
            el("p", words(answer), class_="answer"),
            el("p", warning, class_="banner", role="note") if warning else None,
        ],
        sections=[
            study.section(
                each.name, el("p", predicted(each, 5), class_="lede"), *(_answer(answer) for answer in each.answers)
            )
            for each in found
        ],
        method=METHOD,
        facts=facts,
        models="Model",
        made="colours",
        files="the numbers are in records.jsonl, those of all tokens in explain.json",
        style=STYLE,
    )


def predicted(found: SequenceFound, count: int = 2) -> str:
    """The first answers with their probabilities: "spam (91.0 %), ham (9.0 %)"."""
    return ", ".join(f"{name} ({formats.percent(p)})" for name, p in found.ranking[:count])


def records_of(found: Sequence[SequenceFound]) -> list[Record]:
    """Probabilities, areas of the curves by method, and what integrated gradients lack, by "sequence / answer"."""
    rows = []
    for sequence in found:
        for answer in sequence.answers:
            place = f"{sequence.name} / {answer.name}"
            rows.append(Record(metric="probability", value=answer.probability, unit="fraction", class_=place))
            rows.append(Record(metric="completeness_error", value=answer.error, class_=place))
            for method, curves in answer.curves.items():
                rows += [
                    Record(metric=f"{kind}_auc", value=float(curve.auc), unit="fraction", class_=f"{place} / {method}",
                           n=len(curve.shares))
                    for kind, curve in curves.items()
                ]  # fmt: skip
    return rows


def write_texts(
    folder: Path,
    reader: Reader,
    found: Sequence[SequenceFound],
    settings: TextOptions,
    stamp: Stamp,
    started: str,
    warning: str = "",
) -> Path:
    """Write explain.json, records.jsonl and last the page, each in one step; returns the page's path.

    Args:
        warning: why the model's answers say little.
    """
    report = study.Report(
        folder=folder, records=stamp.on(records_of(found), model=reader.title, seed=settings.seed),
        settings=asdict(settings), stamp=stamp, started=started, finished=now(),
    )  # fmt: skip
    sequences = [
        {"name": each.name, "said": each.ranking, "answers": [
            {"name": a.name, "probability": a.probability, "pieces": [asdict(piece) for piece in a.pieces]}
            for a in each.answers
        ]}
        for each in found
    ]  # fmt: skip
    about = {"model": reader.title, "weights": reader.origin, "sequences": sequences}
    facts = report.facts(("Model", f"{reader.title}, {reader.origin}"))
    return report.write("explain", about, page(reader.title, found, folder.name, facts, warning))


def _answer(answer: AnswerFound) -> list[Html]:
    title = f"{answer.name}, {formats.percent(answer.probability)}"
    boxes = [el("h3", f"Integrated gradients: {title}", class_="apart"),
             _coloured(answer.pieces, [piece.score for piece in answer.pieces])]  # fmt: skip
    attention = [piece.attention for piece in answer.pieces if piece.attention is not None]
    if attention:
        boxes += [el("h3", "Hidden attention of the scans", class_="apart"), _coloured(answer.pieces, attention)]
    if answer.curves:
        kinds = ("deletion", "insertion")
        head = el("tr", [el("th", text, scope="col", class_="left" if text == "Order of the tokens" else None)
                         for text in ("Order of the tokens", "Deletion ↓", "Insertion ↑")])  # fmt: skip
        rows = [
            el("tr", el("th", method, scope="row"), [el("td", f"{float(curves[kind].auc):.3f}") for kind in kinds])
            for method, curves in answer.curves.items()
        ]
        table = el("table", el("thead", head), el("tbody", rows))
        note = el("p", f"Rest of the integrated gradients: {answer.error:+.3f} logits", class_="note")
        boxes += [el("h3", "Are these the tokens that matter?", class_="apart"), el("div", table, note, class_="card")]
    return boxes


def _coloured(pieces: Sequence[Piece], values: Sequence[float]) -> Html:
    most = max(map(abs, values), default=0.0) or 1.0
    shown = [
        el("span", piece.text, class_="for" if value > 0 else "against", title=f"{value:+.4f}",
           style=f"--share: {abs(value) / most:.3f}")
        for piece, value in zip(pieces, values, strict=True)
    ]  # fmt: skip
    return el("div", el("p", shown, class_="tokens"), class_="card")
