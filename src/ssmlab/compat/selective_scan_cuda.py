"""The compiled module of mamba_ssm's selective scan: its two passes by the original's signatures.

A call of `fwd` is one scan, a call of `bwd` its backward pass; the gate, y silu(z), is applied to y afterwards.
"""

import torch
from torch.nn import functional as F

from ssmlab.compat import _passes

__all__ = ["bwd", "fwd"]


@torch.no_grad()
def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """[y before the gate, what `bwd` takes as x, y after the gate if there is one].

    x (b, d, chunks, 2 n) holds the last state at the odd places of its last chunk, where mamba_ssm reads it.
    """
    y, state, saved = _passes.forward(u, delta, A, B, C, D, delta_bias, delta_softplus)
    x = _passes.packed(state, saved)
    return [y, x] if z is None else [y, x, _gated(y, z)]


@torch.no_grad()
def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
    """[du, ddelta, dA, dB, dC, dD, ddelta_bias, dz if there is a gate, y after it if `recompute_out_z`].

    Args:
        dout: the gradient of y after the gate.
        x, out: what `fwd` returned; without x the forward pass runs again, without out too where y is wanted.
        dz: filled where it is given.
    """
    du, ddelta, dA, dB, dC, dD, gz, ddelta_bias = _passes.backward(
        u, delta, A, B, C, D, z, delta_bias, dout, _passes.unpacked(x, u, A), delta_softplus
    )
    found = [du, ddelta, dA, dB, dC, dD, ddelta_bias]
    if z is not None:
        found.append(gz if dz is None else dz.copy_(gz))
        if recompute_out_z:
            y = _passes.forward(u, delta, A, B, C, D, delta_bias, delta_softplus)[0] if out is None else out
            found.append(_gated(y, z))
    return found


def _gated(y, z):
    """y silu(z) in float32 at least, in the dtype of y."""
    if y.dtype in (torch.float16, torch.bfloat16):
        return F.silu(z.float()).mul_(y).to(y.dtype)
    return F.silu(z).mul_(y)
