"""Which rank a factorised layer gets: a number, a share of the energy, or what a budget of operations allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssmlab.adapt.spectrum import Spectrum
from ssmlab.core.errors import UserError


def choose_ranks(
    layers: Sequence[Spectrum],
    *,
    rank: int | None = None,
    energy: float | None = None,
    flops: float | None = None,
) -> list[int]:
    """The rank of every layer by one of three rules.

    Args:
        rank: the same for all; layers that have no more directions than that keep all of theirs.
        energy: the least rank r with ||W - PQ||_F^2 <= (1 - energy) ||W||_F^2, which is what Eckart & Young 1936 make
            of singular values; rounding to the layer's dtype is allowed for. 1 keeps every direction.
        flops: a share of the dense layers' multiply-accumulates that all of them together may use; see `by_budget`.
    Raises:
        UserError: none or several of the rules are given, or a value is out of range.
    """
    given = {name: value for name, value in (("rank", rank), ("energy", energy), ("flops", flops)) if value is not None}
    if len(given) != 1:
        raise UserError(f"give one of rank, energy and flops, got {', '.join(given) or 'none'}")
    if rank is not None:
        if rank < 1:
            raise UserError(f"rank must be at least 1, got {rank}")
        return [min(rank, layer.full) for layer in layers]
    name, share = next(iter(given.items()))
    if not 0 < share <= 1:
        raise UserError(f"{name} is a share above 0 and at most 1, got {share}")
    return [by_energy(layer, share) for layer in layers] if name == "energy" else by_budget(layers, share)


def by_energy(layer: Spectrum, energy: float) -> int:
    """The least rank that meets the error bound of `choose_ranks`, with its factors rounded to the layer's dtype."""
    if energy >= 1:
        return layer.full
    energies = layer.values.square()
    total = float(energies.sum())
    left = total
    for rank, part in enumerate(energies.tolist(), start=1):
        left = max(left - part, 0.0)
        if (math.sqrt(left) + layer.eps * math.sqrt(total)) ** 2 <= (1 - energy) * total:
            return rank
    return layer.full


def by_budget(layers: Sequence[Spectrum], share: float) -> list[int]:
    """Ranks that together stay within a share of the dense layers' multiply-accumulates.

    Greedy: after one direction a layer, the next one is always that with the most energy (as a share of its layer's)
    per multiply-accumulate. A layer stops where another direction would cost more than the dense layer, mn / (m + n).

    Raises:
        UserError: not even rank 1 everywhere is within the budget.
    """
    budget = share * sum(layer.dense_cost for layer in layers)
    spent = sum(layer.cost for layer in layers)
    if spent > budget:
        raise UserError(
            f"flops={share:g} is less than rank 1 of every layer needs; give at least {spent / budget * share:.4g}"
        )
    wanted = []
    for i, layer in enumerate(layers):
        most = max(1, min(layer.full, layer.dense_cost // layer.cost))
        wanted += [(-float(gain) / layer.cost, place, i) for place, gain in enumerate(layer.shares[1:most])]
    ranks, closed = [1] * len(layers), set()
    for _, _, i in sorted(wanted):  # a layer's directions are in order, since their energies fall
        if i not in closed and spent + layers[i].cost <= budget:
            ranks[i] += 1
            spent += layers[i].cost
        else:
            closed.add(i)
    return ranks
