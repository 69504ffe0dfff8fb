"""Images at another spacing, and predictions that are made there and brought back to an image's own grid.

The outer edges of the first and the last pixel stay where they are; between pixels values are linear, labels take the
nearest.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
Windows = Callable[[nn.Module, Tensor], Tensor]
"""A network and an image (c, *spatial), normalised, to probabilities (k, *spatial)."""


def regridded_size(size: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """The size of an image at another spacing, at least 1; an axis whose target is 0 stays as it is."""
    return tuple(max(1, round(n * a / b)) if b else n for n, a, b in zip(size, spacing, target, strict=True))


def regrid(image: Tensor, size: Sequence[int]) -> Tensor:
    """An image (c, *spatial) float32 at another size, linearly."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return F.interpolate(image[None], tuple(size), mode=LINEAR[len(size)], align_corners=False)[0]


def regrid_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (*spatial) uint8 at another size, by their nearest value."""
    if tuple(labels.shape) == tuple(size):
        return labels
    return F.interpolate(labels[None, None], tuple(size), mode="nearest-exact")[0, 0]


@torch.inference_mode()
def predict_at(
    network: nn.Module, image: Tensor, windows: Windows, spacing: Sequence[float] = (), target: Sequence[float] = ()
) -> Tensor:
    """Probabilities (k, *spatial) of a whole image on its own grid, predicted at the spacing `target`.

    Args:
        image: (c, *spatial), normalised. spacing: of its pixels.
        target: the spacing that the network was trained at; empty takes the image as it is.
    """
    size = image.shape[1:]
    if target:
        image = regrid(image, regridded_size(size, spacing, target))
    return regrid(windows(network, image), size)
