"""Reading a prompt with a language model. Its state is a value that can be forked, saved and continued."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.generation.sampling import CHUNK
from ssmlab.nn.cross_attention import CrossKeys


class PromptState(NamedTuple):
    """All that a model needs to go on after the texts of b rows.

    tokens: the tokens of every row.
    logits: of each row's next token, (b, vocabulary).
    state: the layers' states.
    """

    tokens: tuple[tuple[int, ...], ...]
    logits: Tensor
    state: tuple

    def select(self, rows: Sequence[int]) -> PromptState:
        """Some rows, in any order and as often as named: [0, 0, 0] forks the first into three."""
        count = len(self.tokens)
        rows = whole_numbers("rows", rows)
        if not rows or not all(-count <= row < count for row in rows):
            raise ModelError(f"the reading has rows 0 to {count - 1}, got {rows}; name at least one of them")
        index = torch.tensor(rows, dtype=torch.int64, device=self.logits.device) % count
        tokens = tuple(self.tokens[row] for row in rows)
        return PromptState(tokens, self.logits.index_select(0, index), select_rows(self.state, index))


@torch.no_grad()
def read(
    model: Any,
    prompts: Tensor | Sequence[Sequence[int]],
    reading: PromptState | None = None,
    *,
    chunk: int = CHUNK,
) -> PromptState:
    """Read texts, of any lengths, in pieces of bounded memory.

    Args:
        model: a language model.
        prompts: tokens of every row, lists or int64 (b, l). A row may be empty where it continues a reading.
        reading: what comes before; of as many rows, or of one row, which then comes before all of them.
        chunk: tokens of a row that are read at once; all by a model with `reads_whole`.
    Returns:
        The reading; what was passed in stays as it was.
    Raises:
        ModelError: an empty row, a token that the model does not have, or another number of rows.
    """
    if isinstance(prompts, str) or not hasattr(prompts, "__iter__"):
        raise ModelError(f"prompts must be lists of tokens, got {reprlib.repr(prompts)}; encode texts first")
    if isinstance(prompts, Tensor) and prompts.dim() != 2:
        raise ShapeError(f"prompts must be tokens (b, l), got a tensor {tuple(prompts.shape)}")
    rows = [whole_numbers(f"prompt {i}", row) for i, row in enumerate(prompts)]
    _check(model, rows, reading, chunk)
    if reading is not None and len(reading.tokens) != len(rows):
        reading = reading.select([0] * len(rows))
    longest = max(map(len, rows))
    if longest == 0 and reading is not None:
        return reading
    ids, mask = left_padded(rows, model.backbone.embedding.weight.device)
    full = bool(mask.all())
    state, logits = (None, None) if reading is None else (reading.state, reading.logits)
    out = None
    chunk = longest if getattr(model, "reads_whole", False) else chunk
    for begin in range(0, longest, chunk):
        part = slice(begin, begin + chunk)
        out, state = model(ids[:, part], state, mask=None if full else mask[:, part], last_only=True)
    assert out is not None and state is not None
    last = out[:, -1]
    if logits is not None:  # a row without new tokens is where it was
        last = torch.where(mask.any(1, keepdim=True), last, logits)
    before = ((),) * len(rows) if reading is None else reading.tokens
    return PromptState(tuple((*old, *new) for old, new in zip(before, rows, strict=True)), last, state)


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of tokens as int64 (b, l), padded on the left, and bool (b, l), True = token."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([[len(row)] for row in rows], device=device)
    return ids, torch.arange(longest, device=device) >= longest - lengths


def whole_numbers(what: str, values: object) -> list[int]:
    """A list of whole numbers, from a list or a tensor of them.

    Raises:
        ModelError: they are no whole numbers; nothing is rounded.
    """
    if isinstance(values, Tensor):
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool or values.dim() > 1:
            raise ModelError(f"{what} must be whole numbers, got a tensor {tuple(values.shape)} of {values.dtype}")
        values = values.tolist()
    try:
        found = list(values)  # type: ignore[call-overload]
        if any(isinstance(value, (bool, Tensor)) for value in found):
            raise TypeError
        return list(map(operator.index, found))
    except TypeError:
        raise ModelError(f"{what} must be a list of whole numbers, got {reprlib.repr(values)}") from None


def select_rows(state: Any, index: Tensor, sentences: Sequence[int] | None = None) -> Any:
    """The states of some rows of a batch; tensors of their own, whatever happens to the others.

    Args:
        state: a tensor whose first axis are the rows, what has `index_select` as one, or a tuple of states.
        index: (r,), the rows.
        sentences: the sources that these rows are of, in order, each as often as the others; keys of sources, which
            several rows share, are kept once. None: every row has its own.
    """
    if isinstance(state, CrossKeys):
        if sentences is not None:
            if len(sentences) == len(state.k):
                return state
            index = torch.tensor(sentences, device=index.device)
        return CrossKeys(*(part.index_select(0, index) for part in state))
    if hasattr(state, "index_select"):
        return state.index_select(0, index)
    parts = [select_rows(part, index, sentences) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def _check(model: Any, rows: list[list[int]], reading: PromptState | None, chunk: int) -> None:
    if type(chunk) is not int or chunk < 1:
        raise ModelError(f"chunk must be at least 1 token, got {chunk!r}")
    if not rows:
        raise ShapeError("there are no prompts; give at least one row of tokens")
    if reading is None and not all(rows):
        raise ModelError(f"prompt {next(i for i, row in enumerate(rows) if not row)} has no tokens; give at least one")
    if reading is not None and len(reading.tokens) not in (1, len(rows)):
        raise ShapeError(f"the reading has {len(reading.tokens)} rows, the prompts {len(rows)}; select rows of it")
    size = model.config.logits
    unknown = sorted({token for row in rows for token in row if not 0 <= token < size})
    if unknown:
        raise ModelError(
            f"the model has tokens 0 to {size - 1}, the prompt has {unknown[:5]}; is the tokenizer its own?"
        )
