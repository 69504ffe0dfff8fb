"""Maps over pictures, and pictures as parts of a page."""

from __future__ import annotations

import base64
import io

import numpy as np

SMALL = 128  # pictures with shorter sides are shown as the pixels that they are
WARM, HOT, COLD = (np.array(colour, np.float32) for colour in ((224, 96, 0), (255, 225, 90), (40, 130, 235)))


def over(pixels: np.ndarray, map_: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """A map laid over a darkened grey picture: orange to yellow where it is large, blue where it is negative.

    Args:
        pixels: (h, w, 3) uint8.
        map_: (h, w); the hundredth part of the pixels with the largest values is drawn alike.
    """
    top = float(np.quantile(np.abs(map_), 0.99)) or float(np.abs(map_).max()) or 1.0
    value = np.clip(map_ / top, -1 if signed else 0, 1)[..., None].astype(np.float32)
    back = 0.15 * 255 + 0.55 * pixels.astype(np.float32).mean(-1, keepdims=True)
    warm = WARM + (HOT - WARM) * value.clip(0, 1)
    colour = np.where(value >= 0, warm, COLD)
    weight = np.abs(value) ** 0.75
    return (back * (1 - weight) + colour * weight).clip(0, 255).astype(np.uint8)


def ramp(map_: np.ndarray, *, low: float | None = None) -> np.ndarray:
    """A map by itself, from dark to yellow, (h, w, 3) uint8; `low` is the dark end, the least value if not given."""
    low = float(map_.min()) if low is None else low
    value = ((map_ - low) / (float(map_.max()) - low or 1.0)).clip(0, 1)[..., None].astype(np.float32)
    dark = np.array((18, 20, 28), np.float32)
    middle = dark + (WARM - dark) * np.minimum(2 * value, 1)
    return (middle + (HOT - WARM) * np.maximum(2 * value - 1, 0)).clip(0, 255).astype(np.uint8)


def outlined(pixels: np.ndarray, place: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """A picture with a white frame around one position of a grid."""
    framed = pixels.copy()
    ends = [
        (round(where * side / count), round((where + 1) * side / count) - 1)
        for where, count, side in zip(place, grid, pixels.shape, strict=False)
    ]
    (top, bottom), (left, right) = ends
    framed[[top, bottom], left : right + 1] = 255
    framed[top : bottom + 1, [left, right]] = 255
    return framed


def source(pixels: np.ndarray) -> str:
    """A picture (h, w, 3) uint8 as the source of an <img>: PNG where single pixels count, else JPEG."""
    from PIL import Image

    small = min(pixels.shape[:2]) < SMALL
    out = io.BytesIO()
    picture = Image.fromarray(pixels)
    if small:
        picture.save(out, "PNG", optimize=True)
    else:
        picture.save(out, "JPEG", quality=88)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(out.getvalue()).decode()}"
