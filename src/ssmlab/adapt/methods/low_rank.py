"""Updates that act on a tensor wherever it is read: low-rank for matrices and rows of them, or a plain difference.

They are torch parametrisations. PEFT's layers need a module that is called, and its own form for parameters wraps the
whole block, renames what is in it and leaves wrapped layers behind when merged; these leave every name where it was,
and merging is exact, because a merged model computes with the very tensor that the unmerged one computed with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Update(nn.Module):
    """What a tensor becomes when it is read; itself while the update is not active."""

    active = True


class LowRank(Update):
    """W + scale B A, on all rows of a matrix or on some; a stack of matrices gets one pair each.

    With `dora` the sum V of those rows is then rescaled to learned norms, m V / |V|, one a row.

    Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1; DoRA, Liu et al. 2024 (arXiv:2402.09353), eq. 5.

    Args:
        weight: what is updated, (out, in), (k, out, in), or a convolution's (out, in, h, w), which is one matrix.
        rank: r.
        scale: alpha / r, or alpha / sqrt(r).
        rows: first and last + 1 of the outputs; None for all.
        dora: whether norms are learned too.
    """

    def __init__(
        self, weight: Tensor, rank: int, scale: float, *, rows: tuple[int, int] | None = None, dora: bool = False
    ):
        super().__init__()
        weight = _matrix(weight)
        *stack, out, width = weight.shape
        self.scale, self.rows = scale, rows or (0, out)
        count = self.rows[1] - self.rows[0]
        wide = torch.promote_types(weight.dtype, torch.float32)
        kind = {"device": weight.device, "dtype": wide}
        bound = math.sqrt(3 / width)
        self.A = nn.Parameter(torch.empty(*stack, rank, width, **kind).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(*stack, count, rank, **kind))
        chosen = weight.detach()[..., self.rows[0] : self.rows[1], :]
        self.m = nn.Parameter(chosen.to(wide).norm(dim=-1, keepdim=True)) if dora else None

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight, in its own dtype."""
        if not self.active:
            return weight
        whole, weight = weight, _matrix(weight)
        first, last = self.rows
        chosen = weight[..., first:last, :] + self.scale * (self.B @ self.A)
        if self.m is not None:
            # the norm is a constant for the gradient, as in the paper's section 4.3
            chosen = chosen * (self.m / chosen.detach().norm(dim=-1, keepdim=True))
        chosen = chosen.to(weight.dtype)
        if last - first == weight.shape[-2]:
            return chosen.view_as(whole)
        return torch.cat([weight[..., :first, :], chosen, weight[..., last:, :]], dim=-2)


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1) if weight.ndim == 4 else weight


class Difference(Update):
    """W + delta: the tensor is trained directly, and what it was stays as it was.

    Decay pulls towards the base then instead of towards zero.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.delta = nn.Parameter(torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)))

    def forward(self, weight: Tensor) -> Tensor:
        """The updated tensor, in its own dtype."""
        if not self.active:
            return weight
        return (weight + self.delta).to(weight.dtype)


class Inserted(Update):
    """The tensor with further rows (or columns) at stated places.

    Args:
        weight: what is widened.
        extra: the new values, of the same shape but for `dim`.
        places: of the new ones in the result, ascending.
        dim: the axis.
    """

    order: Tensor

    def __init__(self, weight: Tensor, extra: Tensor, places: list[int], dim: int):
        super().__init__()
        self.dim = dim % weight.ndim
        old, total = weight.shape[self.dim], weight.shape[self.dim] + len(places)
        fresh = {place: old + i for i, place in enumerate(places)}
        kept = iter(range(old))
        order = [fresh[i] if i in fresh else next(kept) for i in range(total)]
        self.extra = nn.Parameter(extra.to(weight))
        self.register_buffer("order", torch.tensor(order, device=weight.device), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The widened tensor; with zeros in the new places while this is not active."""
        extra = self.extra if self.active else torch.zeros_like(self.extra)
        return torch.cat([weight, extra.to(weight.dtype)], self.dim).index_select(self.dim, self.order)


class Tail(Update):
    """The matrix with other rows from a place on, and more of them.

    Args:
        weight: what is widened, (n, d).
        rows: the new ones, (m, d).
        first: where they begin, n or less.
    """

    def __init__(self, weight: Tensor, rows: Tensor, first: int):
        super().__init__()
        self.first = first
        self.rows = nn.Parameter(rows.to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """The widened matrix (first + m, d); with the old rows, and zeros after them, while this is not active."""
        if self.active:
            return torch.cat([weight[: self.first], self.rows.to(weight.dtype)])
        more = self.first + len(self.rows) - len(weight)
        return torch.cat([weight, weight.new_zeros(more, weight.shape[1])])


class Entries(Update):
    """W with a difference at some of its entries.

    Args:
        weight: what is updated.
        mask: bool, of its shape.
    """

    index: Tensor

    def __init__(self, weight: Tensor, mask: Tensor):
        super().__init__()
        index = mask.flatten().nonzero().squeeze(1)
        self.register_buffer("index", index)
        self.delta = nn.Parameter(torch.zeros(len(index), device=weight.device, dtype=torch.promote_types(
            weight.dtype, torch.float32)))  # fmt: skip

    def forward(self, weight: Tensor) -> Tensor:
        """The updated tensor, in its own dtype."""
        if not self.active:
            return weight
        delta = weight.new_zeros(weight.numel(), dtype=self.delta.dtype).index_put((self.index,), self.delta)
        return (weight + delta.view_as(weight)).to(weight.dtype)


def attach(module: nn.Module, tensor: str, update: Update) -> None:
    """Let every reading of `module.<tensor>` see the update; several act in the order in which they came."""
    with torch.no_grad():
        getattr(module, tensor).mul_(1)  # a new version: who keeps something made of the tensor sees that it is stale
    parametrize.register_parametrization(module, tensor, update.train(module.training), unsafe=True)


def attached(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(module's name, module, tensor's name) of everything that has an update."""
    return [
        (name, module, tensor)
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for tensor in module.parametrizations
        if any(isinstance(update, Update) for update in module.parametrizations[tensor])
    ]


@torch.no_grad()
def bake(model: nn.Module) -> None:
    """Replace every updated tensor by its value; what two modules share stays shared."""
    values: dict[int, tuple[nn.Parameter, Tensor]] = {}
    found = attached(model)
    for _, module, tensor in found:
        original = module.parametrizations[tensor].original
        values[id(original)] = original, getattr(module, tensor).detach().clone()
    for module in {id(module): module for _, module, _ in found}.values():
        # A deep copy shares the class that torch made for the original, and removing takes the tensor's name from it
        shared = type(module)
        own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, shared.__bases__, own)
    for _, module, tensor in found:
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=False)
    for original, value in values.values():
        original.data = value
