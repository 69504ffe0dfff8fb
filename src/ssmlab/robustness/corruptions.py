"""ImageNet-C's fifteen corruptions with their published constants, for comparison with published numbers.

Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations"
(arXiv:1903.12261); constants of hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py (Apache-2.0; read, not
copied), for images of 224 pixels. Random numbers are keyed as those of `transformations`.

What differs: frost, whose photographs are not here, is made by a formula; the published images were compressed once
more (JPEG, quality 85) and cut to whole values instead of rounded. Scores of frost, and a little of all, are therefore
not those of the published files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ssmlab.core.errors import ShapeError, UserError
from ssmlab.robustness import blur, digital, noise, weather
from ssmlab.robustness.philox import Draws
from ssmlab.robustness.transformations import SEVERITIES, to_dtype, to_values

AT_A_TIME = 8


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One row of the table.

    Args:
        number: of the counter of the generator.
        constants: what `change` takes besides images and draws, for severities 1 to 5.
        alexnet: AlexNet's mean top-1 error over the severities, a fraction: what errors are divided by.
    """

    number: int
    name: str
    title: str
    constants: tuple[tuple[float, ...], ...]
    alexnet: float
    change: Callable[..., Tensor]


ALEXNET_CLEAN = 0.435  # AlexNet's top-1 error on the original images, of the paper's table

_SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)  # fmt: skip
_ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
_ELASTIC = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))


def _each(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


_ROWS = (
    Corruption(number=101, name="gaussian_noise", title="Gaussian noise", alexnet=0.886428,
               constants=_each(0.08, 0.12, 0.18, 0.26, 0.38), change=noise.gaussian_noise),
    Corruption(number=102, name="shot_noise", title="Shot noise", alexnet=0.894468,
               constants=_each(60, 25, 12, 5, 3), change=noise.shot_noise),
    Corruption(number=103, name="impulse_noise", title="Impulse noise", alexnet=0.922640,
               constants=_each(0.03, 0.06, 0.09, 0.17, 0.27), change=noise.impulse_noise),
    Corruption(number=104, name="defocus_blur", title="Defocus blur", alexnet=0.819880,
               constants=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), change=blur.defocus_blur),
    Corruption(number=105, name="glass_blur", title="Glass blur", alexnet=0.826268,
               constants=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)), change=blur.glass_blur),
    Corruption(number=106, name="motion_blur", title="Motion blur", alexnet=0.785948,
               constants=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), change=blur.motion_blur),
    Corruption(number=107, name="zoom_blur", title="Zoom blur", alexnet=0.798360,
               constants=_ZOOM, change=blur.zoom_blur),
    Corruption(number=108, name="snow", title="Snow", alexnet=0.866816, constants=_SNOW, change=weather.snow),
    Corruption(number=109, name="frost", title="Frost, generated", alexnet=0.826572,
               constants=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)), change=weather.frost),
    Corruption(number=110, name="fog", title="Fog", alexnet=0.819324,
               constants=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)), change=weather.fog),
    Corruption(number=111, name="brightness", title="Brightness", alexnet=0.564592,
               constants=_each(0.1, 0.2, 0.3, 0.4, 0.5), change=weather.brightness),
    Corruption(number=112, name="contrast", title="Contrast", alexnet=0.853204,
               constants=_each(0.4, 0.3, 0.2, 0.1, 0.05), change=weather.contrast),
    Corruption(number=113, name="elastic_transform", title="Elastic transform", alexnet=0.646056,
               constants=_ELASTIC, change=digital.elastic_transform),
    Corruption(number=114, name="pixelate", title="Pixelation", alexnet=0.717840,
               constants=_each(0.6, 0.5, 0.4, 0.3, 0.25), change=digital.pixelate),
    Corruption(number=115, name="jpeg_compression", title="JPEG compression", alexnet=0.606500,
               constants=_each(25, 18, 15, 10, 7), change=digital.jpeg_compression),
)  # fmt: skip
CORRUPTIONS = MappingProxyType({row.name: row for row in _ROWS})


def corrupt(images: Tensor, name: str, *, severity: int = 3, seed: int = 0, index: Tensor | None = None) -> Tensor:
    """Corrupt a batch of images.

    Args:
        images: (b, 3, h, w), uint8, or floating with values 0 to 1; on any device.
        name: of `CORRUPTIONS`. severity: 1 to 5; 0 changes nothing.
        index: which images these are, (b,) int64; their positions in the batch if not given.
    Returns:
        images of the same shape and dtype.
    Raises:
        ShapeError: no batch of colour images. UserError: there is no such corruption or severity.
    """
    if severity not in (0, *SEVERITIES):
        raise UserError(f"severity must be 0 to 5, got {severity}")
    if name not in CORRUPTIONS:
        raise UserError(f"no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(f"{name}: images must be (b, 3, h, w), got {tuple(images.shape)}")
    if severity == 0:
        return images.clone()
    row = CORRUPTIONS[name]
    index = torch.arange(len(images)) if index is None else index.to(torch.int64)
    changed = torch.empty_like(images)
    for start in range(0, len(images), AT_A_TIME):
        few = slice(start, start + AT_A_TIME)
        draws = Draws(seed, index[few], row.number)
        x = row.change(to_values(images[few]), draws, *row.constants[severity - 1])
        changed[few] = to_dtype(x, images.dtype)
    return changed
