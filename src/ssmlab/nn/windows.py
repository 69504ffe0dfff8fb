"""A map cut into square windows, whose tokens are mixed among themselves, and put together again."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def to_windows(x: Tensor, size: int) -> Tensor:
    """Map (b, d, h, w) -> tokens (b * windows, size * size, d), row by row, an image's windows one after another.

    A map that no whole number of windows covers is padded with zeros on the right and below; the padding becomes
    tokens. Channels-last memory that is one window is not copied.
    """
    _, d, h, w = x.shape
    x = x.permute(0, 2, 3, 1)
    if h % size or w % size:
        x = F.pad(x, (0, 0, 0, -w % size, 0, -h % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return x.transpose(2, 3).reshape(-1, size * size, d)


def from_windows(tokens: Tensor, size: int, h: int, w: int) -> Tensor:
    """The inverse of `to_windows`, without the padding: map (b, d, h, w) in channels-last memory."""
    rows, columns = -(-h // size), -(-w // size)
    x = tokens.unflatten(1, (size, size)).unflatten(0, (-1, rows, columns))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :h, :w].permute(0, 3, 1, 2)
