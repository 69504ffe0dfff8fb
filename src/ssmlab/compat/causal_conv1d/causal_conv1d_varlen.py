"""Convolution states of packed sequences, by the original's signatures."""

import torch
from torch import Tensor

from ssmlab.compat._absent import absent

__all__ = ["causal_conv1d_varlen_states", "causal_conv1d_varlen_states_ref"]
__getattr__ = absent(__name__, "_causal_conv1d_varlen_states", "call causal_conv1d_varlen_states instead")


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last `state_len` inputs of every packed sequence, newest last, zeros where it is shorter.

    Args:
        x: (tokens of all, d).
        cu_seqlens: where each begins, and the end of the last, (sequences + 1,).
    Returns:
        (sequences, d, state_len).
    """
    begin, end = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
    place = end - state_len + torch.arange(state_len, device=x.device)
    states = x[place.clamp(min=0)].masked_fill((place < begin)[..., None], 0)
    return states.mT


def causal_conv1d_varlen_states_ref(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The same, one sequence after the other."""
    states = x.new_zeros(len(cu_seqlens) - 1, x.shape[1], state_len)
    for i, (begin, end) in enumerate(zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)):
        tokens = x[max(begin, end - state_len) : end]
        states[i, :, state_len - len(tokens) :] = tokens.mT
    return states
