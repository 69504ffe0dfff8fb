"""Images larger than a network's patch: windows over them, weighted by their distance from the window's border."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.core.errors import ShapeError

Network = Callable[[Tensor], Tensor]
Axes = tuple[int, ...]


@torch.inference_mode()
def predict_windows(
    network: Network,
    image: Tensor,
    patch: Sequence[int],
    overlap: float = 0.5,
    gaussian: bool = True,
    mirror: Sequence[int] = (),
    batch: int = 1,
    margin: int = 0,
) -> Tensor:
    """Class probabilities of an image of any size, from a network that is given windows of one size.

    Logits of overlapping windows are averaged, with a Gaussian around the window's centre as weight (standard deviation
    an eighth of the window), so that no border of a window shows; softmax comes last. Windows are at equal distances,
    the first and the last at the image's borders. An image smaller than a window is padded after its end with its
    edge's values and cut back. Beside the image only its logits are in memory, and one batch of windows.

    Source: Isensee et al. 2021 (nnU-Net, doi:10.1038/s41592-020-01008-z), supplementary note 4.

    Args:
        network: (b, c, *patch) -> logits (b, k, *patch); in evaluation mode, on any device.
        image: (c, *spatial) in 2-D or 3-D, as the network is to see it.
        patch: size of a window.
        overlap: share of a window that the next one covers again, 0 <= overlap < 1.
        gaussian: False weighs all positions alike.
        mirror: spatial axes; logits are averaged over all ways to reverse some of them.
        batch: windows a call.
        margin: positions this close to a window's border take no part, unless the border is the image's. With the
            radius of the network's receptive field the result is that of the whole image in one piece.
    Returns:
        Probabilities (k, *spatial), float32, on the image's device.
    Raises:
        ShapeError: sizes, overlap, margin or axes that do not fit together.
    """
    _check(image, patch, overlap, mirror, batch, margin)
    size = image.shape[1:]
    missing = [max(0, n - have) for n, have in zip(patch, size, strict=True)]
    if any(missing):
        image = F.pad(image[None], [n for more in reversed(missing) for n in (0, more)], mode="replicate")[0]
    corners = list(product(*(starts(n, m, overlap, margin) for n, m in zip(image.shape[1:], patch, strict=True))))
    parameter = next(network.parameters(), image) if isinstance(network, torch.nn.Module) else image
    device = parameter.device
    total: Any = None
    weights = image.new_zeros(image.shape[1:], dtype=torch.float32)
    for begin in range(0, len(corners), batch):
        group = corners[begin : begin + batch]
        windows = torch.stack([image[_window(corner, patch)] for corner in group]).to(device)
        for corner, logits in zip(group, _mirrored(network, windows, mirror).to(image.device), strict=True):
            if total is None:
                total = image.new_zeros((len(logits), *image.shape[1:]), dtype=torch.float32)
            weight = _weight(corner, tuple(patch), tuple(image.shape[1:]), gaussian, margin, image.device)
            place = _window(corner, patch)
            total[place] += logits * weight
            weights[place[1:]] += weight
    for row, weight in zip(total.unbind(1), weights, strict=True):  # a second copy of everything is never made
        row.copy_((row / weight).softmax(0))
    return total[(slice(None), *(slice(n) for n in size))]


def starts(size: int, patch: int, overlap: float, margin: int = 0) -> list[int]:
    """Where windows begin along an axis: equal distances of at most (1 - overlap) patch, and every position counted."""
    step = max(1.0, min(patch * (1 - overlap), patch - 2 * margin))
    count = math.ceil((size - patch) / step) + 1
    return [round(i * (size - patch) / max(1, count - 1)) for i in range(count)]


def _window(corner: Sequence[int], patch: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(begin, begin + n) for begin, n in zip(corner, patch, strict=True)))


def _mirrored(network: Network, windows: Tensor, mirror: Sequence[int]) -> Tensor:
    """The mean of the logits over every subset of axes reversed, each reversed back."""
    total: Any = None
    flips = [axes for count in range(len(mirror) + 1) for axes in combinations([axis + 2 for axis in mirror], count)]
    for axes in flips:
        logits = network(windows.flip(axes) if axes else windows).float()
        if logits.shape[2:] != windows.shape[2:]:
            raise ShapeError(f"the network made {tuple(logits.shape[2:])} of a window of {tuple(windows.shape[2:])}")
        logits = logits.flip(axes) if axes else logits
        total = logits if total is None else total + logits
    return total / len(flips)


def _weight(corner: Axes, patch: Axes, size: Axes, gaussian: bool, margin: int, device: torch.device) -> Tensor:
    """The weight of every position of a window, the product of one factor an axis."""
    weight = torch.ones((), device=device)
    for axis, (begin, n, whole) in enumerate(zip(corner, patch, size, strict=True)):
        position = torch.arange(n, dtype=torch.float32, device=device)
        factor = torch.exp(-0.5 * ((position - (n - 1) / 2) / (n / 8)) ** 2) if gaussian else torch.ones_like(position)
        if margin and begin > 0:
            factor[:margin] = 0
        if margin and begin + n < whole:
            factor[n - margin :] = 0
        weight = weight * factor.reshape([-1 if i == axis else 1 for i in range(len(patch))])
    return weight


def _check(image: Tensor, patch, overlap: float, mirror, batch: int, margin: int) -> None:
    dims = image.ndim - 1
    if dims not in (2, 3) or len(patch) != dims or min(patch) < 1:
        raise ShapeError(
            f"predict_windows: an image (c, *spatial) in 2-D or 3-D and a patch of as many sizes are needed, got "
            f"{tuple(image.shape)} and {tuple(patch)}"
        )
    if not 0 <= overlap < 1 or batch < 1 or not 0 <= 2 * margin < min(patch):
        raise ShapeError(
            "predict_windows: 0 <= overlap < 1, batch >= 1 and 0 <= margin < half a patch must hold, got "
            f"overlap={overlap}, batch={batch}, margin={margin}"
        )
    if len(set(mirror)) != len(mirror) or any(axis not in range(dims) for axis in mirror):
        raise ShapeError(f"predict_windows: mirror must name axes below {dims}, each once, got {tuple(mirror)}")
