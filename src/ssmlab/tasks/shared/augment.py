"""Random changes of a batch of images, every image with its own, drawn from torch's global generator on the CPU.

The global generator is what a checkpoint stores, so a resumed run draws the same changes; on the CPU, so that a
GPU run sees the same ones too. timm's changes draw from `random` and numpy, which are seeded from torch's generator
for each batch, and put back.
"""

import math
import random
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Flips and small shifts, scalings and rotations of square images; policies and erasing by timm.

    A batch goes through `policy` as bytes, through the call as values of 0 to 1, and through `erase` normalised.

    Args:
        flip: "none", "horizontal", "vertical" or "both", each with probability 1/2.
        shift: largest shift in each direction, as a fraction of the image, 0 to 0.5.
        scale: sizes are drawn from 1 - scale to 1 + scale.
        rotate: largest angle in degrees.
        auto_augment: AutoAugment, RandAugment, 3-Augment or AugMix as timm names them, "rand-m9-mstd0.5-inc1", or "".
        random_erasing: probability that a rectangle of an image is erased (Zhong et al. 2017, arXiv:1708.04896).
        erasing: what fills it: "const" the mean, "rand" a random colour, "pixel" noise.
        fill: the colour of what a policy moves in from outside, 0 to 1 per channel.
    """

    flip: str = "none"
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    auto_augment: str = ""
    random_erasing: float = 0.0
    erasing: str = "pixel"
    fill: tuple[float, ...] = (0.5, 0.5, 0.5)

    def policy(self, images: Tensor) -> Tensor:
        """Change images (b, 3, h, w), uint8, by `auto_augment`: with Pillow, one at a time, on the CPU."""
        if not self.auto_augment:
            return images
        change = _policy(self.auto_augment, self.fill, min(images.shape[-2:]))
        with _timm_random():
            changed = [np.asarray(change(Image.fromarray(image))) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).to(images.device)

    def erase(self, images: Tensor) -> Tensor:
        """Erase rectangles of normalised images (b, c, h, w), in place."""
        if not self.random_erasing:
            return images
        from timm.data.random_erasing import RandomErasing

        with _timm_random():
            return RandomErasing(self.random_erasing, mode=self.erasing, device="cpu")(images)

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


@dataclass(frozen=True)
class Mix:
    """Mixup (Zhang et al. 2017, arXiv:1710.09412) or CutMix (Yun et al. 2019, arXiv:1905.04899), by timm.

    A batch is mixed with itself in reverse order; with both, each batch gets one of them at random.

    Args:
        mixup: alpha of the Beta distribution of the share, 0 = never.
        cutmix: the same for CutMix.
        probability: that a batch is mixed at all.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __call__(self, images: Tensor, labels: Tensor, classes: int, smoothing: float) -> tuple[Tensor, Tensor]:
        """Mix images (b, c, h, w) in place; returns them and the probabilities of the classes, (b, classes).

        Of an odd number the last image stays as it is.
        """
        from timm.data.mixup import Mixup, mixup_target

        mix = Mixup(self.mixup, self.cutmix, prob=self.probability, label_smoothing=smoothing, num_classes=classes)
        even = len(images) // 2 * 2
        with _timm_random():
            _, targets = mix(images[:even], labels[:even])
        if even < len(images):
            targets = torch.cat([targets, mixup_target(labels[even:], classes, smoothing=smoothing)])
        return images, targets


@lru_cache(maxsize=8)
def _policy(text: str, fill: tuple[float, ...], size: int):
    """timm's transform of one picture, with the settings that its `create_transform` takes from the image size."""
    from timm.data import auto_augment

    settings = {"translate_const": int(size * 0.45), "img_mean": tuple(round(255 * value) for value in fill)}
    if text.startswith("rand"):
        change = auto_augment.rand_augment_transform(text, settings)
    elif text.startswith("augmix"):
        change = auto_augment.augment_and_mix_transform(text, settings | {"translate_pct": 0.3})
    else:
        change = auto_augment.auto_augment_transform(text, settings)
    operations = change.ops if hasattr(change, "ops") else [one for several in change.policy for one in several]
    for operation in operations:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return change


def _posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    """Keep the highest bits. Policies ask for none as well, which newer versions of Pillow refuse: black."""
    return ImageOps.posterize(image, min(bits, 8)) if bits >= 1 else Image.new(image.mode, image.size)


@contextmanager
def _timm_random():
    seed = int(torch.randint(2**32, ()))
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _uniform(b: int, largest: float) -> Tensor:
    return (2 * torch.rand(b) - 1) * largest


def _coin(b: int, images: Tensor) -> Tensor:
    return (torch.rand(b) < 0.5).to(images.device)[:, None, None, None]
