"""ImageNet-C's blurs; x is (b, c, h, w) float32 with values 0 to 255. See `corruptions`."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.robustness.philox import Draws
from ssmlab.robustness.pixels import gaussian_blur, mirrored


def defocus_blur(x: Tensor, draws: Draws, radius: int, soften: float) -> Tensor:
    """x folded with a disk, itself blurred by a Gaussian of `soften` pixels; mirrored at its last pixel."""
    kernel = torch.from_numpy(_disk(radius, soften)).to(x)
    reach = len(kernel) // 2
    around = x
    for dim in (-2, -1):
        around = around.index_select(dim, mirrored(x.shape[dim], reach, x.device))
    flat = around.reshape(-1, 1, *around.shape[-2:])
    return F.conv2d(flat, kernel[None, None]).view_as(x)


@lru_cache(maxsize=8)
def _disk(radius: int, soften: float) -> np.ndarray:
    """Ones where the distance is at most the radius, blurred by a Gaussian of 3 taps, or 5 above radius 8; sum 1."""
    reach, taps = (8, 1) if radius <= 8 else (radius, 2)
    place = np.arange(-reach, reach + 1)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float64)
    weights = np.exp(-0.5 * (np.arange(-taps, taps + 1) / soften) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(taps, taps) if i == axis else (0, 0) for i in (0, 1)]
        around = np.pad(disk / disk.sum(), pad, mode="reflect")
        disk = sum(w * np.take(around, np.arange(len(place)) + i, axis) for i, w in enumerate(weights))
    return (disk / disk.sum()).astype(np.float32)


def glass_blur(x: Tensor, draws: Draws, sigma: float, reach: int, rounds: int) -> Tensor:
    """Gaussian blur; `rounds` times every pixel takes what a neighbour shows; Gaussian blur.

    Pixels of rows and columns reach + 1 to length - reach take turns from the last to the first. The neighbour is
    floor(2 reach u) - reach away, u uniform, (2, h, w), rows before columns (part 1, 2, ... in the rounds). What it
    shows may itself have been taken in this round. (The published code means to swap the two; what numpy does there is
    to copy.)
    """
    c, h, w = x.shape[1:]
    blurred = _blurred(x, sigma).round()
    flat = blurred.flatten(2)
    rows, columns = torch.arange(h, device=x.device)[:, None], torch.arange(w, device=x.device)
    inside = (rows > reach) & (rows <= h - reach) & (columns > reach) & (columns <= w - reach)
    own = rows * w + columns
    for number in range(rounds):
        # For every pixel the number of the one that it ends up with after a round, (b, h w)
        offset = (draws.uniform(2, h, w, part=number + 1, device=x.device) * (2 * reach)).floor_().long() - reach
        near = (rows + offset[:, 0]).clamp_(0, h - 1) * w + (columns + offset[:, 1]).clamp_(0, w - 1)
        source = torch.where(inside, near, own).flatten(1)
        # Later pixels had their turn before: follow them, two steps at a time as often as there are any.
        follow = (source > own.flatten()) & inside.flatten()[source]
        while bool(follow.any()):
            further = torch.where(follow, source.gather(1, source), source)
            follow = follow & follow.gather(1, source)
            source = further
        flat = flat.gather(2, source[:, None].expand(-1, c, -1))
    return _blurred(flat.view_as(x), sigma)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian over four sigmas."""
    sigmas = torch.full((len(x),), sigma, device=x.device)
    return gaussian_blur(x, None, sigmas, radius=int(4 * sigma + 0.5))


def motion_blur(x: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """`streak` along an angle of -45 to 45 degrees, uniform (part 0)."""
    return streak(x, radius, sigma, 90 * draws.uniform(1)[:, 0] - 45)


def streak(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """The sum over i = 0..2 radius of g(i) times x moved by round(i (cos, sin)), columns before rows, halves down.

    g(i) = exp(-i^2 / (2 sigma^2)), divided by its sum. Outside, x goes on as its last pixel. It is the rule of
    ImageMagick's MotionBlurImage, which the published images were made with.

    Args:
        degrees: (b,), on the CPU.
    """
    b, c, h, _ = x.shape
    taps = torch.arange(2 * radius + 1, dtype=torch.float64)
    g = torch.exp(-0.5 * (taps / sigma) ** 2)
    angle = degrees.double()[:, None] * (math.pi / 180)
    right = torch.ceil(taps * torch.cos(angle) - 0.5).long()
    down = torch.ceil(taps * torch.sin(angle) - 0.5).long()
    reach = 2 * radius
    kernels = torch.zeros(b, (2 * reach + 1) ** 2, dtype=torch.float64)
    kernels.scatter_add_(1, (down + reach) * (2 * reach + 1) + right + reach, (g / g.sum()).expand(b, -1))
    used = kernels.view(b, 2 * reach + 1, 2 * reach + 1).to(x)
    around = F.pad(x, (reach, reach, reach, reach), mode="replicate").reshape(1, b * c, h + 2 * reach, -1)
    weights = used.repeat_interleave(c, 0)[:, None]
    return F.conv2d(around, weights, groups=b * c).view_as(x)


def zoom_blur(x: Tensor, draws: Draws, end: float, step: float) -> Tensor:
    """The mean of x and of its zooms by 1, 1 + step, ... below `end`."""
    factors = np.arange(1, end, step)
    total = x.clone()
    for factor in factors:
        total += zoomed(x, float(factor))
    return total / (len(factors) + 1)


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle, enlarged between its outermost pixels' middles (bilinear), and cut to the size of x."""
    h, w = x.shape[-2:]
    inner = [math.ceil(size / factor) for size in (h, w)]
    top, left = (h - inner[0]) // 2, (w - inner[1]) // 2
    part = x[..., top : top + inner[0], left : left + inner[1]]
    sizes = [max(round(size * factor), whole) for size, whole in zip(inner, (h, w), strict=True)]
    large = F.interpolate(part, sizes, mode="bilinear", align_corners=True)
    top, left = (sizes[0] - h) // 2, (sizes[1] - w) // 2
    return large[..., top : top + h, left : left + w]
