"""Trained linear layers replaced by products of two smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.adapt.ranks import choose_ranks
from ssmlab.adapt.spectrum import Spectrum, spectra
from ssmlab.core.errors import UserError
from ssmlab.nn import Factorized


@dataclass(frozen=True)
class Replaced:
    """A layer that was factorised.

    rank, residual_rank: of P Q and of the side path.
    energy: the share of ||W||_F^2 that both hold.
    dense, parameters: weights of the layer (without its bias) before and after, m n and (rank + residual_rank) (m + n);
        times `positions` they are its multiply-accumulates.
    """

    name: str
    rank: int
    residual_rank: int
    energy: float
    dense: int
    parameters: int
    positions: int


def factorize(
    model: nn.Module,
    targets: str | Sequence[str] = "in_proj",
    *,
    rank: int | None = None,
    energy: float | None = None,
    flops: float | None = None,
    residual_rank: int = 0,
    inputs: Any = None,
    decomposed: Sequence[Spectrum] | None = None,
) -> list[Replaced]:
    """Put P Q of a lower rank in the place of a model's linear layers, in place.

    With W = U S V, P = U S^(1/2) and Q = S^(1/2) V for the first directions: no product of their rank is nearer to W
    (Eckart & Young 1936), and both factors begin with the same norm. They are ordinary parameters, trained directly.

    Args:
        targets: which linear layers, by their whole name or its last part, with * and ?.
        rank, energy, flops: one of them, see `ranks.choose_ranks`.
        residual_rank: rank of a second path that begins with the residual's next largest directions and has parameters
            of its own (`side_P`, `side_Q`), to be trained alone or with P and Q; fewer where not so many are left.
        inputs: an example of the model's argument; with it a budget knows how often each layer is used.
        decomposed: what `spectra` returned for the same layers, to save computing it again.
    Returns:
        What was replaced by what. `registry.save_model` and its kind keep the ranks, so that the model opens again.
    Raises:
        UserError: a target names no linear layer, or a rule is missing or out of range.
    """
    if residual_rank < 0:
        raise UserError(f"residual_rank must not be negative, got {residual_rank}")
    layers = spectra(model, targets, inputs) if decomposed is None else list(decomposed)
    ranks = choose_ranks(layers, rank=rank, energy=energy, flops=flops)
    replaced = []
    for layer, r in zip(layers, ranks, strict=True):
        side = min(residual_rank, layer.full - r)
        linear = model.get_submodule(layer.name)
        assert isinstance(linear, nn.Linear)
        made = Factorized.like(linear, r, side)
        with torch.no_grad():
            _fill(made.P.weight, made.Q.weight, layer, 0, r)
            if made.side_P is not None and made.side_Q is not None:
                _fill(made.side_P.weight, made.side_Q.weight, layer, r, r + side)
        if linear.bias is not None:
            made.P.bias = linear.bias
        model.set_submodule(layer.name, made)
        m, n = linear.weight.shape
        both = r + side
        replaced.append(Replaced(layer.name, r, side, layer.energy(both), m * n, both * (m + n), layer.positions))
    return replaced


def _fill(P: Tensor, Q: Tensor, layer: Spectrum, begin: int, end: int) -> None:
    root = layer.values[begin:end].sqrt()
    P.copy_(layer.U[:, begin:end] * root)
    Q.copy_(root[:, None] * layer.V[begin:end])
