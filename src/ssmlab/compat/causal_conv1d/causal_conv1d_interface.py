"""The convolution over sequences and over one or a few tokens, by the original's signatures."""

import torch
from torch import Tensor

from ssmlab.compat._absent import absent
from ssmlab.core.errors import UserError
from ssmlab.ops import causal_conv1d
from ssmlab.ops.steps import conv_step

__all__ = [
    "CausalConv1dFn",
    "causal_conv1d_fn",
    "causal_conv1d_ref",
    "causal_conv1d_update",
    "causal_conv1d_update_ref",
]

__getattr__ = absent(
    __name__, "", "", causal_conv1d__cpp_functions=(
        "causal_conv1d_bwd_function causal_conv1d_fwd_function causal_conv1d_update_function"
    ),
)  # fmt: skip


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
    activation=None,
):  # fmt: skip
    """x (b, d, l), weight (d, width), bias (d,) -> y (b, d, l)[, the last width - 1 inputs (b, d, width - 1)].

    Args:
        seq_idx: (b, l), for several sequences packed in a row; where it is negative there is padding, and y is zero.
        initial_states: the inputs before the first, (b, d, width - 1).
        final_states_out: where the final states are written too.
        activation: None, "silu" or "swish".
    """
    y, final = causal_conv1d(
        x, weight, bias, activation=_name(activation), initial_state=initial_states, seq_idx=seq_idx
    )
    if seq_idx is not None and seq_idx.min() < 0:
        y = y.masked_fill((seq_idx < 0)[:, None], 0)
    return _with_states(y, final, return_final_states, final_states_out)


class CausalConv1dFn:
    """`causal_conv1d_fn` as an autograd function."""

    apply = staticmethod(causal_conv1d_fn)


def causal_conv1d_ref(
    x, weight, bias=None, initial_states=None, return_final_states=False, final_states_out=None, activation=None
):
    """The same by its definition."""
    y, final = causal_conv1d(
        x, weight, bias, activation=_name(activation), initial_state=initial_states, backend="reference"
    )
    return _with_states(y, final, return_final_states, final_states_out)


def _with_states(y, final, asked, out):
    if not asked:
        return y
    if out is None:
        return y, final
    with torch.no_grad():
        out.copy_(final)
    return y, out


def _name(activation: str | None) -> str | None:
    if activation not in (None, "silu", "swish"):
        raise UserError(f"causal_conv1d: activation must be None, 'silu' or 'swish', got {activation!r}")
    return None if activation is None else "silu"


def causal_conv1d_update(
    x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None
):
    """Convolve a few tokens and move `conv_state` on, in place. There is no gradient, as in the original.

    Args:
        x: (b, d) or (b, d, l).
        conv_state: the last inputs, newest last, (b, d, at least width - 1).
        cache_seqlens: (b,), tokens seen so far; then `conv_state` is a ring, and they are written from
            cache_seqlens % its length on.
        conv_state_indices: (b,), which rows of a larger `conv_state` are meant; negative ones are padding: their output
            is zero and no state is touched.
    Returns:
        as x.
    """
    activation = _name(activation)
    with torch.no_grad():
        if conv_state_indices is None and cache_seqlens is None and x.shape[2:].numel() == 1:
            y = conv_step(x.view(x.shape[:2]), conv_state, weight, bias, activation is not None)
            if y is not None:
                return y.view(x.shape)
        if conv_state_indices is None:
            return _update(x, conv_state, weight, bias, activation, cache_seqlens, None)
        rows = conv_state_indices.long()
        kept = rows >= 0
        state = conv_state[rows.clamp(min=0)]
        y = _update(x, state, weight, bias, activation, cache_seqlens, None)
        conv_state[rows[kept]] = state[kept]
        return y * kept.view(-1, *[1] * (y.dim() - 1))


def causal_conv1d_update_ref(x, conv_state, weight, bias=None, activation=None, cache_seqlens=None):
    """The same by its definition."""
    with torch.no_grad():
        return _update(x, conv_state, weight, bias, _name(activation), cache_seqlens, "reference")


def _update(x, conv_state, weight, bias, activation, cache_seqlens, backend) -> Tensor:
    tokens, past = x if x.dim() == 3 else x[..., None], weight.shape[1] - 1
    if cache_seqlens is None:
        before = _last(conv_state, past)
    else:
        before = conv_state.gather(2, _ring(cache_seqlens, -past, 0, conv_state))
    y, _ = causal_conv1d(
        tokens, weight, bias, activation=activation, initial_state=before.to(tokens.dtype), backend=backend
    )
    if cache_seqlens is None:
        conv_state.copy_(_last(torch.cat([conv_state, tokens.to(conv_state.dtype)], dim=-1), conv_state.shape[-1]))
    else:
        place = _ring(cache_seqlens, 0, tokens.shape[-1], conv_state)
        conv_state.scatter_(2, place, tokens.to(conv_state.dtype))
    return y.reshape(x.shape)


def _last(t: Tensor, count: int) -> Tensor:
    return t[..., t.shape[-1] - count :]


def _ring(seen: Tensor, begin: int, end: int, conv_state: Tensor) -> Tensor:
    """Places (b, d, end - begin) in the ring of the tokens from seen + begin to seen + end."""
    steps = torch.arange(begin, end, device=conv_state.device)
    place = (seen.long()[:, None] + steps).remainder(conv_state.shape[-1])
    return place[:, None].expand(-1, conv_state.shape[1], -1)
