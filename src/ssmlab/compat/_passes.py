"""The passes of the selective scan apart, as the compiled modules of mamba_ssm and VMamba offer them."""

import torch
from torch import Tensor

from ssmlab.ops import selective_scan
from ssmlab.ops._dispatch import choose, load


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> tuple[Tensor, Tensor, Tensor]:
    """(y, last state (b, d, n), what `backward` takes as `saved`: the native kernels' states, or the last state)."""
    inputs = (u, delta, A, B, C, D, z, delta_bias, bool(delta_softplus), None, None)
    if choose("selective_scan", (u, delta, A, B, C, D, z, delta_bias), None) is load("selective_scan", "native"):
        return torch.ops.ssmlab.selective_scan(*inputs, True, "native")
    with torch.no_grad():
        y, state = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return y, state, state


def backward(u, delta, A, B, C, D, z, delta_bias, dout, saved, delta_softplus) -> tuple[Tensor | None, ...]:
    """The gradients of (u, delta, A, B, C, D, z, delta_bias); without native states the forward pass runs again."""
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    if saved is not None and saved.dim() > 3:
        found = torch.ops.ssmlab.selective_scan_backward(dout, None, saved, *tensors, bool(delta_softplus), None, None)
        return tuple(None if t is None else g for t, g in zip(tensors, found[:8], strict=True))
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    with torch.enable_grad():
        y, _ = _scan(*leaves, delta_softplus)
    gradients = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], dout.to(y.dtype)))
    return tuple(None if t is None else next(gradients) for t in leaves)


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> tuple[Tensor, Tensor]:
    return selective_scan(u, delta, A, B, C, D, z=z, dt_bias=delta_bias, dt_softplus=bool(delta_softplus))
