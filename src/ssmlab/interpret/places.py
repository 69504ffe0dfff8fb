"""Where on an image the tokens of a scan are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.models.vision.mambavision import Level
from ssmlab.models.vision.resnet_mamba import ResNetMamba
from ssmlab.models.vision.vim import Vim
from ssmlab.nn.windows import to_windows


@dataclass(frozen=True, kw_only=True)
class Place:
    """The tokens of every row on a grid.

    grid: rows and columns of positions of an image.
    pixel: the position of every token, row by row from 0, and -1 for those that are nowhere (a class token, padding of
        windows, another scale), (r, l).
    images: b; r / b rows in a row of `pixel` belong to an image.
    """

    grid: tuple[int, int]
    pixel: Tensor
    images: int

    def to_map(self, values: Tensor) -> Tensor:
        """Values of tokens (r, .., l) on the grid, (b, .., h, w); zero where no token is."""
        rows, *between, _ = values.shape
        each = rows // self.images
        out = values.new_zeros(self.images, *between, self.grid[0] * self.grid[1] + 1)
        places = self.pixel % out.shape[-1]  # -1 becomes the last one, which is cut off
        places = places.view(rows, *(1,) * len(between), -1).expand_as(values)
        for window in range(each):  # windows of an image never share a position
            out.scatter_(-1, places[window::each], values[window::each])
        return out[..., :-1].unflatten(-1, self.grid)

    def token_at(self, row: int, column: int) -> tuple[Tensor, int]:
        """The rows (b,) and the token whose position is (row, column).

        Raises:
            IndexError: no token is there.
        """
        found = (self.pixel == row * self.grid[1] + column).nonzero()
        if not len(found):
            raise IndexError(f"no token at row {row}, column {column} of {self.grid[0]} x {self.grid[1]}")
        return found[:, 0], int(found[0, 1])


def whole(grid: tuple[int, int], images: int, device: Any = None) -> Place:
    """Every position of a grid is a token, row by row."""
    pixel = torch.arange(grid[0] * grid[1], device=device).expand(images, -1)
    return Place(grid=grid, pixel=pixel, images=images)


@dataclass(frozen=True)
class Frame:
    """A module that runs: its name, itself, the shape of its first input, and the shapes of what modules gave."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]


def find_place(stack: list[Frame], gave: dict[nn.Module, Any], length: int, device: Any) -> Place | None:
    """Where the tokens of a one-dimensional scan are, from the modules around it.

    Args:
        stack: the modules that run, the outermost first.
        gave: the last output of modules that have finished.
        length: tokens of the scan.
    """
    for frame in reversed(stack):
        model = frame.module
        if isinstance(model, Level) and model.window_size is not None:
            b, _, h, w = frame.shape
            numbers = torch.arange(1, h * w + 1, dtype=torch.float64, device=device).view(1, 1, h, w)  # padding is 0
            pixel = to_windows(numbers, model.window_size).squeeze(-1).long() - 1
            return Place(grid=(h, w), pixel=pixel.repeat(b, 1), images=b)
        if isinstance(model, Vim):
            b, grid = frame.shape[0], model.patch_embed.grid(*frame.shape[-2:])
            pixel = list(range(grid[0] * grid[1]))
            if model.cls_token is not None:
                pixel.insert(class_token_place(model, grid), -1)
            return Place(grid=grid, pixel=torch.tensor(pixel, device=device).expand(b, -1), images=b)
        if isinstance(model, ResNetMamba):
            # With several scales, the finest one; the tokens of the others are nowhere
            maps = gave.get(model.backbone)
            if maps is None or model.config.tokens == "pooled":
                return None
            b, _, h, w = maps[-model.config.scales].shape
            pixel = torch.full((length,), -1, device=device)
            pixel[: h * w] = torch.arange(h * w, device=device)
            return Place(grid=(h, w), pixel=pixel.expand(b, -1), images=b)
    return None


def class_token_place(model: Vim, grid: tuple[int, int]) -> int:
    """The number of a Vim's class token in its sequence."""
    return model._place(grid[0] * grid[1])
