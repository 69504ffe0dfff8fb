"""The definition of the causal convolution: a sum over the taps, each a shifted copy of the input."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops.causal_conv1d.operator import call


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here: it always can."""
    return None


def forward(*arguments):
    """See the contract in `ssmlab.ops.causal_conv1d`."""
    return call("reference", differentiable, *arguments)


def differentiable(x, weight, bias, activation, initial_state, seq_idx):
    """The definition itself, through autograd."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    length, width = x.shape[2], weight.shape[1]
    past = x.new_zeros(*x.shape[:2], width - 1) if initial_state is None else initial_state.to(x.dtype)
    inputs = torch.cat([past, x], dim=2)
    wide = inputs.to(dtype)  # once, so that the taps' gradients are added before they are rounded
    sequence = sequence_numbers(seq_idx, x, width)
    y = torch.zeros_like(x, dtype=dtype)
    for k in range(width):
        same = sequence[:, None, k : k + length] == sequence[:, None, width - 1 :]
        tap = torch.where(same, wide[:, :, k : k + length], 0.0)
        y = y + weight[:, k, None].to(dtype) * tap
    if bias is not None:
        y = y + bias.to(dtype)[:, None]
    if activation == "silu":
        y = F.silu(y)
    kept = sequence[:, None, length:] == sequence[:, None, -1:]
    return y.to(x.dtype), torch.where(kept, inputs[:, :, length:], 0.0)


def sequence_numbers(seq_idx: Tensor | None, x: Tensor, width: int) -> Tensor:
    """(b, width - 1 + l): a number that grows by one wherever `seq_idx` changes; the past counts to the first."""
    number = x.new_zeros(x.shape[0], width - 1 + x.shape[2], dtype=torch.int64)
    if seq_idx is not None and x.shape[2] > 1:
        number[:, width:] = (seq_idx[:, 1:] != seq_idx[:, :-1]).cumsum(1)
    return number
