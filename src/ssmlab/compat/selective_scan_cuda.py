"""The compiled module behind mamba_ssm's selective scan: its two passes by the original's signatures."""

from ssmlab.compat import _passes

__all__ = ["bwd", "fwd"]


def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """[y before the gate, what `bwd` takes as x, y behind the gate if there is one].

    x (b, d, 1, 2 n) holds the last state at its odd places, where mamba_ssm reads it.
    """
    y, state, _ = _passes.forward(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    x = state.new_zeros(*state.shape[:2], 1, 2 * state.shape[2])
    x[:, :, 0, 1::2] = state
    return [y, x] if z is None else [y, x, _passes.forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)[0]]


def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
    """[du, ddelta, dA, dB, dC, dD, ddelta_bias, dz if there is a gate, y behind it if `recompute_out_z`]."""
    _, _, saved = _passes.forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    du, ddelta, dA, dB, dC, dD, gz, ddelta_bias = _passes.backward(
        u, delta, A, B, C, D, z, delta_bias, dout, saved, delta_softplus
    )
    found = [du, ddelta, dA, dB, dC, dD, ddelta_bias]
    if z is not None:
        found.append(gz if dz is None else dz.copy_(gz))
        if recompute_out_z:
            found.append(_passes.forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)[0])
    return found
