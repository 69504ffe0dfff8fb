"""What a token costs a language model, what a pair costs a translation model, and what a sequence's state takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.profiling.flops import Counts, count_flops, count_parameters, evaluation

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


class PairCosts(NamedTuple):
    """Of one sentence pair; equal parameters are not equal work.

    parameters: shared ones count once. embeddings: of these the tables of tokens, the output's included.
    counts: operations of reading a source and its target once, as in training.
    step: operations of one more token of the target.
    state_bytes: the state after the source and one token of the target.
    growth_bytes: by how much it grows with a token of the target.
    """

    parameters: int
    embeddings: int
    counts: Counts
    step: Counts
    state_bytes: int
    growth_bytes: int


def pair_costs(model: Any, source: int, target: int) -> PairCosts:
    """Count a translation model, best on the meta device, where nothing is computed.

    Args:
        model: with `read_source`.
        source, target: tokens of the two sides, the separator counted.
    """
    tables = {id(t): t.numel() for t in (model.backbone.embedding.weight, model.lm_head.weight)}
    tokens = [torch.zeros(1, n, dtype=torch.int64, device=model.lm_head.weight.device) for n in (source, target, 1)]
    with evaluation(model), torch.no_grad():
        first = model(tokens[2], model.read_source(tokens[0]))[1]
        second = model(tokens[2], first)[1]
        counts = count_flops(_Pair(model), (tokens[0], tokens[1]))
        step = count_flops(model, (tokens[2], first))
    sizes = [sum(t.numel() * t.element_size() for t in _tensors(state)) for state in (first, second)]
    total = count_parameters(model)
    return PairCosts(total, sum(tables.values()), counts, step, sizes[0], sizes[1] - sizes[0])


class _Pair(nn.Module):
    """A translation model as a function of source and target."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.model(target, self.model.read_source(source))[0]


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors of nested tuples."""
    if isinstance(state, Tensor):
        yield state
    elif state is not None:
        for part in state:
            yield from _tensors(part)
