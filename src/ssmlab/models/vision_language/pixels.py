"""From a picture to the numbers that an encoder takes, and to the hash that stands for the picture."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssmlab.core.errors import ModelError
from ssmlab.models.vision_language.config import EncoderConfig

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def picture_of(image: Any) -> Image.Image:
    """A picture of Pillow, or an array (h, w, 3) of uint8, as an RGB picture.

    Raises:
        ModelError: it is neither; files are opened by `ssmlab.tasks.vision_language.use`, which reads every format.
    """
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    what = type(image).__name__ if not isinstance(image, np.ndarray) else f"an array {image.shape} of {image.dtype}"
    raise ModelError(f"an image must be a picture of Pillow or an array (h, w, 3) of uint8, got {what}")


def hash_of(picture: Image.Image) -> str:
    """SHA-256 of a picture's pixels and sides: the same for the same picture in another file."""
    digest = hashlib.sha256(f"{picture.mode} {picture.size}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def grey(config: EncoderConfig) -> Image.Image:
    """A picture of the mean colour alone: what a model sees that sees nothing."""
    colour = tuple(round(value * 255) for value in config.mean)
    return Image.new("RGB", (config.image_size, config.image_size), colour)  # type: ignore[arg-type]


def pixels(picture: Image.Image, config: EncoderConfig) -> Tensor:
    """A picture as an encoder takes it, (3, size, size) float32."""
    if config.fit == "pad":
        picture = padded(picture, config)
    if config.processor:
        processor = _processor(json.dumps(config.processor, sort_keys=True))
        return processor(images=picture, return_tensors="pt")["pixel_values"][0].float()
    if config.interpolation not in FILTERS:
        raise ModelError(f"interpolation must be one of {', '.join(FILTERS)}, got {config.interpolation!r}")
    size, filter_ = config.image_size, FILTERS[config.interpolation]
    width, height = picture.size
    if config.fit == "crop":  # the shorter side fits, then the middle is cut out
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), filter_).crop((left, top, left + size, top + size))
    else:
        picture = picture.resize((size, size), filter_)
    values = torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (config.mean, config.std))
    return (values - mean) / std


def padded(picture: Image.Image, config: EncoderConfig) -> Image.Image:
    """A picture in the middle of a square of the background's colour, as LLaVA-1.5 has it."""
    width, height = picture.size
    if width == height:
        return picture
    side = max(width, height)
    colour = config.background or tuple(int(value * 255) for value in config.mean)
    square = Image.new("RGB", (side, side), tuple(colour))  # type: ignore[arg-type]
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


@lru_cache(maxsize=8)
def _processor(text: str) -> Any:
    """One of transformers' image processors, from its configuration."""
    import transformers

    values = json.loads(text)
    name = values.get("image_processor_type", "CLIPImageProcessor").removesuffix("Fast")
    kind = getattr(transformers, name, None)
    if kind is None or not hasattr(kind, "from_dict"):
        raise ModelError(f"transformers has no image processor {name!r}; the folder is of another version")
    return kind.from_dict(values)
