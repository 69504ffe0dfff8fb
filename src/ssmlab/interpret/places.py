"""Where on an image the tokens of a scan are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
        grid_of = getattr(frame.module, "token_grid", None)  # of our vision models, and of parts of them
        found = None if grid_of is None else grid_of(frame.shape, gave, length, device)
        if found is not None:
            return Place(grid=found.grid, pixel=found.pixel, images=frame.shape[0])
    return None
