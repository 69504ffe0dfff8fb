"""Texts translated by a trained network: line by line, or as documents in the way that it was trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ssmlab.core.progress import Progress
from ssmlab.generation.options import BATCH, BeamOptions
from ssmlab.generation.translate import translate_documents, translate_tokens

Tokens = Sequence[int] | np.ndarray


class Translated(NamedTuple):
    """Tokens of a translation without its end; whether it ended because it was as long as allowed."""

    tokens: list[int]
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How texts are translated.

    Args:
        separator, eos: the tokens that begin and end a translation. suppress: others that are never written.
        options: of the search.
        group: lines of a document; 1: every line is alone.
        carry: translate a document's lines from the state after those before, instead of all together.
        batch_tokens: tokens of the sources that are translated at once.
        max_tokens: of a line; None: 2 n + 20 for n tokens.
    """

    separator: int
    eos: int
    suppress: tuple[int, ...] = ()
    options: BeamOptions = field(default_factory=lambda: BeamOptions(beams=1))
    group: int = 1
    carry: bool = False
    batch_tokens: int = BATCH
    max_tokens: int | None = None

    def lines(self, network: Any, sources: Sequence[Tokens], progress: Progress | None = None) -> list[Translated]:
        """One translation for every source, in their order. A source without tokens has one without tokens.

        Args:
            network: a translation model in evaluation mode.
            sources: tokens without marks.
        """
        done: dict[int, Translated] = {}
        begins = range(0, len(sources), self.group)
        lines = (range(begin, min(begin + self.group, len(sources))) for begin in begins)
        documents = [full for numbers in lines if (full := [i for i in numbers if len(sources[i])])]
        translate = self._carried if self.carry and self.group > 1 else self._together
        for i, found in translate(network, sources, documents):
            done[i] = found
            if progress:
                progress.update(len(done))
        return [done.get(i, Translated([], False)) for i in range(len(sources))]

    def _together(
        self, network: Any, sources: Sequence[Tokens], documents: list[list[int]]
    ) -> Iterator[tuple[int, Translated]]:
        """Documents as one text each; one whose translation has another number of lines is translated line by line."""
        texts = [self._joined([sources[i] for i in document]) for document in documents]
        alone: list[int] = []
        for document, (tokens, cut) in zip(documents, self._alone(network, texts, self.group > 1), strict=True):
            lines = _split(tokens, self.separator)
            if len(lines) == len(document):
                yield from ((i, Translated(line, cut)) for i, line in zip(document, lines, strict=True))
            else:
                alone += document
        yield from zip(alone, self._alone(network, [sources[i] for i in alone], False), strict=True)

    def _alone(self, network: Any, texts: Sequence[Tokens], separators: bool) -> Iterator[Translated]:
        never = self.suppress if separators else (*self.suppress, self.separator)
        found = translate_tokens(
            network, [list(map(int, text)) for text in texts], separator=self.separator, eos=self.eos,
            options=self.options, suppress=never, batch_tokens=self.batch_tokens, max_tokens=self.max_tokens,
        )  # fmt: skip
        for best, *_ in found:
            yield self._ended(best)

    def _ended(self, best: Any) -> Translated:
        cut = best.reason == "length"
        return Translated(list(best.tokens) if cut else list(best.tokens[:-1]), cut)

    def _joined(self, lines: list[Tokens]) -> list[int]:
        return [token for line in lines for token in (self.separator, *line)][1:]

    def _carried(
        self, network: Any, sources: Sequence[Tokens], documents: list[list[int]]
    ) -> Iterator[tuple[int, Translated]]:
        """Line by line, each from the state after the lines before it and their translations."""
        found = translate_documents(
            network, ([list(map(int, sources[i])) for i in document] for document in documents),
            separator=self.separator, eos=self.eos, options=self.options, suppress=(*self.suppress, self.separator),
            max_tokens=self.max_tokens, batch_tokens=self.batch_tokens,
        )  # fmt: skip
        for document, lines in zip(documents, found, strict=True):
            yield from zip(document, (self._ended(best) for best, *_ in lines), strict=True)


def _split(tokens: list[int], separator: int) -> list[list[int]]:
    lines: list[list[int]] = [[]]
    for token in tokens:
        if token == separator:
            lines.append([])
        else:
            lines[-1].append(token)
    return lines
