"""Transformations of values: noise, holes, stencils, blur, contrast. One formula each.

In all of them x is (b, c, h, w) float32 with values 0 to 255, v one value of it, and a parameter one number an image,
(b,), or several, (b, n). What leaves 0..255 is cut off by the caller.
"""

import math

import torch
from torch import Tensor

from ssmlab.robustness.philox import Draws


def per_image(parameter: Tensor) -> Tensor:
    """A parameter (b,) in a shape that broadcasts against (b, c, h, w)."""
    return parameter[:, None, None, None]


def additive_gaussian_noise(x: Tensor, draws: Draws, sigma: Tensor) -> Tensor:
    """v + sigma z; z standard normal, (h, w): the same for all channels (part 1)."""
    noise = draws.normal(1, *x.shape[-2:], part=1, device=x.device)
    return torch.addcmul(x, per_image(sigma), noise)


def dropout(x: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """0 where u < p, else v; u uniform, (h, w): all channels of a pixel together (part 1)."""
    u = draws.uniform(1, *x.shape[-2:], part=1, device=x.device)
    return torch.where(u < per_image(p), 0.0, x)


def salt(x: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """127.5 (1 + |cos(pi t)|) where u < p, else v; u, t uniform, (2, h, w) (part 1): all channels together.

    0.5 + 0.5 cos(pi t) has the distribution Beta(1/2, 1/2); its lower half is turned up, so that salt is bright.
    """
    u, t = draws.uniform(2, *x.shape[-2:], part=1, device=x.device).split(1, dim=1)
    return torch.where(u < per_image(p), 127.5 * (1 + torch.cos(math.pi * t).abs()), x)


def cutout(x: Tensor, draws: Draws, size: Tensor, centre: Tensor) -> Tensor:
    """128 in a square with sides of size h, else v. Its middle is at (centre_0 h, centre_1 w), row and column.

    A pixel is in it if its own middle, (i + 1/2, j + 1/2), is at most half a side away in both directions.
    """
    h, w = x.shape[-2:]
    half = (size * (h / 2))[:, None]
    rows = (_middles(h, x) - centre[:, :1] * h).abs() <= half
    columns = (_middles(w, x) - centre[:, 1:] * w).abs() <= half
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], 128.0, x)


def _middles(count: int, x: Tensor) -> Tensor:
    return torch.arange(count, device=x.device) + 0.5


def edge_detect(x: Tensor, draws: Draws, alpha: Tensor) -> Tensor:
    """(1 - alpha) v + alpha (n + s + w + e - 4 v) with the four neighbours; outside, x is mirrored (see `reflect`)."""
    around = reflect(x, 1)
    edges = around[..., :-2, 1:-1] + around[..., 2:, 1:-1]
    edges.add_(around[..., 1:-1, :-2]).add_(around[..., 1:-1, 2:]).sub_(x, alpha=4)
    return torch.lerp(x, edges, per_image(alpha))


def emboss(x: Tensor, draws: Draws, alpha: Tensor, strength: Tensor) -> Tensor:
    """(1 - alpha) v + alpha (v + (se - nw) + strength (se - nw + e - w + s - n)) with the neighbours named so.

    As a matrix with rows from north to south, for strength s: [-1 - s, -s, 0], [-s, 1, s], [0, s, 1 + s]. Outside, x is
    mirrored at its last pixel.
    """
    around = reflect(x, 1)
    diagonal = around[..., 2:, 2:] - around[..., :-2, :-2]
    relief = diagonal + around[..., 1:-1, 2:]
    relief.sub_(around[..., 1:-1, :-2]).add_(around[..., 2:, 1:-1]).sub_(around[..., :-2, 1:-1])
    # (1 - alpha) v + alpha (v + d + s r) = v + alpha d + alpha s r
    return torch.addcmul(x, per_image(alpha), diagonal).addcmul_(per_image(alpha * strength), relief)


def gaussian_blur(x: Tensor, draws: Draws, sigma: Tensor, radius: int) -> Tensor:
    """The sum over t = -radius..radius of g(t) v shifted by t, along the columns and then along the rows.

    g(t) = exp(-t^2 / (2 sigma^2)), divided by its sum. Outside, x is mirrored at its last pixel.
    """
    t = torch.arange(radius + 1, device=x.device)
    g = torch.exp(-0.5 * (t / sigma.clamp(min=1e-3)[:, None]) ** 2)
    g = g / (2 * g.sum(1, keepdim=True) - g[:, :1])
    for dim in (-2, -1):  # the sum of g[:, |t|] times x shifted by t
        length = x.shape[dim]
        around = x.index_select(dim, mirrored(length, radius, x.device))
        x = x * per_image(g[:, 0])
        for s in range(1, radius + 1):
            pair = around.narrow(dim, radius - s, length) + around.narrow(dim, radius + s, length)
            x.addcmul_(pair, per_image(g[:, s]))
    return x


def reflect(x: Tensor, radius: int) -> Tensor:
    """x with `radius` more pixels on each side, mirrored at the last pixel, which is not repeated."""
    for dim in (-2, -1):
        x = x.index_select(dim, mirrored(x.shape[dim], radius, x.device))
    return x


def mirrored(length: int, radius: int, device: torch.device) -> Tensor:
    """The positions -radius..length - 1 + radius folded into 0..length - 1."""
    last = max(length - 1, 1)
    position = torch.arange(-radius, length + radius, device=device).abs() % (2 * last)
    return torch.minimum(position, 2 * last - position).clamp(max=length - 1)


def invert(x: Tensor, draws: Draws, p: Tensor, coin: Tensor) -> Tensor:
    """255 - v where coin < p, else v."""
    return torch.where(per_image(coin < p), 255 - x, x)


def linear_contrast(x: Tensor, draws: Draws, alpha: Tensor) -> Tensor:
    """127 + alpha (v - 127)."""
    return torch.addcmul(127 * per_image(1 - alpha), x, per_image(alpha))


def multiply(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    """factor v; one factor for the image, (b,), or one for each channel, (b, c)."""
    return x * factor.reshape(len(x), -1, 1, 1)
