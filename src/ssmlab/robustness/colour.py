"""Transformations of colours; x is (b, 3, h, w), see `pixels` for the rest."""

import torch
from torch import Tensor

from ssmlab.robustness.philox import Draws
from ssmlab.robustness.pixels import per_image

RED, GREEN, BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601, as imgaug's grey


def grayscale(x: Tensor, draws: Draws, alpha: Tensor) -> Tensor:
    """(1 - alpha) v + alpha (0.299 red + 0.587 green + 0.114 blue)."""
    return torch.lerp(x, grey(x), per_image(alpha))


def grey(x: Tensor) -> Tensor:
    """Grey values (b, 1, h, w)."""
    return (x[:, 0] * RED).add_(x[:, 1], alpha=GREEN).add_(x[:, 2], alpha=BLUE)[:, None]


def hue_and_saturation(x: Tensor, draws: Draws, hue: Tensor, saturation: Tensor) -> Tensor:
    """In HSV: hue + 360 degrees hue / 255, and saturation + saturation / 255, cut off at 0 and 1; the value stays.

    A grey pixel has hue 0, red, and so turns red where saturation is added (imgaug's and OpenCV's rule too).
    """
    sixths, chroma, value = hue_chroma_value(x)
    full = (chroma / value.clamp(min=1e-6)).add_(per_image(saturation / 255)[:, 0]).clamp_(0, 1)
    return from_hsv(sixths.add_(per_image(hue * (6 / 255))[:, 0]), full, value)


def hue_chroma_value(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in sixths of the circle (red 0, green 2, blue 4; -1 to 5), largest minus smallest, and largest channel."""
    red, green, blue = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    safe = chroma.clamp(min=1e-6)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    return sixths, chroma, value


def from_hsv(sixths: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """value - value saturation max(0, min(t, 4 - t, 1)) with t = (n + sixths) mod 6; n = 5, 3, 1 in the channels."""
    depth = value * saturation
    channels = []
    for n in (5, 3, 1):
        t = (sixths + n).remainder_(6)
        channels.append(torch.addcmul(value, depth, torch.minimum(t, 4 - t).clamp_(0, 1), value=-1))
    return torch.stack(channels, 1)


def fast_snowy_landscape(x: Tensor, draws: Draws, threshold: Tensor, factor: Tensor) -> Tensor:
    """In HLS: where the lightness L < threshold it becomes M = min(255, factor L); hue and saturation stay.

    L is half the sum of the largest and the smallest channel. In closed form a channel v becomes
    M + (v - L) (255 - |2 M - 255|) / (255 - |2 L - 255|).
    """
    light = (x.amax(1, keepdim=True) + x.amin(1, keepdim=True)).mul_(0.5)
    lighter = torch.where(light < per_image(threshold), (light * per_image(factor)).clamp_(max=255), light)
    return torch.addcmul(lighter, x - light, _room(lighter) / _room(light).clamp_(min=1e-6))


def _room(light: Tensor) -> Tensor:
    """The largest difference of channels that a lightness leaves room for."""
    return 255 - (2 * light - 255).abs_()
