"""The tokens of a whole search, each as one native call for all rows, which go on from the state of any other row.

A search reads weights that nobody changes meanwhile, so they are packed once, and the states lie in two sets of buffers
that take turns: nothing is copied where a text that goes on has another parent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmlab.generation.decode_program import DecodeProgram, slices
from ssmlab.ops.steps import available, is_plain_inference


def row_program(model: Any, state: tuple, rows: int, classes: tuple[type, type]) -> RowProgram | None:
    """The tokens of a search without a gradient, or None where the model must be called.

    Args:
        model: a `LanguageModel` in float32 on the CPU; of Mamba or Mamba-2 layers that nobody has changed.
        state: from which the search begins, at most `rows` rows of it; not changed.
        rows: at most.
        classes: of an unchanged model's backbone and of its layers.
    """
    weight = model.backbone.embedding.weight
    if not available() or weight.dtype is not torch.float32 or not weight.is_cpu:
        return None
    if not is_plain_inference(torch.empty(0), weight):
        return None
    made = DecodeProgram.of(model, rows, classes, by_rows=True)
    return RowProgram(made, state, rows) if made is not None and _fits(made, state) else None


def _fits(made: DecodeProgram, state: tuple) -> bool:
    """Whether states are the model's."""
    return len(state) == len(made.kinds) and all(
        type(own) is kind and own.conv.shape[1:] == conv[1:] and own.ssm.shape[1:] == ssm[1:]
        and own.conv.dtype is own.ssm.dtype is torch.float32 and own.ssm.is_cpu
        for (kind, conv, ssm), own in zip(made.kinds, state, strict=True)
    )  # fmt: skip


class RowProgram:
    """A program by rows and the states of its rows.

    Args:
        made: the program. state: from which it begins. rows: at most.
    """

    def __init__(self, made: DecodeProgram, state: tuple, rows: int):
        self.made, count = made, len(state[0].ssm)
        _, (_, d, past), ssm = made.kinds[0]
        self.states = [
            (torch.empty(len(state), rows, past, d), torch.empty(len(state), rows, *ssm[1:])) for _ in range(2)
        ]
        for layer, (conv, scan) in zip(state, zip(*self.states[0], strict=True), strict=True):
            conv[:count], scan[:count] = layer.conv.mT, layer.ssm
        self.places = [
            [place for pair in zip(slices(conv), slices(scan), strict=True) for place in pair]
            for conv, scan in self.states
        ]

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Logits (r, vocabulary) after one token each of `tokens` (r,), read after the states of `rows` (r,); they are
        overwritten by the next call."""
        made, count = self.made, len(tokens)
        made.residual[:count] = torch.nn.functional.embedding(tokens, made.embedding)
        before, after = self.places
        made.program.run_rows(before, after, rows.contiguous())
        self.places.reverse()
        return made.logits[:count]
