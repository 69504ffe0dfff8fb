"""The tokens of a whole search, each as one native call for all rows, which go on from the state of any other row.

A search reads weights that nobody changes meanwhile, so they are packed once. A state is read where its parent's lies
and written where there is room: the first text that goes on from another takes its place, the others those of texts
that do not go on. Nothing is copied, and a state is in memory once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmlab.generation.decode_program import DecodeProgram, slices
from ssmlab.ops.steps import available, is_plain_inference


def row_program(
    model: Any, state: tuple, beams: int, classes: tuple[type, type], before: RowProgram | None = None
) -> RowProgram | None:
    """The tokens of a search without a gradient, or None where the model must be called.

    Args:
        model: a `LanguageModel` in float32 on the CPU; of Mamba or Mamba-2 layers that nobody has changed.
        state: from which the search begins, a row for every sentence; not changed.
        beams: rows of a sentence, at most.
        classes: of an unchanged model's backbone and of its layers.
        before: of an earlier search, since which no weight has changed; its packed weights are used again.
    """
    weight = model.backbone.embedding.weight
    if not available() or weight.dtype is not torch.float32 or not weight.is_cpu:
        return None
    if not is_plain_inference(torch.empty(0), weight):
        return None
    rows = beams * len(state[0][0])
    if before is not None and before.made.program.rows >= rows and before.made.holds():
        made: DecodeProgram | None = before.made
    else:
        made = DecodeProgram.of(model, rows, classes, by_rows=True)
    return RowProgram(made, state, beams) if made is not None and _fits(made, state) else None


def _fits(made: DecodeProgram, state: tuple) -> bool:
    """Whether states are the model's."""
    return len(state) == len(made.kinds) and all(
        type(own) is kind and own.conv.shape[1:] == conv[1:] and own.ssm.shape[1:] == ssm[1:]
        and own.conv.dtype is own.ssm.dtype is torch.float32 and own.ssm.is_cpu
        for (kind, conv, ssm), own in zip(made.kinds, state, strict=True)
    )  # fmt: skip


class RowProgram:
    """A program by rows and the states of its rows.

    place: of every row that of its state; those of a sentence are `beams` in a row.

    Args:
        made: the program. state: from which it begins, a row for every sentence. beams: rows of a sentence, at most.
    """

    def __init__(self, made: DecodeProgram, state: tuple, beams: int):
        self.made, self.beams, count = made, beams, len(state[0].ssm)
        _, (_, d, past), (_, *ssm) = made.kinds[0]
        rows, dtype = count * beams, torch.float32
        self.conv = torch.empty(len(state), rows, past, d, dtype=dtype)
        self.ssm = torch.empty(len(state), rows, *ssm, dtype=dtype)
        for layer, conv, scan in zip(state, self.conv, self.ssm, strict=True):
            conv[::beams], scan[::beams] = layer.conv.mT, layer.ssm
        self.states = [at for pair in zip(slices(self.conv), slices(self.ssm), strict=True) for at in pair]
        self.sentence, self.place = np.arange(count), np.arange(0, rows, beams)

    def __call__(self, tokens: Tensor, rows: Tensor, sentences: Sequence[int]) -> Tensor:
        """Logits (r, rows of the head) after one token each of `tokens` (r,), read after the states of `rows` (r,).
        They are overwritten by the next call.

        Args:
            sentences: those of the last call's that the rows are of, in order, each with as many rows as the others.
        """
        made, count = self.made, len(tokens)
        self.sentence = self.sentence[sentences]
        parent = self.place[rows.numpy()]
        own, order = self._places(parent.reshape(len(self.sentence), -1))
        made.residual[:count] = torch.nn.functional.embedding(tokens, made.embedding)
        parents, owns, orders = map(torch.from_numpy, (parent, own, order))
        made.program.run_rows(self.states, parents, owns, orders, count // len(self.sentence))
        self.place = own
        return made.logits[:count]

    def _places(self, parent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the states of some rows are written, and in which order, from those of their parents, a line for each
        sentence. What takes its parent's place comes last in its line."""
        lines, width = parent.shape
        first = np.zeros(parent.size, dtype=bool)
        first[np.unique(parent, return_index=True)[1]] = True
        stays = first.reshape(parent.shape)
        begin = self.beams * self.sentence[:, None]
        free = np.ones((lines, self.beams), dtype=bool)
        line, at = np.nonzero(stays)
        free[line, (parent - begin)[line, at]] = False
        room = begin + np.argsort(~free, axis=1, kind="stable")
        turn = np.minimum((~stays).cumsum(1) - 1, self.beams - 1)
        own = np.where(stays, parent, np.take_along_axis(room, np.maximum(turn, 0), 1))
        order = np.argsort(stays, axis=1, kind="stable") + width * np.arange(lines)[:, None]
        return own.ravel(), order.ravel()
