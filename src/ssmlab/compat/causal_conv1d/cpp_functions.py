"""What mamba_ssm's own autograd functions call of causal_conv1d: the passes apart, by the original's signatures."""

from typing import Any

import torch

from ssmlab.compat._absent import absent
from ssmlab.compat.causal_conv1d.causal_conv1d_interface import causal_conv1d_update
from ssmlab.ops import causal_conv1d
from ssmlab.ops._dispatch import choose, load

__all__ = ["causal_conv1d_bwd_function", "causal_conv1d_fwd_function", "causal_conv1d_update_function"]
LIBRARY_NAME = "DaoAILab"  # of the original's torch operators
__getattr__ = absent(
    __name__, "_causal_conv1d_fwd_cpp _causal_conv1d_bwd_cpp _causal_conv1d_update_cpp",
    "call the function of the same name that ends in _function",
)  # fmt: skip


def causal_conv1d_fwd_function(x, weight, bias, seq_idx, initial_states, final_states_out, silu_activation):
    """x (b, d, l) -> y (b, d, l)."""
    activation = "silu" if silu_activation else None
    with torch.no_grad():
        y, final = causal_conv1d(x, weight, bias, activation=activation, initial_state=initial_states, seq_idx=seq_idx)
        if final_states_out is not None:
            final_states_out.copy_(final)
    return y


@torch.no_grad()
def causal_conv1d_bwd_function(
    x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, return_dinitial_states, silu_activation
):
    """The gradients (dx, dweight, dbias, dinitial_states); `dx` is filled where it is given."""
    activation, inputs = "silu" if silu_activation else None, (x, weight, bias, initial_states)
    if choose("causal_conv1d", inputs, None) is load("causal_conv1d", "native"):
        found = torch.ops.ssmlab.causal_conv1d_backward(
            dout, dfinal_states, x, weight, bias, activation, initial_states, seq_idx
        )
        gx, gweight, gbias, ginitial = (None if t is None else g for t, g in zip(inputs, found, strict=True))
    else:
        leaves: list[Any] = [None if t is None else t.detach().requires_grad_() for t in inputs]
        with torch.enable_grad():
            ux, uweight, ubias, past = leaves
            y, final = causal_conv1d(ux, uweight, ubias, activation=activation, initial_state=past, seq_idx=seq_idx)
        outputs, gradients = ([y], [dout]) if dfinal_states is None else ([y, final], [dout, dfinal_states])
        found = iter(torch.autograd.grad(outputs, [t for t in leaves if t is not None], gradients))
        gx, gweight, gbias, ginitial = (None if t is None else next(found) for t in leaves)
    if dx is not None:
        dx.copy_(gx)
    return gx if dx is None else dx, gweight, gbias, ginitial if return_dinitial_states else None


def causal_conv1d_update_function(x, conv_state, weight, bias, silu_activation, cache_seqlens, conv_state_indices):
    """x (b, d, l) -> y (b, d, l); `conv_state` is moved on in place."""
    return causal_conv1d_update(
        x, conv_state, weight, bias, "silu" if silu_activation else None, cache_seqlens, conv_state_indices
    )
