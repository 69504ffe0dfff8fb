"""Fewer image tokens without another training, by what is in the image alone: one state serves every question.

Each is a function of features (b, n, c) and their grid to fewer features, in their order, and a grid or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.core.errors import ModelError

Grid = tuple[int, int]
Reduce = Callable[[Tensor, Grid | None], tuple[Tensor, Grid | None]]
DOMINANT = 0.84  # of VisionZip's kept tokens: 54 of 64, the others are merged ones


def random(x: Tensor, grid: Grid | None, keep: float) -> tuple[Tensor, None]:
    """As many tokens drawn by lot, the same places in every image: what a method has to be better than."""
    n = x.shape[1]
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: kept(n, keep)].sort().values
    return x[:, chosen.to(x.device)], None


def pool(x: Tensor, grid: Grid | None, keep: float) -> tuple[Tensor, Grid]:
    """Means over the cells of a smaller grid.

    Raises:
        ModelError: there is no grid.
    """
    if grid is None:
        raise ModelError("pooling needs the grid of the features, which CLS tokens do not have")
    side = math.sqrt(keep)
    small = (max(1, round(grid[0] * side)), max(1, round(grid[1] * side)))
    maps = F.adaptive_avg_pool2d(x.mT.unflatten(2, grid), small)
    return maps.flatten(2).mT, small


def tome(x: Tensor, grid: Grid | None, keep: float) -> tuple[Tensor, None]:
    """The most similar tokens become their mean, weighted by how many each stands for, again and again.

    Source: Bolya et al. 2023 (arXiv:2210.09461), section 3, bipartite soft matching; here after the encoder, whose time
    it leaves as it is, with the features themselves as keys.
    """
    b, n, _ = x.shape
    place = torch.arange(n, device=x.device, dtype=torch.float32).expand(b, n)
    size = torch.ones(b, n, 1, device=x.device, dtype=x.dtype)
    wanted = kept(n, keep)
    while x.shape[1] > wanted:
        x, size, place = merge(x, size, place, min(x.shape[1] - wanted, x.shape[1] // 2))
    order = place.argsort(1)
    return x.gather(1, order[..., None].expand_as(x)), None


def merge(x: Tensor, size: Tensor, place: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every second token looks for the most similar of the others; the r most similar pairs become one."""
    metric = F.normalize(x.float(), dim=-1)
    scores = metric[:, ::2] @ metric[:, 1::2].mT
    best, partner = scores.max(-1)
    order = best.argsort(1, descending=True)
    gone, stay = order[:, :r], order[:, r:].sort(1).values
    target = partner.gather(1, gone)

    def rows(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

    one, other, own, others = x[:, ::2] * size[:, ::2], x[:, 1::2] * size[:, 1::2], size[:, ::2], size[:, 1::2]
    other = other.scatter_add(1, target[..., None].expand(-1, -1, x.shape[-1]), rows(one, gone))
    others = others.scatter_add(1, target[..., None], rows(own, gone))
    merged = torch.cat([rows(one, stay) / rows(own, stay), other / others], 1)
    sizes = torch.cat([rows(own, stay), others], 1)
    return merged, sizes, torch.cat([place[:, ::2].gather(1, stay), place[:, 1::2]], 1)


def visionzip(x: Tensor, grid: Grid | None, keep: float) -> tuple[Tensor, None]:
    """The tokens that the others attend to most, and the rest merged into a few by likeness.

    Source: Yang et al. 2024 (arXiv:2412.04467). Attention is that of the features to each other, softmax of their
    products, since not every encoder has a CLS token or attention at all.
    """
    n, c = x.shape[1:]
    wanted = kept(n, keep)
    first = max(1, min(wanted, round(wanted * DOMINANT)))
    metric = F.normalize(x.float(), dim=-1)
    weight = (metric @ metric.mT * math.sqrt(c)).softmax(-1).mean(1)  # what each receives
    order = weight.argsort(1, descending=True)
    chosen, rest = order[:, :first].sort(1).values, order[:, first:].sort(1).values
    dominant = x.gather(1, chosen[..., None].expand(-1, -1, c))
    count = wanted - first
    if not count:
        return dominant, None
    left, keys = (values.gather(1, rest[..., None].expand(-1, -1, c)) for values in (x, metric.to(x.dtype)))
    centres = torch.linspace(0, rest.shape[1] - 1, count, device=x.device).round().long()
    nearest = (keys @ keys[:, centres].mT).argmax(-1)  # (b, rest)
    one_hot = F.one_hot(nearest, count).to(x.dtype)
    means = one_hot.mT @ left / one_hot.sum(1)[..., None].clamp(min=1)
    places = torch.cat([chosen, rest[:, centres]], 1).argsort(1)
    return torch.cat([dominant, means], 1).gather(1, places[..., None].expand(-1, -1, c)), None


def kept(n: int, keep: float) -> int:
    """How many of n tokens are kept."""
    return max(1, round(n * keep))


METHODS: dict[str, Callable[..., Any]] = {"random": random, "pool": pool, "tome": tome, "visionzip": visionzip}


def reducer(method: str, keep: float) -> Reduce:
    """A method of `METHODS` that keeps a share of the tokens, for `LlavaMamba.reduce`.

    Raises:
        ModelError: there is none of that name, or the share is not above 0 and at most 1.
    """
    if method not in METHODS:
        raise ModelError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0 < keep <= 1:
        raise ModelError(f"keep must be above 0 and at most 1, got {keep}")
    return lambda x, grid: METHODS[method](x, grid, keep)
