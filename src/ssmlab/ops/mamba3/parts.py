"""What the definition and the scan of Mamba-3 share: the maps of heads, rotation, gate and the sum over the ranks."""

import torch
from torch import Tensor
from torch.nn import functional as F


def widest(x: Tensor) -> torch.dtype:
    """The dtype that everything is computed in."""
    return torch.promote_types(x.dtype, torch.float32)


def per_head(map_: Tensor, bias: Tensor | None, heads: int, dtype: torch.dtype) -> Tensor:
    """B or C (b, l, r, g, n) with its bias (h, r, n) as (b, l, r, h, n)."""
    b, l, r, g, n = map_.shape
    map_ = map_.to(dtype).unsqueeze(4).expand(b, l, r, g, heads // g, n).reshape(b, l, r, heads, n)
    return map_ if bias is None else map_ + bias.to(dtype).transpose(0, 1)


def ranks(x: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x (b, l, h, p) as (b, l, r, h, p), times the ranks' weight (h, r, p) where there is one."""
    x = x.to(dtype).unsqueeze(2)
    return x if weight is None else x * weight.to(dtype).transpose(0, 1)


def rates(angle: Tensor, dtype: torch.dtype) -> Tensor:
    """Radians a unit of time, (b, l, h or 1, s)."""
    rate = torch.pi * torch.tanh(angle.to(dtype))
    return rate if angle.dim() == 4 else rate.unsqueeze(2)


def turn(x: Tensor, theta: Tensor, pairs: str) -> Tensor:
    """Pairs of the last axis of x turned by the angles theta (..., s); axes before the last are broadcast."""
    s, half = theta.shape[-1], x.shape[-1] // 2
    cos, sin = theta.cos(), theta.sin()
    if pairs == "interleaved":
        first, second, rest = x[..., 0 : 2 * s : 2], x[..., 1 : 2 * s : 2], x[..., 2 * s :]
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
        return torch.cat([turned, rest], dim=-1)
    first, second = x[..., :s], x[..., half : half + s]
    turns = (first * cos - second * sin, first * sin + second * cos)
    return torch.cat([turns[0], x[..., s:half], turns[1], x[..., half + s :]], dim=-1)


def finish(y: Tensor, z: Tensor | None, mimo: tuple[Tensor | None, Tensor | None, Tensor | None]) -> Tensor:
    """The gate, and the sum over the ranks, of y (b, l, r, h, p)."""
    mimo_x, mimo_z, mimo_o = mimo
    if z is not None:
        y = y * F.silu(ranks(z, mimo_z, y.dtype))
    if mimo_x is None:
        return y.squeeze(2)
    return y if mimo_o is None else (y * mimo_o.to(y.dtype).transpose(0, 1)).sum(2)
