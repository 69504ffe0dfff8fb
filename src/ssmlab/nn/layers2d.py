"""Layers on feature maps. Channels are the last axis in memory, whichever axis they are by name.

A map (b, c, h, w) that these layers return is a view of (b, h, w, c); the next layer turns it back without a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.nn.linear import Linear


class Permute(nn.Module):
    """The axes in another order, as a layer of an `nn.Sequential`."""

    def __init__(self, *axes: int):
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """A view of x."""
        return x.permute(self.axes)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.axes))


class Linear2d(Linear):
    """A linear layer over the channels of (b, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_features, h, w) -> (b, out_features, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (b, c, h, w), at every position alone."""

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c, h, w) -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear -> GELU -> linear at every position.

    Args:
        width: channels of input and output.
        hidden: channels between.
        channel_first: take and return (b, c, h, w) instead of (b, h, w, c).
    """

    def __init__(self, width: int, hidden: int, *, channel_first: bool = False):
        super().__init__()
        self.channel_first = channel_first
        self.fc1 = Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x -> the same shape."""
        if self.channel_first:
            x = x.permute(0, 2, 3, 1)
        x = self.fc2(self.act(self.fc1(x)))
        return x.permute(0, 3, 1, 2) if self.channel_first else x


class PatchMerging(nn.Module):
    """Put every 2 x 2 positions side by side, LayerNorm, and a linear layer that halves the channels.

    Source: Liu et al. 2021 (arXiv:2103.14030), section 3.1.

    Args:
        width: channels of the input.
        out_width: channels of the output.
        pad: what happens to a last row or column without a partner: True adds zeros next to it, False drops it.
    """

    def __init__(self, width: int, out_width: int, *, pad: bool):
        super().__init__()
        self.pad = pad
        self.reduction = Linear(4 * width, out_width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, h, w, width) -> (b, h / 2, w / 2, out_width), halves rounded up with `pad`, else down."""
        h, w = x.shape[1:3]
        if h % 2 or w % 2:
            x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2)) if self.pad else x[:, : h // 2 * 2, : w // 2 * 2]
        # (even row, even column), (odd, even), (even, odd), (odd, odd)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))
