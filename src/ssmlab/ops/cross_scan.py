"""The plain 2-D scan orders of VMamba: a feature map as one sequence per direction, and the sum of such sequences."""

import torch
from torch import Tensor

from ssmlab.checks import check_shapes
from ssmlab.errors import ShapeError

DIRECTIONS = {
    1: ("rows",),
    2: ("rows", "rows reversed"),
    4: ("rows", "columns", "rows reversed", "columns reversed"),
}


def cross_scan(x: Tensor, directions: int = 4) -> Tensor:
    """Read a feature map in several directions: one sequence of its h * w positions for each.

        y_0 = rows      y_1 = columns      y_2 = rows reversed      y_3 = columns reversed

    Source: Liu et al. 2024 (arXiv:2401.10166), section 4.2, cross-scan; in the order of VMamba's code. Two directions
    are rows and rows reversed, as in its bidirectional ablation and in Vim (`DIRECTIONS` has the names). The copies
    are written out; a scan that needs none of them reads the map in another order. Gradients by autograd.

    Args:
        x: feature map, (b, d, h, w), any dtype and strides.
        directions: 1, 2 or 4.
    Returns:
        (b, k, d, h * w) in the dtype of x, with k = directions.
    Raises:
        ShapeError: x has not four axes, or another number of directions is asked for.
    """
    check_shapes("cross_scan", x=(x, "b d h w"))
    _check_directions("cross_scan", "directions", directions)
    orders = [x.flatten(2)] if directions < 4 else [x.flatten(2), x.mT.flatten(2)]
    forward = torch.stack(orders, dim=1)
    return forward if directions == 1 else torch.cat([forward, forward.flip(-1)], dim=1)


def cross_merge(y: Tensor, h: int, w: int) -> Tensor:
    """Put the sequences of `cross_scan` back in their places and sum them: its adjoint.

        <cross_scan(x, k), y> = <x, cross_merge(y, h, w)>

    Source: Liu et al. 2024 (arXiv:2401.10166), section 4.2, cross-merge. Gradients by autograd.

    Args:
        y: one sequence per direction, (b, k, d, h * w) with k = 1, 2 or 4, any dtype and strides.
        h, w: height and width of the feature map.
    Returns:
        (b, d, h, w) in the dtype of y; `.flatten(2)` is what VMamba's function returns.
    Raises:
        ShapeError: the sequences have not h * w positions, or their number is not 1, 2 or 4.
    """
    sizes = check_shapes("cross_merge", y=(y, "b k d l"))
    _check_directions("cross_merge", "k, the second axis of y,", sizes["k"])
    if h < 0 or w < 0 or h * w != sizes["l"]:
        raise ShapeError(f"cross_merge: h={h} times w={w} must be the length of y, l={sizes['l']}; got {h * w}")
    k = sizes["k"]
    forward = y if k == 1 else y[:, : k // 2] + y[:, k // 2 :].flip(-1)
    merged = forward[:, 0].unflatten(-1, (h, w))
    return merged if k < 4 else merged + forward[:, 1].unflatten(-1, (w, h)).mT


def _check_directions(op: str, name: str, count: int) -> None:
    if count not in DIRECTIONS:
        known = "; ".join(f"{k} ({', '.join(names)})" for k, names in DIRECTIONS.items())
        raise ShapeError(f"{op}: {name} must be {known}, got {count}")
