"""Translation of token lists: batches by length, results in the order of the sources; scores of given translations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ssmlab.core.errors import ModelError
from ssmlab.generation.beams import BeamDecoder, Hypothesis, beam_search
from ssmlab.generation.options import BATCH, BeamOptions
from ssmlab.generation.prompt_state import PromptState, left_padded, select_rows

LEAST = 24  # tokens that a short source counts as: its translations take room too
WINDOW = 32  # batches that are sorted by length together, once the first have been written
FACTOR, MORE = 2, 20  # the longest translation of n tokens has FACTOR n + MORE


def translate_tokens(
    model: Any,
    sources: Iterable[Any],
    *,
    separator: int,
    eos: int,
    options: BeamOptions | None = None,
    prefix: Sequence[int] = (),
    suppress: Sequence[int] = (),
    max_tokens: int | None = None,
    batch_tokens: int = BATCH,
) -> Iterator[list[Hypothesis]]:
    """Translate sources, and hand out each translation as soon as all before it are done.

    A translation does not depend on what else is in its batch, but for the rounding of products of other sizes.

    Args:
        model: a translation model in evaluation mode: `read_source(source, mask)` returns the state from which a target
            begins, and the model is called as a `LanguageModel` from there. Its weights may not change meanwhile.
        sources: tokens of every source, lists or arrays; read as they are needed. An empty one has an empty
            translation.
        separator: the token that begins a target. eos: the one that ends it.
        prefix: tokens that every translation begins with; they are in no result.
        suppress: tokens that are never written.
        max_tokens: of every translation, its end counted; None: 2 n + 20 for a source of n tokens, the prefix counted.
        batch_tokens: tokens of the sources that are read at once; a longer source is a batch of its own.
    Yields:
        For every source the best translations, the best first, as `beam_search` returns them.
    Raises:
        ModelError: an option out of range.
    """
    choices, decoder = options or BeamOptions(), BeamDecoder(model)
    for name, value in (("max_tokens", 1 if max_tokens is None else max_tokens), ("batch_tokens", batch_tokens)):
        if type(value) is not int or value < 1:
            raise ModelError(f"{name} must be a whole number of at least 1, got {value!r}")

    def translate(batch: list[Any]) -> list[list[Hypothesis]]:
        if not len(batch[0]):
            return [[Hypothesis([], [], 0.0, "eos")] for _ in batch]
        limits = [max_tokens or max(1, FACTOR * len(source) + MORE - len(prefix)) for source in batch]
        start = begin(model, batch, [[separator, *prefix]] * len(batch))
        return beam_search(model, start, limits, choices, ends=(eos,), suppress=suppress, decoder=decoder)

    return in_order(sources, len, translate, batch_tokens)


def translate_documents(
    model: Any,
    documents: Iterable[Sequence[Any]],
    *,
    separator: int,
    eos: int,
    options: BeamOptions | None = None,
    prefix: Sequence[int] = (),
    suppress: Sequence[int] = (),
    max_tokens: int | None = None,
    batch_tokens: int = BATCH,
) -> Iterator[list[list[Hypothesis]]]:
    """Translate documents line by line, each line from the state after those before it and their translations.

    Args:
        model: a translation model whose `carries_state`.
        documents: of every one the tokens of its lines, none of them empty.
        separator, eos, options, prefix, suppress, max_tokens: as for `translate_tokens`, of every line.
        batch_tokens: tokens of the lines that are read at once, one of each of some documents.
    Yields:
        For every document the best translations of its lines. The state goes on from the best.
    Raises:
        ModelError: an option out of range, or a token that the model does not have.
    """
    choices, decoder = options or BeamOptions(), BeamDecoder(model)

    @torch.no_grad()
    def translate(batch: list[Sequence[Any]]) -> list[list[list[Hypothesis]]]:
        found: list[list[list[Hypothesis]]] = [[] for _ in batch]
        order = sorted(range(len(batch)), key=lambda i: -len(batch[i]))  # those that go on are the first rows
        state: Any = None
        for step in range(len(batch[order[0]])):
            rows = [i for i in order if len(batch[i]) > step]
            if state is not None:
                state = select_rows(state, torch.arange(len(rows), device=next(model.parameters()).device))
            sources = [batch[i][step] for i in rows]
            start = begin(model, sources, [[separator, *prefix]] * len(rows), state)
            limits = [max_tokens or max(1, FACTOR * len(source) + MORE - len(prefix)) for source in sources]
            best = beam_search(model, start, limits, choices, ends=(eos,), suppress=suppress, decoder=decoder)
            written = [one.tokens if one.reason == "eos" else [*one.tokens, eos] for one, *_ in best]
            tokens, mask = _rectangle(model, written)
            _, state = model(tokens, start.state, mask=mask, last_only=True)
            for i, texts in zip(rows, best, strict=True):
                found[i].append(texts)
        return found

    return in_order(documents, lambda lines: max(map(len, lines), default=0), translate, batch_tokens)


def carries_state(model: Any) -> bool:
    """Whether a translation model reads a source after what it has read and written; an encoder reads each anew."""
    return "state" in signature(model.read_source).parameters


def score_tokens(
    model: Any,
    pairs: Iterable[tuple[Any, Any]],
    *,
    separator: int,
    eos: int,
    batch_tokens: int = BATCH,
) -> Iterator[list[float]]:
    """Logarithms of the probabilities of given translations' tokens, their end last.

    Args:
        pairs: tokens of a source and of a translation, lists or arrays, without marks.
    Yields:
        For every pair as many logarithms as the translation has tokens, and one more; none for an empty source.
    """

    @torch.no_grad()
    def score(batch: list[tuple[Any, Any]]) -> list[list[float]]:
        if not len(batch[0][0]):
            return [[] for _ in batch]
        source, seen = _rectangle(model, [source for source, _ in batch])
        tokens, mask = _rectangle(model, [[separator, *target] for _, target in batch])
        labels, _ = _rectangle(model, [[*target, eos] for _, target in batch])
        logits, _ = model(tokens, model.read_source(source, seen), mask=mask)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logs = wide.log_softmax(-1).gather(-1, labels[..., None])[..., 0].tolist()
        return [row[len(row) - len(target) - 1 :] for row, (_, target) in zip(logs, batch, strict=True)]

    return in_order(pairs, lambda pair: len(pair[0]) and len(pair[0]) + len(pair[1]), score, batch_tokens)


@torch.no_grad()
def begin(
    model: Any, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], before: tuple | None = None
) -> PromptState:
    """The state after every source and the beginning of its target, the separator included.

    Args:
        before: the state that sources are read after, of a model whose `carries_state`.
    Raises:
        ModelError: the model reads no sources, or a token that it does not have.
    """
    if not hasattr(model, "read_source"):
        raise ModelError(f"{type(model).__name__} is no translation model: it has no read_source")
    size = model.config.vocab_size
    unknown = sorted({token for row in (*sources, *targets) for token in row if not 0 <= token < size})
    if unknown:
        raise ModelError(f"the model has tokens 0 to {size - 1}, the text has {unknown[:5]}; is the tokenizer its own?")
    if carries_state(model):  # one text: read at once
        tokens, mask = _rectangle(model, [[*source, *target] for source, target in zip(sources, targets, strict=True)])
        logits, state = model(tokens, before, mask=mask, last_only=True)
    else:
        state = model.read_source(*_rectangle(model, sources))
        tokens, mask = _rectangle(model, targets)
        logits, state = model(tokens, state, mask=mask, last_only=True)
    return PromptState(tuple(map(tuple, targets)), logits[:, -1], state)


def in_order(
    items: Iterable[Any], length: Callable[[Any], int], work: Callable[[list[Any]], list[Any]], most: int
) -> Iterator[Any]:
    """What `work` makes of items, in their order, worked on in batches of about the same length.

    Args:
        items: read in windows: of one batch, then of two, of four, up to `WINDOW`.
        length: of an item, in tokens.
        work: a result for every item of a batch. A batch has items of length 0 alone, or none.
        most: tokens of a batch, all counted as long as the longest.
    """
    source, window = iter(items), 1
    while True:
        some, cost = [], 0
        for item in source:
            some.append(item)
            cost += max(length(item), LEAST)
            if cost >= window * most:
                break
        if not some:
            return
        window, following = min(2 * window, WINDOW), 0
        done: dict[int, Any] = {}
        order = sorted(range(len(some)), key=lambda i: length(some[i]))
        batch: list[int] = []
        for i, after in zip(order, [*order[1:], None], strict=True):
            batch.append(i)
            size = 0 if after is None else length(some[after])
            if after is None or (len(batch) + 1) * max(size, LEAST) > most or (size > 0 and not length(some[i])):
                done |= zip(batch, work([some[j] for j in batch]), strict=True)
                batch = []
            while following in done:
                yield done.pop(following)
                following += 1


def _rectangle(model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Tokens (b, l), padded on the left, and where they are, (b, l); None where all are."""
    ids, mask = left_padded(rows, next(model.parameters()).device)
    return ids, None if bool(mask.all()) else mask
