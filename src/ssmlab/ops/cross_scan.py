"""The plain 2-D orders of VMamba: a feature map as one sequence per direction, and the sum of such sequences."""

import torch
from torch import Tensor

from ssmlab.core.checks import check_count, check_shapes
from ssmlab.core.errors import ShapeError
from ssmlab.ops.directional_scan import DIRECTIONS


def cross_scan(x: Tensor, directions: int = 4) -> Tensor:
    """Read a feature map in several directions: the sequence of its h * w positions for each.

        y_0 = rows      y_1 = columns      y_2 = rows reversed      y_3 = columns reversed

    Source: Liu et al. 2024 (arXiv:2401.10166), section 4.2, cross-scan, in the order of VMamba's code and of
    `directional_scan`, which does the same without copies: `cross_merge(scans of cross_scan(x, k))` is what it
    computes. Two directions are rows and columns; VMamba's unidirectional and bidirectional ablations are the
    sequences 0, 0, 0, 0 and 0, 0, 2, 2 of the four. Any strides; gradients by autograd.

    Args:
        x: feature map, (b, d, h, w), any dtype.
        directions: 1, 2 or 4, from the first on.
    Returns:
        (b, k, d, h * w) in the dtype of x, with k = directions.
    Raises:
        ShapeError: x has not four axes, or `directions` is not 1, 2 or 4.
    """
    check_shapes("cross_scan", x=(x, "any: b d h w"))
    _check_directions("cross_scan: directions", check_count("cross_scan", "directions", directions, 1))
    sequences = [x.flatten(2), x.mT.flatten(2)] if directions > 1 else [x.flatten(2)]
    if directions == 4:
        sequences += [sequence.flip(-1) for sequence in sequences]
    return torch.stack(sequences, dim=1)


def cross_merge(y: Tensor, h: int, w: int) -> Tensor:
    """Put the sequences of `cross_scan` back in their places and sum them: its adjoint.

        <cross_scan(x, k), y> = <x, cross_merge(y, h, w)>

    Source: Liu et al. 2024 (arXiv:2401.10166), section 4.2, cross-merge. Any strides; gradients by autograd.

    Args:
        y: one sequence per direction, (b, k, d, h * w), k = 1, 2 or 4, any dtype.
        h, w: height and width of the feature map.
    Returns:
        (b, d, h, w) in the dtype of y; its `.flatten(2)` is what VMamba's function returns.
    Raises:
        ShapeError: y has not four axes, k is not 1, 2 or 4, or the length is not h * w.
    """
    sizes = check_shapes("cross_merge", y=(y, "any: b k d l"))
    _check_directions("cross_merge: k, the second size of y,", sizes["k"])
    h, w = check_count("cross_merge", "h", h, 0), check_count("cross_merge", "w", w, 0)
    if h * w != sizes["l"]:
        raise ShapeError(f"cross_merge: y must have shape (b, k, d, h*w={h}*{w}={h * w}), got {tuple(y.shape)}")
    k = sizes["k"]
    along = y if k < 4 else y[:, :2] + y[:, 2:].flip(-1)
    merged = along[:, 0].unflatten(-1, (h, w))
    return merged if k == 1 else merged + along[:, 1].unflatten(-1, (w, h)).mT


def _check_directions(what: str, count: int) -> None:
    if count not in (1, 2, 4):
        raise ShapeError(f"{what} must be 1, 2 or 4 (of {', '.join(DIRECTIONS)}), got {count}")
