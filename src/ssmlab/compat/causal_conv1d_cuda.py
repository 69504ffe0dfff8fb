"""The compiled module of causal_conv1d, which forks of mamba_ssm call: the argument lists of all its versions.

A version is recognised by the number of arguments. Since 1.6 outputs are given and filled; before, they are returned.

    causal_conv1d_fwd     4   x, weight, bias, silu                                                       1.0
                          5   x, weight, bias, seq_idx, silu                                              1.1
                          7   x, weight, bias, seq_idx, initial_states, final_states_out, silu            1.2
                          8   x, weight, bias, seq_idx, initial_states, out, final_states_out, silu       1.6
    causal_conv1d_bwd     6   x, weight, bias, dout, dx, silu                                             1.0
                          7   x, weight, bias, dout, seq_idx, dx, silu                                    1.1
                         10   x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx,
                              return_dinitial_states, silu                                                1.2
                         12   x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, dweight,
                              dbias, dinitial_states, silu                                                1.6
    causal_conv1d_update  5   x, conv_state, weight, bias, silu                                           1.0
                        6, 7  and cache_seqlens, and conv_state_indices                                   later
                          8   x, conv_state, weight, bias, out, silu, cache_seqlens, conv_state_indices   1.6
"""

from ssmlab.compat.causal_conv1d.causal_conv1d_interface import causal_conv1d_update as _update
from ssmlab.compat.causal_conv1d.cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function
from ssmlab.core.errors import UserError

__all__ = ["causal_conv1d_bwd", "causal_conv1d_fwd", "causal_conv1d_update"]


def causal_conv1d_fwd(*arguments):
    """y (b, d, l) of x (b, d, l); returned, or written to `out`."""
    x, weight, bias, *rest, silu = _checked("causal_conv1d_fwd", arguments, (4, 5, 7, 8))
    seq_idx, past, *outputs = [*rest, None, None, None][: max(3, len(rest))]
    final = outputs[-1]
    y = causal_conv1d_fwd_function(x, weight, bias, seq_idx, past, final, silu)
    if len(arguments) < 8:
        return y
    outputs[0].copy_(y)
    return None


def causal_conv1d_bwd(*arguments):
    """(dx, dweight, dbias), with `dinitial_states` since 1.2; returned, or written to what is given."""
    x, weight, bias, dout, *rest, silu = _checked("causal_conv1d_bwd", arguments, (6, 7, 10, 12))
    if len(rest) < 3:
        *seq_idx, dx = rest
        index = seq_idx[0] if seq_idx else None
        return causal_conv1d_bwd_function(x, weight, bias, dout, index, None, None, dx, False, silu)[:3]
    seq_idx, past, dfinal, dx, *rest = rest
    if len(arguments) == 10:
        return causal_conv1d_bwd_function(x, weight, bias, dout, seq_idx, past, dfinal, dx, rest[0], silu)
    dweight, dbias, dpast = rest
    found = causal_conv1d_bwd_function(x, weight, bias, dout, seq_idx, past, dfinal, dx, dpast is not None, silu)
    for target, gradient in zip((dweight, dbias, dpast), found[1:], strict=True):
        if target is not None:
            target.copy_(gradient)
    return None


def causal_conv1d_update(*arguments):
    """y of one or a few tokens; `conv_state` is moved on in place. Returned, or written to `out`."""
    x, state, weight, bias, *rest = _checked("causal_conv1d_update", arguments, (5, 6, 7, 8))
    out = rest.pop(0) if len(arguments) == 8 else None
    silu, seen, rows = [*rest, None, None][:3]
    y = _update(x, state, weight, bias, "silu" if silu else None, seen, rows)
    if out is None:
        return y
    out.copy_(y)
    return None


def _checked(name: str, arguments: tuple, counts: tuple[int, ...]) -> tuple:
    if len(arguments) not in counts:
        known = ", ".join(map(str, counts))
        raise UserError(f"{name} has {known} arguments in the versions of causal_conv1d, got {len(arguments)}")
    return arguments
