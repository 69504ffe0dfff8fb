"""ImageNet-C's weather; x is (b, 3, h, w) float32 with values 0 to 255, v one of them divided by 255.

See `corruptions`.
"""

import torch
from torch import Tensor

from ssmlab.robustness.blur import streak, zoomed
from ssmlab.robustness.colour import grey
from ssmlab.robustness.philox import Draws
from ssmlab.robustness.pixels import per_image


def snow(
    x: Tensor,
    draws: Draws,
    mean: float,
    spread: float,
    zoom: float,
    least: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Tensor:
    """keep v + (1 - keep) max(v, 1.5 grey + 0.5), plus flakes, plus the flakes turned by half a circle.

    Flakes: mean + spread z, z standard normal, (h, w) (part 1), zoomed, 0 below `least`, and streaked along an angle of
    -135 to -45 degrees, uniform (part 0).
    """
    flakes = zoomed(mean + spread * draws.normal(1, *x.shape[-2:], part=1, device=x.device), zoom)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp_(0, 1).mul_(255).floor_()
    flakes = streak(flakes, radius, sigma, 90 * draws.uniform(1)[:, 0] - 135)
    paler = keep * x + (1 - keep) * torch.maximum(x, 1.5 * grey(x) + 127.5)
    return paler + flakes + flakes.flip((-2, -1))


def frost(x: Tensor, draws: Draws, keep: float, amount: float) -> Tensor:
    """keep v + amount ice. The published photographs of ice are not here: ice is made by `plasma` (decay 1.6, part 1).

    Its values p become p^1.5 of (0.75, 0.88, 1) in red, green and blue.
    """
    ice = plasma(draws, (x.shape[-2], x.shape[-1]), 1.6, x.device)[:, None] ** 1.5
    colour = torch.tensor([0.75, 0.88, 1.0], device=x.device)[:, None, None]
    return keep * x + (255 * amount) * ice * colour


def fog(x: Tensor, draws: Draws, amount: float, decay: float) -> Tensor:
    """(v + amount p) m / (m + amount); m the largest v of the image, p of `plasma` (part 1)."""
    most = x.amax((1, 2, 3), keepdim=True)
    fogged = x + 255 * amount * plasma(draws, (x.shape[-2], x.shape[-1]), decay, x.device)[:, None]
    return fogged * (most / (most + 255 * amount))


def plasma(draws: Draws, size: tuple[int, int], decay: float, device) -> Tensor:
    """Clouds by the diamond-square algorithm on a torus, brought to 0..1, (b, h, w), the upper left part of a square.

    Its side is the first power of two of at least 256 that h and w fit into. Beginning with one point of height 0, the
    middles of squares and then those of diamonds become the mean of their four corners plus a^2 (2 u - 1): a is 100 and
    is divided by `decay` after every halving. u uniform, (3, n, n) for the n x n squares of a halving, the middles
    first, then the diamonds on vertical and on horizontal sides (parts 1, 2, ... one a halving).
    """
    side = max(256, *(1 << (length - 1).bit_length() for length in size))
    heights, a, part = torch.zeros(len(draws.index), 1, 1, device=device), 100.0, 1
    while heights.shape[-1] < side:
        n = heights.shape[-1]
        noise = (2 * draws.uniform(3, n, n, part=part, device=device) - 1) * a * a
        corners = heights + heights.roll(-1, -2)
        middle = (corners + corners.roll(-1, -1)) / 4 + noise[:, 0]
        next_to, above = middle + middle.roll(1, -1), middle + middle.roll(1, -2)
        vertical = (heights + heights.roll(-1, -2) + next_to) / 4 + noise[:, 1]
        horizontal = (heights + heights.roll(-1, -1) + above) / 4 + noise[:, 2]
        rows = torch.stack([heights, horizontal], -1).flatten(-2), torch.stack([vertical, middle], -1).flatten(-2)
        heights = torch.stack(rows, -2).flatten(-3, -2)
        a, part = a / decay, part + 1
    low = heights.amin((1, 2), keepdim=True)
    heights = (heights - low) / (heights.amax((1, 2), keepdim=True) - low)
    return heights[:, : size[0], : size[1]]


def brightness(x: Tensor, draws: Draws, amount: float) -> Tensor:
    """In HSV: value + amount, cut off at 1; so a channel is v (value + amount) / value, and amount in a black pixel."""
    value = x.amax(1, keepdim=True)
    brighter = (value + 255 * amount).clamp(max=255)
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-6)), brighter)


def contrast(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """m + factor (v - m); m the mean of the channel."""
    return torch.lerp(x.mean((2, 3), keepdim=True), x, per_image(torch.full((len(x),), factor, device=x.device)))
