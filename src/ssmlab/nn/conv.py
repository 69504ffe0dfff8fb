"""The depthwise causal convolution with its parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmlab.ops.causal_conv1d import causal_conv1d
from ssmlab.ops.steps import conv_token, is_plain_inference


class CausalConv1d(nn.Module):
    """Depthwise causal convolution and its activation, as one module that adapters can wrap.

    The parameters have the names, shapes and initial distribution of `nn.Conv1d(d, d, width, groups=d)`, so that
    published weights load unchanged; the arithmetic is `ops.causal_conv1d`.

    Args:
        channels: d.
        width: how many positions one output sees, itself included.
        bias: whether a bias is added before the activation.
        activation: "silu" or None.
    """

    def __init__(self, channels: int, width: int, *, bias: bool = True, activation: str | None = "silu"):
        super().__init__()
        self.activation = activation
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def forward(
        self, x: Tensor, initial_state: Tensor | None = None, *, seq_idx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (b, d, l) -> y (b, d, l) and the last width - 1 inputs (b, d, width - 1), newest last."""
        return causal_conv1d(
            x,
            self.weight.squeeze(1),
            self.bias,
            activation=self.activation,
            initial_state=initial_state,
            seq_idx=seq_idx,
        )

    def extra_repr(self) -> str:
        channels, _, width = self.weight.shape
        return f"{channels}, width={width}, bias={self.bias is not None}, activation={self.activation}"


def is_one_token(u: Tensor, state: object, mask: Tensor | None, seq_idx: Tensor | None, weight: Tensor) -> bool:
    """Whether a block gets the next token of plain texts u (b, l, d) without a gradient: kernels of one token may
    compute it."""
    return state is not None and u.shape[1] == 1 and mask is None and seq_idx is None and is_plain_inference(u, weight)


def convolved(
    conv: nn.Module, x: Tensor, state: Tensor | None, seq_idx: Tensor | None, *, token: bool
) -> tuple[Tensor, Tensor]:
    """What a block's causal convolution returns for x (b, d, l).

    Args:
        token: whether x is one token without a gradient, see `is_one_token`. Then the kernel of one token is called,
            unless the convolution must be: it is wrapped, has hooks or another class, or the kernel cannot do it.
    """
    hooked = conv._forward_hooks or conv._forward_pre_hooks or nn.modules.module._has_any_global_hook()
    if token and state is not None and type(conv) is CausalConv1d and not hooked and "forward" not in conv.__dict__:
        one = conv_token(x.squeeze(2), state, conv.weight.squeeze(1), conv.bias, conv.activation is not None)
        if one is not None:
            return one[0].unsqueeze(2), one[1]
    return conv(x, state, seq_idx=seq_idx)
