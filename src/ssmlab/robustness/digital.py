"""ImageNet-C's elastic transform, pixelation and compression; x is (b, c, h, w) float32 with values 0 to 255.

See `corruptions`.
"""

import io
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssmlab.robustness.geometry import sample
from ssmlab.robustness.philox import Draws

HALF = 0.5001  # Pillow adds a half to sums of whole numbers; sums of float32 may lie a little below
SIDE = 244 / 224  # the published code's own constant for images of 224 pixels


def elastic_transform(x: Tensor, draws: Draws, amount: float, sigma: float, jitter: float) -> Tensor:
    """An affine map, then every place moved by a smooth field; lengths are fractions of 244/224 of the height.

    The affine map takes the points m + s, m + (s, -s) and m - s (m the middle, s a third of the shorter side) to
    themselves plus jitter (2 u - 1), u uniform, (3, 2), columns first (part 0). The field is amount times the Gaussian
    blur, over three sigmas, of 2 u - 1, u uniform, (2, h, w), columns first (part 1). Both are mirrored.
    """
    h, w = x.shape[-2:]
    unit = SIDE * h
    moved = (2 * draws.uniform(3, 2) - 1).to(x.device) * (jitter * unit)
    middle, s = torch.tensor([w // 2, h // 2], dtype=torch.float64), min(h, w) // 3
    start = middle + torch.tensor([[s, s], [s, -s], [-s, -s]], dtype=torch.float64)
    ones = torch.ones(3, 1, dtype=torch.float64)
    end = torch.cat([start + moved.double().cpu(), ones.expand(len(moved), -1, -1)], -1)
    back = torch.linalg.solve(end, start.expand(len(moved), -1, -1)).to(x)  # (b, 3, 2): end @ back = start
    column = torch.arange(w, device=x.device, dtype=x.dtype)[None, None]
    row = torch.arange(h, device=x.device, dtype=x.dtype)[None, :, None]
    i, j, k = back[:, :, :, None, None].unbind(1)
    q = i * column[:, None] + j * row[:, None] + k  # where the affine map reads
    turned = sample(x, _folded(q[:, 0] + 0.5, w), _folded(q[:, 1] + 0.5, h), edge=True)
    field = 2 * draws.uniform(2, h, w, part=1, device=x.device) - 1
    field = _smoothing(h, sigma * unit).to(x) @ field @ _smoothing(w, sigma * unit).to(x).T * (amount * unit)
    column = torch.arange(w, device=x.device) + 0.5 + field[:, 0]
    row = torch.arange(h, device=x.device)[:, None] + 0.5 + field[:, 1]
    return sample(turned, _folded(column, w), _folded(row, h), edge=True)


def _folded(place: Tensor, length: int) -> Tensor:
    """Places mirrored at the borders of the image, as often as need be."""
    place = place.remainder(2 * length)
    return torch.minimum(place, 2 * length - place)


@lru_cache(maxsize=16)
def _smoothing(length: int, sigma: float) -> Tensor:
    """The Gaussian blur along an axis that is mirrored at its borders, as a matrix (length, length)."""
    reach = int(3 * sigma + 0.5)
    t = np.arange(-reach, reach + 1)
    g = np.exp(-0.5 * (t / sigma) ** 2)
    matrix = np.zeros((length, length))
    place = (np.arange(length)[:, None] + t) % (2 * length)
    place = np.minimum(place, 2 * length - 1 - place)
    np.add.at(matrix, (np.arange(length)[:, None], place), g / g.sum())
    return torch.from_numpy(matrix.astype(np.float32))


def pixelate(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Means over the boxes of a grid of int(factor h) x int(factor w), rounded (halves up), columns before rows."""
    h, w = x.shape[-2:]
    rows, columns = (max(1, int(length * factor)) for length in (h, w))
    small = (x @ _boxes(w, columns).to(x).T + HALF).floor_()
    small = (_boxes(h, rows).to(x) @ small + HALF).floor_()
    down = torch.arange(h, device=x.device) * 2 + 1
    right = torch.arange(w, device=x.device) * 2 + 1
    return small.index_select(2, down * rows // (2 * h)).index_select(3, right * columns // (2 * w))


@lru_cache(maxsize=16)
def _boxes(length: int, count: int) -> Tensor:
    """Weights (count, length): box i holds the pixels whose middles are in its half-open range, all alike."""
    scale = length / count
    matrix = np.zeros((count, length))
    for i in range(count):
        away = np.arange(length) + 0.5 - (i + 0.5) * scale
        matrix[i] = (away > -scale / 2) & (away <= scale / 2)
    return torch.from_numpy((matrix / matrix.sum(1, keepdims=True)).astype(np.float32))


def jpeg_compression(x: Tensor, draws: Draws, quality: int) -> Tensor:
    """Written as JPEG by Pillow and read again, one image after the other."""
    pictures = x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = []
    for picture in pictures:
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(content).convert("RGB")))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x)
