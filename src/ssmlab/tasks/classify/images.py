"""The images of a run, whoever reads them. Nothing here imports torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssmlab.data.stream.shuffle import Stream

PARTS = ("train", "val", "test")


class ImageStream(NamedTuple):
    """Images that are read while a model is trained.

    open: gives a new `Stream` of (image, label, id). items: images of an epoch. counts: of every class.
    """

    open: Callable[[], Stream]
    items: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Images (n, h, w, 3) uint8 with labels (n,), stable ids, and groups such as patients where a column says them."""

    images: np.ndarray
    labels: np.ndarray
    ids: list[str]
    groups: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Images:
    """All parts of a run's data.

    Args:
        mean, std: per channel over the training part, of values scaled to 0..1.
        describe: what run.json says about the data.
        stream: the training part where it is read while a model is trained; `train` is then some of it.
    """

    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    describe: dict
    stream: ImageStream | None = None

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training images of every class."""
        if self.stream is not None:
            return self.stream.counts
        return tuple(np.bincount(self.train.labels, minlength=len(self.classes)).tolist())


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (n, h, w, c) uint8, scaled to 0..1; exact, from histograms."""
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[-1]):
        weights = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        centre = float(weights @ values)
        mean.append(round(centre, 6))
        # A channel without any variation is left as it is.
        std.append(round(float(weights @ (values - centre) ** 2) ** 0.5, 6) or 1.0)
    return tuple(mean), tuple(std)
