"""Random changes of a batch of images, every image with its own, drawn from torch's global generator on the CPU.

The global generator is what a checkpoint stores, so a resumed run draws the same changes; on the CPU, so that a
GPU run sees the same ones too.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Flips and small shifts, scalings and rotations of square images.

    Args:
        flip: "none", "horizontal", "vertical" or "both", each with probability 1/2.
        shift: largest shift in each direction, as a fraction of the image, 0 to 0.5.
        scale: sizes are drawn from 1 - scale to 1 + scale.
        rotate: largest angle in degrees.
    """

    flip: str = "none"
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Change images (b, c, h, w), float; what moves in from outside repeats the border."""
        b = len(images)
        if self.flip in ("horizontal", "both"):
            images = torch.where(_coin(b, images), images.flip(-1), images)
        if self.flip in ("vertical", "both"):
            images = torch.where(_coin(b, images), images.flip(-2), images)
        if self.shift or self.scale or self.rotate:
            theta = self._inverse_affine(b).to(images.device, images.dtype)
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return images

    def _inverse_affine(self, b: int) -> Tensor:
        """Where each output position is read from, (b, 2, 3), in coordinates from -1 to 1."""
        angle = _uniform(b, self.rotate) * (math.pi / 180)
        size = 1 + _uniform(b, self.scale)
        dx, dy = 2 * _uniform(b, self.shift), 2 * _uniform(b, self.shift)
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        return torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)


def _uniform(b: int, largest: float) -> Tensor:
    return (2 * torch.rand(b) - 1) * largest


def _coin(b: int, images: Tensor) -> Tensor:
    return (torch.rand(b) < 0.5).to(images.device)[:, None, None, None]
