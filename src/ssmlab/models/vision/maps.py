"""How what a layer gives becomes a map (b, c, h, w), and back; and where on an image the tokens of a scan lie.

A vision model answers with these when an explanation asks for its last map or for its tokens' positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssmlab.core.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """Between what a layer gives and a map. The default is a layer that gives maps (b, c, h, w).

    to_map: (output, (height, width) of the images) -> (b, c, h, w).
    from_map: (map, output, (height, width)) -> the output with the map in the place of its own.
    """

    to_map: Callable[[Any, tuple[int, int]], Tensor] = lambda out, size: out
    from_map: Callable[[Tensor, Any, tuple[int, int]], Any] = lambda map_, out, size: map_


CHANNELS_FIRST = Layout()
CHANNELS_LAST = Layout(
    to_map=lambda out, size: out.permute(0, 3, 1, 2), from_map=lambda map_, out, size: map_.permute(0, 2, 3, 1)
)
# A pyramid of maps, of which the last one is meant.
LAST_OF_LIST = Layout(to_map=lambda out, size: out[-1], from_map=lambda map_, out, size: [*out[:-1], map_])


class MapLayer(NamedTuple):
    """A layer of a network by its name, and the layout of what it gives.

    alike: whether what comes after reads every position in the same way, as a mean does and a class token does not.
    """

    name: str
    layout: Layout = CHANNELS_FIRST
    alike: bool = True


class TokenGrid(NamedTuple):
    """Where the tokens of a scan lie.

    grid: rows and columns of positions of an image.
    pixel: the position of every token, row by row from 0, and -1 for those that are nowhere (a class token, padding of
        windows, another scale), (r, l); r / b rows of it, one after another, belong to one of b images.
    """

    grid: tuple[int, int]
    pixel: Tensor


def token_layout(
    patches: Callable[[int, tuple[int, int]], list[int]],
    grid: Callable[[int, tuple[int, int]], tuple[int, int]] | None = None,
) -> Layout:
    """Tokens (b, l, c), some of which lie on a grid, row by row.

    Args:
        patches: (l, (height, width) of the images) -> the numbers of these tokens.
        grid: (their count, (height, width)) -> rows and columns; None takes the proportions of the images.
    """
    grid = grid or grid_by_proportions

    def places(out: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.tensor(patches(out.shape[1], size), device=out.device)

    def to_map(out: Tensor, size: tuple[int, int]) -> Tensor:
        own = out[:, places(out, size)]
        return own.mT.unflatten(-1, grid(own.shape[1], size))

    def from_map(map_: Tensor, out: Tensor, size: tuple[int, int]) -> Tensor:
        return out.index_copy(1, places(out, size), map_.flatten(2).mT)

    return Layout(to_map, from_map)


def grid_by_proportions(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of `count` patches of an image (height, width).

    Raises:
        ModelError: they make no grid.
    """
    rows = max(1, round((count * size[0] / size[1]) ** 0.5))
    if count % rows:
        raise ModelError(f"{count} tokens are no grid over an image of {size[0]} x {size[1]}; give a Target")
    return rows, count // rows
