"""The images of a run, whoever reads them. Nothing here imports torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ssmlab.data.folds import Fold
from ssmlab.data.stream.shuffle import Stream
from ssmlab.tasks.shared.folds import fold_parts

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
    """Images (n, h, w, 3) uint8 with labels (n,) and stable ids.

    Args:
        labels: of images with several labels 0 or 1, (n, classes).
        groups: of every image, such as patients; None where nothing says them.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: list[str]
    groups: list[str] | None = None

    def take(self, positions) -> "Part":
        """The images at these positions."""
        chosen = list(positions)
        groups = None if self.groups is None else [self.groups[i] for i in chosen]
        return Part(self.images[chosen], self.labels[chosen], [self.ids[i] for i in chosen], groups)


@dataclass(frozen=True, kw_only=True)
class Images:
    """All parts of a run's data.

    With a cross-validation train and test are all images of its folds and val is empty; `of_fold` has the parts of one.

    Args:
        mean, std: per channel over the training part, of values scaled to 0..1.
        describe: what run.json says about the data.
        several: whether an image may have several labels.
        stream: the training part where it is read while a model is trained; `train` is then some of it.
        folds: by repeat. apart: with folds, the published test part, which is in none of them.
    """

    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    describe: dict
    stream: ImageStream | None = None
    several: bool = False
    folds: tuple[tuple[Fold, ...], ...] = ()
    apart: Part | None = None

    def of_fold(self, fold: Fold) -> "Images":
        """The parts of one fold; test is what it holds out."""
        parts = fold_parts(self.train, fold)
        mean, std = channel_statistics(parts["train"].images)
        describe = self.describe | {"counts": {name: len(part.labels) for name, part in parts.items()}}
        return replace(self, **parts, mean=mean, std=std, describe=describe)  # type: ignore[arg-type]

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training images of every class, or with every label."""
        if self.stream is not None:
            return self.stream.counts
        if self.several:
            return tuple(self.train.labels.sum(0).tolist())
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
