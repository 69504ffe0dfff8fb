"""Translating with a finished model: texts, and lines of files, as many out as in."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ssmlab.core.device import choose_compute
from ssmlab.core.errors import UserError
from ssmlab.data.pairs.marian import load_words
from ssmlab.data.pairs.subwords import SEP
from ssmlab.generation.beams import Hypothesis
from ssmlab.generation.translate import carries_state, score_tokens, translate_documents, translate_tokens
from ssmlab.tasks.items import name_of
from ssmlab.tasks.opening import open_model
from ssmlab.tasks.translate.options import TranslateOptions

BLANK = Hypothesis([], [], 0.0, "eos")
# Where a sentence ends: after . ! ? … and what closes around them, before a blank. Abbreviations end one too.
SENTENCE = re.compile(r"(?<=[.!?…])[\"'»”’)\]]*(\s+)(?=\S)|(?<=[。！？])(?=\S)")


class Translation(NamedTuple):
    """What a text became.

    text: empty for a text that is empty or blank, which no model sees.
    score: sum of the logarithms of its tokens' probabilities, the end counted, by n^length_penalty.
    reason: "eos", or "length" where it reached the limit.
    tokens: the new ones, the end included. logprobs: of each.
    others: further translations of an n-best list, the best first.
    """

    text: str
    score: float
    reason: str
    tokens: list[int]
    logprobs: list[float]
    others: tuple[Translation, ...] = ()


def translate(
    model: Any,
    texts: str | Iterable[str],
    *,
    tokenizer: Any = None,
    options: TranslateOptions | None = None,
    **given: Any,
) -> list[Translation]:
    """Translate texts; of every text its translation, in order.

        translate("runs/multi30k", ["A dog runs."], beams=1)[0].text

    Args:
        model: a translation model, what `fit` returned, or a folder.
        texts: one, or any number of them.
        tokenizer: an object with `encode`, `decode` and `eos`, or its file; None takes the model's own.
        options: how they are translated; the fields of `TranslateOptions` may also be given one by one: beams, nbest,
            length_penalty, no_repeat_ngram, max_tokens, source_prefix, target_prefix, paragraphs, documents,
            batch_tokens, device.
    Raises:
        UserError: the model translates nothing, or an option is unknown or out of range.
    """
    choices = TranslateOptions.of(options, given, "translate")
    opened = open_translator(model, tokenizer=tokenizer, device=choices.device)
    return list(opened.translate([texts] if isinstance(texts, str) else texts, choices))


def open_translator(model: Any, *, tokenizer: Any = None, device: str | None = None) -> Translator:
    """A translation model that is ready to translate.

    Args:
        model, tokenizer: as for `translate`.
        device: "cpu", "cuda" or "mps"; None takes the fastest.
    Raises:
        UserError: the model translates nothing, or nothing says which tokens it has.
    """
    opened = open_model(model)
    network, about = opened.network, opened.about
    if opened.task != "translate":
        raise UserError(
            f"translate needs a translation model, got {name_of(network)}; train one with "
            "`ssmlab run translation/own_files`"
        )
    if tokenizer is None or isinstance(tokenizer, str | Path):
        place = tokenizer or about.get("folder")
        if place is None:
            raise UserError("nothing says what the model's tokens are; give tokenizer=, an object or a tokenizer.json")
        tokenizer = load_words(place)
    separator, eos = about.get("separator_id", getattr(tokenizer, "sep", SEP)), about.get("eos", tokenizer.eos)
    suppress = tuple({separator, getattr(tokenizer, "pad", separator)} - {eos})
    network = network.to(choose_compute(device or "auto", "float32").device).eval()
    return Translator(network, tokenizer, separator, eos, suppress, opened.note)


@dataclass(frozen=True)
class Translator:
    """A translation model and its tokens.

    separator: begins a translation. eos: ends it. suppress: tokens that are never written. note: which of several
    models it is.
    """

    network: Any
    tokenizer: Any
    separator: int
    eos: int
    suppress: tuple[int, ...] = ()
    note: str = ""

    def translate(
        self, texts: Iterable[str], options: TranslateOptions | None = None, **given: Any
    ) -> Iterator[Translation]:
        """The translation of every text, as soon as those of all before it are there; see `translate`.

        Raises:
            UserError: the model has an encoder, which knows no sentences before, and documents are wanted.
        """
        choices = TranslateOptions.of(options, given, "translate")
        if choices.documents and not carries_state(self.network):
            raise UserError(
                f"{name_of(self.network)} has an encoder, which reads each sentence anew; leave out documents, or "
                "take a decoder-only model"
            )
        return self._translated(texts, choices)

    def _translated(self, texts: Iterable[str], choices: TranslateOptions) -> Iterator[Translation]:
        parts: deque[int] = deque()  # sentences of the texts that were read and not yet written

        def sources() -> Iterator[list[list[int]]]:
            for text in texts:
                pieces = sentences(text) if choices.paragraphs else [text]
                parts.append(len(pieces))
                yield [self._tokens(choices.source_prefix, piece) for piece in pieces]

        found: Iterator[list[Hypothesis]]
        prefix = list(map(int, self._target.encode(choices.target_prefix))) if choices.target_prefix else []
        how: dict[str, Any] = {"separator": self.separator, "eos": self.eos, "prefix": prefix}
        how |= {"options": choices, "suppress": self.suppress}
        how |= {"max_tokens": choices.max_tokens, "batch_tokens": choices.batch_tokens}
        if choices.documents:
            every = translate_documents(self.network, documents(sources()), **how)
            found = (line for document in every for line in document or [[BLANK]])
        else:
            found = translate_tokens(self.network, (piece for pieces in sources() for piece in pieces), **how)
        for first in found:
            pieces = [first, *(next(found) for _ in range(parts.popleft() - 1))]
            if len(pieces) > 1:
                yield _joined([self._translation(best, prefix) for best, *_ in pieces], choices.length_penalty)
            else:
                best, *others = (self._translation(one, prefix) for one in first)
                yield best._replace(others=tuple(others))

    def score(
        self, pairs: Iterable[tuple[str, str]], options: TranslateOptions | None = None, **given: Any
    ) -> Iterator[Translation]:
        """How likely the model finds given translations, of pairs (source, translation), in order. To a blank source
        there is nothing to say: its translation is empty. Of the options only length_penalty, source_prefix and
        batch_tokens act."""
        choices = TranslateOptions.of(options, given, "score")
        waiting: deque[tuple[str, list[int]]] = deque()

        def tokens() -> Iterator[tuple[list[int], list[int]]]:
            for source, target in pairs:
                own = self._tokens(choices.source_prefix, source)
                words = list(map(int, self._target.encode(target))) if own and target else []
                waiting.append((target if own else "", words))
                yield own, words

        marks = {"separator": self.separator, "eos": self.eos}
        for logs in score_tokens(self.network, tokens(), **marks, batch_tokens=choices.batch_tokens):
            text, words = waiting.popleft()
            total = sum(logs) / max(1, len(logs)) ** choices.length_penalty
            yield Translation(text, total, "eos", [*words, self.eos] if logs else [], logs)

    @property
    def _target(self) -> Any:
        """The tokens of translations, which OPUS-MT's models have apart."""
        return getattr(self.tokenizer, "target", self.tokenizer)

    def _tokens(self, prefix: str, text: str) -> list[int]:
        """Of a text that is not blank."""
        return list(map(int, self.tokenizer.encode(prefix + text))) if text.strip() else []

    def _translation(self, found: Hypothesis, prefix: list[int]) -> Translation:
        words = found.tokens[:-1] if found.reason == "eos" else found.tokens
        text = self._target.decode([*prefix, *words]) if found.tokens else ""
        return Translation(text, found.score, found.reason, found.tokens, found.logprobs)


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph, at least one text: a rule for many languages, which no abbreviation is known to."""
    pieces, begin = [], 0
    for match in SENTENCE.finditer(text):
        pieces.append(text[begin : match.start(1) if match[1] else match.end()])
        begin = match.end()
    return [*pieces, text[begin:]]


def documents(texts: Iterable[list[list[int]]]) -> Iterator[list[list[int]]]:
    """Documents, the tokens of their sentences, from those of texts. A blank text ends one, and is one without
    sentences itself."""
    document: list[list[int]] = []
    for sentence in (piece for pieces in texts for piece in pieces):
        if sentence:
            document.append(sentence)
            continue
        if document:
            yield document
        document = []
        yield []
    if document:
        yield document


def _joined(parts: list[Translation], length_penalty: float) -> Translation:
    """The translation of a paragraph from those of its sentences."""
    tokens = [token for part in parts for token in part.tokens]
    logs = [log for part in parts for log in part.logprobs]
    score = sum(logs) / max(1, len(logs)) ** length_penalty
    reason = "length" if any(part.reason == "length" for part in parts) else "eos"
    return Translation(" ".join(part.text for part in parts if part.text), score, reason, tokens, logs)
