"""`ssmlab explain` of texts and other sequences: which tokens a classifier or a language model looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.interpret.scores import Curve
from ssmlab.interpret.tokens import random_curve, token_attention, token_curve, token_logits, token_scores

TOP = 5  # classes or next tokens of a prediction that are listed
PIECES = 400  # of a sequence without a text, such as a sound, that are shown
LONGEST = 2048  # tokens of a sequence that hidden attention is computed for: it takes their square


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How sequences are explained.

    classes: names of classes, or of a language model the text whose first token is explained; none takes what the
        model predicts.
    gradient_steps: of integrated gradients.
    score_steps: of the deletion and insertion curves; 0 leaves them out.
    random: orders of tokens that the curves are compared with.
    seed: of these.
    """

    classes: tuple[str, ...] = ()
    gradient_steps: int = 32
    score_steps: int = 16
    random: int = 4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model of sequences, and what its tokens and its answers are called.

    title, origin: what people call the model, and where its weights come from.
    name_of: an answer's name. find: an answer by its name.
    decode: tokens to text; None where a token is a sample of a sound.
    """

    title: str
    origin: str
    network: Any
    name_of: Callable[[int], str]
    find: Callable[[str], int]
    decode: Callable[[list[int]], str] | None

    def explain(
        self, tokens: list[int], target: int, probability: float, attention: Tensor | None, options: TextOptions
    ) -> AnswerFound:
        """What speaks for one answer about a sequence. attention: what every token gives to it, or None."""
        network = self.network
        scores = token_scores(network, tokens, target, steps=options.gradient_steps)
        curves: dict[str, dict[str, Curve]] = {}
        maps = {"Integrated gradients": scores.values}
        if attention is not None:
            maps["Hidden attention"] = attention
        for kind in ("deletion", "insertion") if options.score_steps else ():
            how: dict[str, Any] = {"insertion": kind == "insertion", "steps": options.score_steps}
            for method, values in maps.items():
                curves.setdefault(method, {})[kind] = token_curve(network, tokens, values, target, **how)
            chance = random_curve(network, tokens, target, orders=options.random, seed=options.seed, **how)
            curves.setdefault("Random order", {})[kind] = chance
        return AnswerFound(
            name=self.name_of(target), probability=probability, error=scores.error, curves=curves,
            pieces=pieces(tokens, scores.values, attention, self.decode),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Tokens that make one readable piece of a text.

    text: itself. score: what they add to the logit. attention: what they give to the answer, by layer's mean, or None.
    """

    text: str
    score: float
    attention: float | None


@dataclass(frozen=True, kw_only=True)
class AnswerFound:
    """One answer about one sequence. curves: method -> "deletion" or "insertion" -> the curve.

    error: what the scores lack of the logit's difference to a sequence without content.
    """

    name: str
    probability: float
    pieces: list[Piece]
    error: float
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SequenceFound:
    """Everything about one sequence: its name, the first answers with their probabilities, and the explained ones."""

    name: str
    ranking: list[tuple[str, float]]
    answers: list[AnswerFound]


def explain_sequences(
    reader: Reader,
    sequences: Sequence[tuple[str, Sequence[int]]],
    options: TextOptions | None = None,
    progress: Progress | None = None,
) -> list[SequenceFound]:
    """Explain what a model says about some sequences.

    Args:
        sequences: names and tokens.
    Raises:
        UserError: the model has no such class.
    """
    options, progress = options or TextOptions(), progress or Progress()
    wanted = [reader.find(name) for name in options.classes]
    found = []
    progress.start("explaining", len(sequences), unit="sequences")
    try:
        for i, (name, tokens) in enumerate(sequences):
            tokens = [int(token) for token in tokens]
            probabilities = token_logits(reader.network, tokens).softmax(-1)
            order = probabilities.argsort(descending=True, stable=True)[:TOP].tolist()
            layers = token_attention(reader.network, tokens) if len(tokens) <= LONGEST else {}
            attention = torch.stack([layer / layer.sum() for layer in layers.values()]).mean(0) if layers else None
            found.append(SequenceFound(
                name=name, ranking=[(reader.name_of(c), float(probabilities[c])) for c in order],
                answers=[reader.explain(tokens, c, float(probabilities[c]), attention, options)
                         for c in wanted or order[:1]],
            ))  # fmt: skip
            progress.update(i + 1)
    finally:
        progress.stop()
    return found


def pieces(
    tokens: list[int], scores: Tensor, attention: Tensor | None, decode: Callable[[list[int]], str] | None
) -> list[Piece]:
    """Tokens joined to pieces that can be shown: whole characters, or equal stretches where there is no text."""
    spans, start = [], 0
    stretch = -(-len(tokens) // PIECES)
    for stop in range(1, len(tokens) + 1):
        text = decode(tokens[start:stop]) if decode else f"{start}-{stop - 1} "
        complete = "\ufffd" not in text or stop - start == 4 if decode else stop - start == stretch
        if complete or stop == len(tokens):
            spans.append((text, slice(start, stop)))
            start = stop
    return [
        Piece(text=text, score=float(scores[own].sum()),
              attention=None if attention is None else float(attention[own].sum()))
        for text, own in spans
    ]  # fmt: skip


def words_of(found: AnswerFound) -> list[tuple[str, float]]:
    """Pieces joined to words by the blanks in between, with their scores; for a terminal."""
    words: list[tuple[str, float]] = []
    for piece in found.pieces:
        begins = not words or piece.text[:1].isspace() or words[-1][0][-1:].isspace()
        before, score = ("", 0.0) if begins else words.pop()
        words.append((before + piece.text, score + piece.score))
    return words


def open_reader(folder: Path, device: str = "auto") -> tuple[Reader, Callable[..., Any]]:
    """The model of sequences in a folder, and what reads files as it does:
    (paths, stdin, texts) -> ([(name, tokens), ...], problems).

    Raises:
        ModelError: it is no such model, or incomplete.
    """
    from ssmlab.checkpoints.find import kind_of
    from ssmlab.data.text.documents import Document
    from ssmlab.models.registry import describe
    from ssmlab.tasks.classify_sequence.predict import SequenceInference
    from ssmlab.tasks.language.chat import open_chat

    if kind_of(folder) == "sequence_classifier":
        model = SequenceInference(folder, device)
        classes = model.classes

        def find(name: str) -> int:
            if name not in classes:
                raise UserError(f"--classes {name!r} is no class of this model; there are {', '.join(classes[:8])}")
            return classes.index(name)

        def read(paths: list[Path], stdin: Callable[[], bytes], texts: Sequence[str]) -> tuple[list, list[str]]:
            found, problems = model.read(paths, stdin) if paths else ([], [])
            found += [Document(_short(text), np.asarray(model.encode(text))) for text in texts]
            return [(each.id, each.tokens) for each in found], problems

        network, decode = model.network, model.decode
        names: Callable[[int], str] = classes.__getitem__
    else:
        chat = open_chat(str(folder), device=device)
        network, decode = chat.network, chat.tokenizer.decode

        def find(name: str) -> int:
            return chat.tokenizer.encode(name)[0]

        def names(token: int) -> str:
            return repr(decode([token]))

        def read(paths: list[Path], stdin: Callable[[], bytes], texts: Sequence[str]) -> tuple[list, list[str]]:
            from ssmlab.tasks.language.prompts import read_text

            content = {str(path): stdin().decode("utf-8") if str(path) == "-" else read_text(path) for path in paths}
            content |= {_short(text): text for text in texts}
            return [(name, chat.encode(text)) for name, text in content.items()], []

    title = describe(str(network.registry_name)) if network.registry_name else folder.name
    reader = Reader(title=title, origin=f"trained, {folder}", network=network.eval(), name_of=names, find=find,
                    decode=decode)  # fmt: skip
    return reader, read


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
