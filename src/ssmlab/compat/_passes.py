"""The passes of the selective scan apart, as the compiled modules of mamba_ssm and VMamba offer them."""

import math
from typing import Any

import torch
from torch import Tensor

from ssmlab.ops import selective_scan
from ssmlab.ops._dispatch import choose, load
from ssmlab.ops.selective_scan.native import interval, numbers


@torch.no_grad()
def forward(u, delta, A, B, C, D, delta_bias, delta_softplus) -> tuple[Tensor, Tensor, Tensor | None]:
    """(y without a gate, last state (b, d, n), `saved` for `backward`: the native kernels' states, or None)."""
    if choose("selective_scan", (u, delta, A, B, C, D, None, delta_bias), None) is load("selective_scan", "native"):
        inputs = (u, delta, A, B, C, D, None, delta_bias, None, None, bool(delta_softplus))
        return torch.ops.ssmlab.selective_scan(*inputs, True, "native")
    return *_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus), None


def backward(u, delta, A, B, C, D, z, delta_bias, dout, saved, delta_softplus) -> tuple[Tensor | None, ...]:
    """The gradients of (u, delta, A, B, C, D, z, delta_bias); without saved states the forward pass runs again."""
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    if saved is not None:
        inputs = (*tensors, None, None, bool(delta_softplus))
        found = torch.ops.ssmlab.selective_scan_backward(dout, None, saved, *inputs, "native")
        return tuple(None if t is None else g for t, g in zip(tensors, found[:8], strict=True))
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    arguments: list[Any] = [*leaves, delta_softplus]
    with torch.enable_grad():
        y, _ = _scan(*arguments)
    gradients = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], dout.to(y.dtype)))
    return tuple(None if t is None else next(gradients) for t in leaves)


def packed(state: Tensor, saved: Tensor | None) -> Tensor:
    """mamba_ssm's x (b, d, chunks, 2 n): its last chunk holds the last state at its odd places, where it is read.

    Saved states are chunks before it: their memory, in order, is that of x without its last chunk.
    """
    (b, d, n), kept = state.shape, 0 if saved is None else saved.numel()
    size = 2 * b * d * n * (2 if state.is_complex() else 1)
    x = state.new_empty(-(-kept // size) + 1 if size else 1, b, d, 2 * n)
    memory = _real(x)
    if saved is not None:
        memory[:kept] = saved.flatten()
    memory[kept:] = 0
    x[-1, ..., 1::2] = state
    return x.permute(1, 2, 0, 3)


def unpacked(x: Tensor | None, u: Tensor, A: Tensor) -> Tensor | None:
    """The saved states out of x, or None."""
    if x is None or x.shape[2] < 2:
        return None
    shape = (len(u), -(-u.shape[2] // interval(numbers(A))), numbers(A), u.shape[1])
    return _real(x.permute(2, 0, 1, 3).contiguous())[: math.prod(shape)].view(shape)


def _real(x: Tensor) -> Tensor:
    return (torch.view_as_real(x) if x.is_complex() else x).flatten()


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> tuple[Tensor, Tensor]:
    return selective_scan(u, delta, A, B, C, D, z=z, dt_bias=delta_bias, dt_softplus=bool(delta_softplus))
