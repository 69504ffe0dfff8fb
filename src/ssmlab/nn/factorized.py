"""A linear layer whose weight is a product of two smaller ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.nn.layers2d import Linear2d
from ssmlab.nn.linear import Linear


class Factorized(nn.Module):
    """y = P (Q x) + bias, optionally + side_P (side_Q x): a linear layer of rank r, and a second, narrow path.

    `P.weight` is (m, r) and `Q.weight` (r, n) for m outputs and n inputs: r (m + n) weights, and as many
    multiply-accumulates a position, in the place of m n. The side path adds its own rank to r.

    Args:
        in_features, out_features: n and m.
        rank: r, from 1 to the smaller of m and n.
        side_rank: of the side path; 0 leaves it out. Both together are at most the smaller of m and n.
        bias: whether there is one.
        channel_first: take and return (b, c, h, w), as `Linear2d` does, instead of channels last.
    Raises:
        ModelError: the ranks are out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        side_rank: int = 0,
        bias: bool = True,
        channel_first: bool = False,
    ):
        super().__init__()
        full = min(in_features, out_features)
        if rank < 1 or side_rank < 0 or rank + side_rank > full:
            raise ModelError(
                f"Factorized: rank must be at least 1 and rank + side_rank at most {full} for {in_features} inputs and "
                f"{out_features} outputs, got {rank} + {side_rank}"
            )
        self.in_features, self.out_features, self.rank, self.side_rank = in_features, out_features, rank, side_rank
        self.channel_first = channel_first
        self.Q = Linear(in_features, rank, bias=False)
        self.P = Linear(rank, out_features, bias=bias)
        self.side_Q = Linear(in_features, side_rank, bias=False) if side_rank else None
        self.side_P = Linear(side_rank, out_features, bias=False) if side_rank else None

    @classmethod
    def like(cls, linear: nn.Linear, rank: int, side_rank: int = 0) -> Factorized:
        """A layer with the sizes, the device and the dtype of a linear one, and with initial values."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            rank,
            side_rank=side_rank,
            bias=linear.bias is not None,
            channel_first=isinstance(linear, Linear2d),
        )
        return layer.to(device=linear.weight.device, dtype=linear.weight.dtype).train(linear.training)

    @property
    def weight(self) -> Tensor:
        """The whole weight (m, n), multiplied out."""
        whole = self.P.weight @ self.Q.weight
        if self.side_P is None or self.side_Q is None:
            return whole
        return whole + self.side_P.weight @ self.side_Q.weight

    @property
    def bias(self) -> Tensor | None:
        return self.P.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features); with `channel_first` the channels are the second axis."""
        if self.channel_first:
            x = x.permute(0, 2, 3, 1)
        y = self.P(self.Q(x))
        if self.side_P is not None and self.side_Q is not None:
            y = y + self.side_P(self.side_Q(x))
        return y.permute(0, 3, 1, 2) if self.channel_first else y

    def extra_repr(self) -> str:
        sizes = "in_features out_features rank side_rank channel_first"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())


def factorized_ranks(module: nn.Module) -> dict[str, list[int]]:
    """[rank, side rank] of every `Factorized` of a module, by name: what builds it again."""
    layers = ((name, child) for name, child in module.named_modules() if isinstance(child, Factorized))
    return {name: [layer.rank, layer.side_rank] for name, layer in layers}


def factorize_like_(module: nn.Module, ranks: Mapping[str, Sequence[int]]) -> nn.Module:
    """Put a `Factorized` with initial values in the place of linear layers, so that saved weights fit.

    Args:
        module: changed in place.
        ranks: as `factorized_ranks` returns them.
    Raises:
        ModelError: a name is none of a linear layer, or its ranks are out of range.
    """
    for name, (rank, side_rank) in ranks.items():
        try:
            linear = module.get_submodule(name)
        except AttributeError:
            linear = None
        if not isinstance(linear, nn.Linear):
            raise ModelError(f"{type(module).__name__} has no linear layer {name!r} that could be factorised")
        module.set_submodule(name, Factorized.like(linear, rank, side_rank))
    return module
