"""Random patches of images, each iteration's the same whenever it is made: everything follows from its seed.

A patch is cut, mirrored, turned and scaled in one interpolation, straight from the image; brightness, gamma and noise
are then applied to the whole batch. Source of the choices: Isensee et al. 2021 (nnU-Net), supplementary notes.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import ceil, cos, floor, radians, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.tasks.segment.recipe import PatchAugment
from ssmlab.tasks.shared.dice import IGNORE

Fetch = Callable[[int], tuple[Tensor, Tensor]]
"""An image by its number: normalised (c, *spatial) float32, and labels (*spatial) uint8."""
MOST_POSITIONS = 10_000  # of the foreground, kept for each image and class
ANISOTROPIC = 3  # where pixels are so much longer along one axis, volumes are turned only around it


class Patches(torch.utils.data.Dataset):
    """A training part that serves batches of patches, a stretch of iterations at a time.

    Args:
        fetch: images by number; count: how many there are.
        patch: sizes of a patch.
        batch_size: patches of an iteration; steps: iterations of a stretch, which the trainer calls an epoch.
        seed: with the number of the iteration it decides everything.
        foreground: the share of patches that are centred on a pixel of another class than the first.
        across: the axis of volumes across which patches in 2-D are cut.
        begins: called with the number of iterations that are done when a stretch begins.
    """

    unit, counts = "patches", "iterations"  # what a progress bar and a kept model are counted in

    def __init__(
        self,
        fetch: Fetch,
        count: int,
        patch: Sequence[int],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        foreground: float,
        augment: PatchAugment,
        spacing: Sequence[float] = (),
        across: int = 0,
        begins: Callable[[int], None] | None = None,
    ):
        self.fetch, self.count, self.patch = fetch, count, tuple(patch)
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.foreground, self.augment, self.across = foreground, augment, across
        self.flat = len(self.patch) == 3 and max(spacing, default=1) > ANISOTROPIC * min(spacing, default=1)
        self.streams = batch_size  # the trainer then reads in order, a batch of so many at a time
        self.begins, self._first = begins, 0
        self._positions: dict[int, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def begin_epoch(self, number: int) -> None:
        """Serve the iterations of the stretch `number`, counted from 0."""
        self._first = number * self.steps
        if self.begins:
            self.begins(self._first)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """The patches of an iteration: images (b, c, *patch) float32 and labels (b, *patch) uint8."""
        iteration = self._first + indices[0] // self.batch_size
        rng = np.random.default_rng([self.seed, iteration])
        cut = [self._cut(rng, iteration * self.batch_size + j) for j in range(len(indices))]
        images = torch.stack([image for image, _ in cut])
        return {"images": intensity(images, self.augment, rng), "labels": torch.stack([labels for _, labels in cut])}

    def _cut(self, rng: np.random.Generator, number: int) -> tuple[Tensor, Tensor]:
        i = int(rng.integers(self.count))
        image, labels = self.fetch(i)
        # every third patch or so, whatever the size of the batch
        forced = floor((number + 1) * self.foreground) > floor(number * self.foreground)
        pixel = self._pixel(i, labels, rng) if forced else None
        if labels.ndim > len(self.patch):
            plane = int(rng.integers(labels.shape[self.across]) if pixel is None else pixel[self.across])
            image, labels = image.select(self.across + 1, plane), labels.select(self.across, plane)
            pixel = None if pixel is None else np.delete(pixel, self.across)
        size = np.array(labels.shape)
        if pixel is not None:
            start = np.clip(pixel - np.array(self.patch) // 2, 0, np.maximum(size - self.patch, 0))
        else:
            start = [int(rng.integers(max(n - p, 0) + 1)) for n, p in zip(size, self.patch, strict=True)]
        start = np.where(size > self.patch, start, (size - self.patch) // 2)
        centre = start + (np.array(self.patch) - 1) / 2
        return sampled(image, labels, centre, self._transformation(rng), self.patch)

    def _pixel(self, i: int, labels: Tensor, rng: np.random.Generator) -> np.ndarray | None:
        """A pixel of the foreground; every class of it is as likely."""
        if i not in self._positions:
            self._positions[i] = positions(labels.numpy(), np.random.default_rng([self.seed, i]))
        found = self._positions[i]
        if not found:
            return None
        of_class = found[int(rng.integers(len(found)))]
        return of_class[int(rng.integers(len(of_class)))]

    def _transformation(self, rng: np.random.Generator) -> np.ndarray:
        """The matrix from a patch's coordinates, from its centre, to the image's; axes in the order of the array."""
        dims, config = len(self.patch), self.augment
        matrix = np.eye(dims)
        for a, b in [(1, 2)] if self.flat else combinations(range(dims), 2):
            if config.rotate and rng.random() < config.probability:
                angle = radians(rng.uniform(-config.rotate, config.rotate))
                turn = np.eye(dims)
                turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cos(angle), -sin(angle), sin(angle), cos(angle)
                matrix = matrix @ turn
        if config.scale and rng.random() < config.probability:
            matrix = matrix / between(rng, 1 - config.scale)
        return matrix * rng.choice((-1.0, 1.0), dims) if config.mirror else matrix


def positions(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Pixels (n, axes) of every class but the first that an image has, some of them where there are very many."""
    found = []
    for label in np.unique(labels):
        if label in (0, IGNORE):
            continue
        flat = np.flatnonzero(labels == label)
        if len(flat) > MOST_POSITIONS:
            flat = np.sort(rng.choice(flat, MOST_POSITIONS, replace=False))
        found.append(np.stack(np.unravel_index(flat, labels.shape), 1))
    return found


def sampled(
    image: Tensor, labels: Tensor, centre: np.ndarray, matrix: np.ndarray, patch: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The patch whose coordinates x from its centre stand for `centre + matrix x` in the image.

    Values are interpolated linearly, labels take the nearest. Outside of the image there are zeros, the mean of what is
    normalised, and labels 255.

    Args:
        image: (c, *spatial) float32. labels: (*spatial) uint8.
    """
    reach = np.abs(matrix) @ ((np.array(patch) - 1) / 2)
    sizes = np.array(labels.shape)
    low = [min(max(floor(c - r) - 1, 0), n - 1) for c, r, n in zip(centre, reach, sizes, strict=True)]
    high = [max(min(ceil(c + r) + 2, n), lo + 1) for c, r, n, lo in zip(centre, reach, sizes, low, strict=True)]
    window = tuple(slice(lo, hi) for lo, hi in zip(low, high, strict=True))
    inner, truth = image[(slice(None), *window)], labels[window]
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ torch.tensor(matrix.T, dtype=torch.float32)
    grid = grid + torch.tensor(np.asarray(centre) - low, dtype=torch.float32)
    # whole pixels stay whole: half a rounding error would blur what is only mirrored
    grid = torch.where((grid - grid.round()).abs() < 1e-3, grid.round(), grid)
    spans = torch.tensor([max(n - 1, 1) for n in truth.shape], dtype=torch.float32)
    flow = (2 * grid / spans - 1).flip(-1)[None]  # grid_sample names the last axis first
    values = F.grid_sample(inner[None], flow, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    nearest = F.grid_sample(
        (truth.float() + 1)[None, None], flow, mode="nearest", padding_mode="zeros", align_corners=True
    )[0, 0]
    found = nearest.round().to(torch.int64) - 1
    return values, torch.where(found < 0, IGNORE, found).to(torch.uint8)


def intensity(images: Tensor, config: PatchAugment, rng: np.random.Generator) -> Tensor:
    """Brightness, gamma and noise of normalised images (b, c, *patch), each for a share of them."""
    shape = (len(images), *(1,) * (images.ndim - 1))

    def drawn(neutral: float, draw: Callable[[], float]) -> Tensor:
        values = [draw() if rng.random() < config.probability else neutral for _ in range(len(images))]
        return torch.tensor(values, dtype=torch.float32).view(shape)

    if config.brightness:
        images = images * drawn(1.0, lambda: rng.uniform(1 - config.brightness, 1 + config.brightness))
    if config.gamma:
        exponents = drawn(1.0, lambda: between(rng, 1 - config.gamma))
        axes = tuple(range(1, images.ndim))
        low = images.amin(axes, keepdim=True)
        span = (images.amax(axes, keepdim=True) - low).clamp(min=1e-6)
        images = ((images - low) / span) ** exponents * span + low
    if config.noise:
        deviations = drawn(0.0, lambda: rng.uniform(0, config.noise))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        images = images + torch.randn(images.shape, generator=generator) * deviations
    return images


def between(rng: np.random.Generator, least: float) -> float:
    """A factor from `least` to 1 / `least`, as likely below 1 as above."""
    return float(np.exp(rng.uniform(np.log(least), -np.log(least))))
