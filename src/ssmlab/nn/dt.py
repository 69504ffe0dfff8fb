"""What blocks with a projected step size share: its rank, and its initial values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError


def checked_rank(block: str, dt_rank: int | str, d_model: int) -> int:
    """The rank of the step size's projection; "auto" is ceil(d_model / 16).

    Raises:
        ModelError: neither "auto" nor at least 1.
    """
    if dt_rank == "auto":
        return math.ceil(d_model / 16)
    if not isinstance(dt_rank, int) or dt_rank < 1:
        raise ModelError(f"{block}: dt_rank must be 'auto' or at least 1, got {dt_rank!r}")
    return dt_rank


@torch.no_grad()
def fill_dt_bias(bias: Tensor, dt_min: float, dt_max: float, floor: float) -> Tensor:
    """Step sizes log-uniform in [dt_min, dt_max], none below `floor`, through the inverse of softplus; in place."""
    if bias.is_meta:  # an outline: arithmetic there would import torch's compiler
        return bias
    dt = torch.empty_like(bias).uniform_(math.log(dt_min), math.log(dt_max)).exp().clamp(min=floor)
    return bias.copy_(dt + torch.log(-torch.expm1(-dt)))


@torch.no_grad()
def init_dt(dt_proj: nn.Linear, dt_min: float, dt_max: float, floor: float) -> None:
    """The projection of the step size: weights uniform by its rank, the bias by `fill_dt_bias`."""
    bound = dt_proj.in_features**-0.5
    nn.init.uniform_(dt_proj.weight, -bound, bound)
    fill_dt_bias(dt_proj.bias, dt_min, dt_max, floor)


def check_sizes(block: str, **sizes: int) -> None:
    """Refuse a size below 1.

    Raises:
        ModelError: names the block, the size and its value.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ModelError(f"{block}: {name} must be at least 1, got {value}")
