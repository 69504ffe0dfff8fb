"""What a token costs a language model, and what a sequence's state takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.profiling.flops import Counts, count_flops, evaluation

PROMPT = 1024


class TokenCosts(NamedTuple):
    """Of one sequence.

    step: operations of one token after another one, as when text is written.
    prompt: operations of `PROMPT` tokens read at once, altogether.
    state_bytes: the state after two tokens, in the dtype that it has.
    growth_bytes: by how much it grows with a token: 0 but for attention.
    """

    step: Counts
    prompt: Counts
    state_bytes: int
    growth_bytes: int


def token_costs(model: nn.Module) -> TokenCosts:
    """Count a language model, best on the meta device, where nothing is computed.

    Elementwise operations are not counted, and so not the recurrence of S4D, whose states do not depend on the input.
    """
    device = next(model.parameters()).device

    def tokens(count: int) -> Tensor:
        return torch.zeros(1, count, dtype=torch.int64, device=device)

    with evaluation(model), torch.no_grad():
        first = model(tokens(1))[1]
        second = model(tokens(1), first)[1]
        step = count_flops(model, (tokens(1), first))
        prompt = count_flops(model, (tokens(PROMPT),))
    sizes = [sum(t.numel() * t.element_size() for t in _tensors(state)) for state in (first, second)]
    return TokenCosts(step, prompt, sizes[1], sizes[1] - sizes[0])


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors of nested tuples."""
    if isinstance(state, Tensor):
        yield state
    elif state is not None:
        for part in state:
            yield from _tensors(part)
