"""VMamba's compiled scan: its two passes by the original's signatures; y has the dtype of u."""

from ssmlab.compat import _passes

__all__ = ["bwd", "fwd"]


def fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows=1):
    """[y (b, d, l), what `bwd` takes as x]; `nrows` is a matter of the GPU."""
    y, state, saved = _passes.forward(u, delta, A, B, C, D, delta_bias, delta_softplus)
    return [y, state if saved is None else saved]


def bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus, nrows=1):
    """[du, ddelta, dA, dB, dC, dD, ddelta_bias]."""
    saved = x if x.dim() == 4 else None  # else the last state
    found = _passes.backward(u, delta, A, B, C, D, None, delta_bias, dout, saved, delta_softplus)
    return [*found[:6], found[7]]
