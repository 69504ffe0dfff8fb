"""The twenty transformations and the original: what is drawn for an image, and from what.

imgaug's names and defaults (aleju/imgaug 0.4, MIT; read, not copied) are severity 3. Every other severity s of 1 to 5
has the same distributions with their distance from "no change" times k = s / 3. Where the upper end e of a fraction
would become larger than 1, it is 1 and the excess raises the lower end: U(max(0, e - 1), min(1, e)). Severity 0 is the
identity, bit for bit.

All numbers are uniform, from a generator that is keyed by seed, image and transformation: not by batch, order, worker
or device. uint8 images are rounded to the nearest value, a half to the even one, and cut off at 0 and 255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ssmlab.core.errors import ShapeError, UserError
from ssmlab.robustness import colour, geometry, pixels
from ssmlab.robustness.philox import Draws

SEVERITIES = (1, 2, 3, 4, 5)
ORIGINAL = "original"
AT_A_TIME = 8  # images, so that what is computed in between stays in the cache

Range = tuple[float, float, int]  # low, high, how many for an image


@dataclass(frozen=True, kw_only=True)
class Transformation:
    """One row of the table.

    Args:
        number: of the counter of the generator; never another one's.
        ranges: of k and the number of channels: name -> (low, high, how many), in the order in which they are drawn.
        change: of images (b, c, h, w) float32 in 0..255, draws and the parameters by name.
        fixed: of k: what is the same for every image.
        colours: whether it needs three channels.
    """

    number: int
    name: str
    title: str
    ranges: Callable[[float, int], dict[str, Range]]
    change: Callable[..., Tensor]
    fixed: Callable[[float], dict] = lambda k: {}
    colours: bool = False


def _up_to(end: float) -> Range:
    """A fraction from 0 to `end`; what is above 1 raises the lower end."""
    return max(0.0, end - 1), min(1.0, end), 1


def _chance(k: float) -> dict[str, Range]:
    p = min(1.0, k)
    return {"p": (p, p, 1), "coin": (0.0, 1.0, 1)}


def _affine(k: float, c: int) -> dict[str, Range]:
    return {
        "scale": (1 - 0.1 * k, 1 + 0.1 * k, 2),
        "shift": (-0.1 * k, 0.1 * k, 2),
        "rotate": (-15 * k, 15 * k, 1),
        "shear": (-10 * k, 10 * k, 2),
    }


_ROWS = (
    Transformation(number=1, name="additive_gaussian_noise", title="Gaussian noise",
                   ranges=lambda k, c: {"sigma": (0, 15 * k, 1)}, change=pixels.additive_gaussian_noise),
    Transformation(number=2, name="affine", title="Affine", ranges=_affine, change=geometry.affine),
    Transformation(number=3, name="crop", title="Crop",
                   ranges=lambda k, c: {"sides": (0, 0.1 * k, 4)}, change=geometry.crop),
    Transformation(number=4, name="hue_and_saturation", title="Hue and saturation", colours=True,
                   ranges=lambda k, c: {"hue": (-40 * k, 40 * k, 1), "saturation": (-40 * k, 40 * k, 1)},
                   change=colour.hue_and_saturation),
    Transformation(number=5, name="crop_and_pad", title="Crop and pad",
                   ranges=lambda k, c: {"sides": (-0.1 * k, 0.1 * k, 4)}, change=geometry.crop_and_pad),
    Transformation(number=6, name="cutout", title="Cutout",
                   ranges=lambda k, c: {"size": (0.2 * k, 0.2 * k, 1), "centre": (0, 1, 2)}, change=pixels.cutout),
    Transformation(number=7, name="dropout", title="Dropout",
                   ranges=lambda k, c: {"p": (0, 0.05 * k, 1)}, change=pixels.dropout),
    Transformation(number=8, name="edge_detect", title="Edge detection",
                   ranges=lambda k, c: {"alpha": _up_to(0.75 * k)}, change=pixels.edge_detect),
    Transformation(number=9, name="emboss", title="Emboss",
                   ranges=lambda k, c: {"alpha": _up_to(k), "strength": (0.25 * k, k, 1)}, change=pixels.emboss),
    Transformation(number=10, name="piecewise_affine", title="Piecewise affine",
                   ranges=lambda k, c: {"scale": (0, 0.04 * k, 1), "rows": (2, 5, 1), "columns": (2, 5, 1)},
                   change=geometry.piecewise_affine),
    Transformation(number=11, name="salt", title="Salt",
                   ranges=lambda k, c: {"p": (0, 0.03 * k, 1)}, change=pixels.salt),
    Transformation(number=12, name="fast_snowy_landscape", title="Snowy landscape", colours=True,
                   ranges=lambda k, c: {"threshold": (100, 255, 1), "factor": (1, 1 + 3 * k, 1)},
                   change=colour.fast_snowy_landscape),
    Transformation(number=13, name="fliplr", title="Left-right flip",
                   ranges=lambda k, c: _chance(k), change=geometry.fliplr),
    Transformation(number=14, name="gaussian_blur", title="Gaussian blur",
                   ranges=lambda k, c: {"sigma": (0, 3 * k, 1)}, change=pixels.gaussian_blur,
                   fixed=lambda k: {"radius": round(9 * k)}),
    Transformation(number=15, name="grayscale", title="Greyscale", colours=True,
                   ranges=lambda k, c: {"alpha": (min(1.0, k), min(1.0, k), 1)}, change=colour.grayscale),
    Transformation(number=16, name="invert", title="Inversion",
                   ranges=lambda k, c: _chance(k), change=pixels.invert),
    Transformation(number=17, name="linear_contrast", title="Linear contrast",
                   ranges=lambda k, c: {"alpha": (1 - 0.4 * k, 1 + 0.4 * k, 1)}, change=pixels.linear_contrast),
    Transformation(number=18, name="multiply", title="Multiplication",
                   ranges=lambda k, c: {"factor": (1 - 0.2 * k, 1 + 0.2 * k, 1)}, change=pixels.multiply),
    Transformation(number=19, name="multiply_per_channel", title="Multiplication, channels apart",
                   ranges=lambda k, c: {"factor": (1 - 0.2 * k, 1 + 0.2 * k, c)}, change=pixels.multiply),
    Transformation(number=20, name="perspective", title="Perspective",
                   ranges=lambda k, c: {"scale": (0, 0.06 * k, 1)}, change=geometry.perspective),
)  # fmt: skip
TRANSFORMATIONS = MappingProxyType({row.name: row for row in _ROWS})


def draw_parameters(name: str, *, severity: int, index: Tensor, seed: int = 0, channels: int = 3) -> dict[str, Tensor]:
    """The parameters of images: low + (high - low) u, computed in float64, with the uniform u of part 0 in order.

    Args:
        index: which images these are, (b,) int64.
    Returns:
        by name, (b,) or (b, n) float32, on the CPU.
    """
    row = find(name)
    ranges = row.ranges(severity / 3, channels)
    u = Draws(seed, index.cpu(), row.number).uniform(sum(count for *_, count in ranges.values())).double()
    found = {}
    for key, (low, high, count) in ranges.items():
        values, u = (low + (high - low) * u[:, :count]).float(), u[:, count:]
        found[key] = values[:, 0] if count == 1 else values
    return found


def transform(images: Tensor, name: str, *, severity: int = 3, seed: int = 0, index: Tensor | None = None) -> Tensor:
    """Transform a batch of images, every image by its own random numbers.

    Args:
        images: (b, c, h, w), uint8, or floating with values 0 to 1; on any device.
        name: of `TRANSFORMATIONS`, or "original".
        severity: 1 to 5, 3 has imgaug's defaults; 0 changes nothing.
        seed: another one, and every image gets other numbers.
        index: which images these are, (b,) int64 of at least 0; their positions in the batch if not given.
    Returns:
        images of the same shape and dtype.
    Raises:
        ShapeError: no batch of images, or colours are needed and there are not three channels.
        UserError: there is no such transformation or severity.
    """
    if severity not in (0, *SEVERITIES):
        raise UserError(f"severity must be 0 to 5, got {severity}")
    if name == ORIGINAL or severity == 0:
        return images.clone()
    row = find(name)
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        got = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        raise ShapeError(f"{row.name}: images must be (b, c, h, w), uint8 or floating, got {got}")
    if row.colours and images.shape[1] != 3:
        raise ShapeError(
            f"{row.name} needs 3 channels, got {images.shape[1]}; repeat grey ones: images.expand(-1, 3, -1, -1)"
        )
    index = torch.arange(len(images)) if index is None else index.to(torch.int64)
    if index.shape != (len(images),):
        raise ShapeError(f"{row.name}: index must have one number an image, ({len(images)},), got {tuple(index.shape)}")
    changed = torch.empty_like(images)
    parameters = draw_parameters(name, severity=severity, index=index, seed=seed, channels=images.shape[1])
    fixed = row.fixed(severity / 3)
    for start in range(0, len(images), AT_A_TIME):
        few = slice(start, start + AT_A_TIME)
        draws = Draws(seed, index[few], row.number)
        own = {key: values[few].to(images.device) for key, values in parameters.items()}
        changed[few] = to_dtype(row.change(to_values(images[few]), draws, **own, **fixed), images.dtype)
    return changed


def find(name: str) -> Transformation:
    """A row of the table. Raises UserError."""
    if name not in TRANSFORMATIONS:
        raise UserError(f"no transformation {name!r}; there are original, {', '.join(TRANSFORMATIONS)}")
    return TRANSFORMATIONS[name]


def to_values(images: Tensor) -> Tensor:
    """uint8, or floating 0 to 1, as float32 with values 0 to 255, contiguous."""
    x = images.to(torch.float32, memory_format=torch.contiguous_format)
    return x if images.dtype == torch.uint8 else x * 255


def to_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What `to_values` made, back; cut off at the ends of the range."""
    return x.round_().clamp_(0, 255).to(dtype) if dtype == torch.uint8 else (x / 255).clamp_(0, 1).to(dtype)
