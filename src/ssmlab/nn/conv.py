"""The depthwise causal convolution with its parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmlab.ops.causal_conv1d import causal_conv1d


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
