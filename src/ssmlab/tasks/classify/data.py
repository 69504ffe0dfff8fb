"""The images of a run in memory: read and checked with numpy alone, before torch is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmlab.core.errors import RecipeError
from ssmlab.core.progress import Progress
from ssmlab.data import ImageData, check_images, open_images
from ssmlab.tasks.classify.recipe import Recipe

PARTS = ("train", "val", "test")


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
    """

    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    describe: dict


def load_images(recipe: Recipe, progress: Progress | None = None) -> Images:
    """Read every image of a recipe at its size.

    Raises:
        DataError: with all problems by file name.
        RecipeError: the recipe names a class that the data do not have.
    """
    config, progress = recipe.data, progress or Progress()
    data = open_images(
        config.path,
        group=config.group or None,
        labels=config.labels,
        val_fraction=config.val_fraction,
        seed=config.split_seed,
    )
    positive = recipe.evaluation.positive
    if positive and positive not in data.classes:
        raise RecipeError(f"evaluation.positive={positive!r} is no class of the data: {', '.join(data.classes)}")
    if positive and len(data.classes) != 2:
        raise RecipeError(f"evaluation.positive is for two classes, the data have {len(data.classes)}; leave it out")
    progress.start("checking images", sum(len(getattr(data, name)) for name in PARTS))
    try:  # decode everything once, so that all damaged files and all images in two parts are reported before training
        report = check_images(data, progress=lambda done, total: progress.update(done), fit=config.fit)
    finally:
        progress.stop()
    parts = {name: _read(data, name, config, progress) for name in PARTS}
    mean, std = channel_statistics(parts["train"].images)
    describe = {
        "format": data.format,
        "path": config.path,
        "counts": {name: len(part.labels) for name, part in parts.items()},
        "classes": list(data.classes),
        "split_hash": data.split_hash,
        "image_size": config.image_size,
        "fit": config.fit,
        "copies": report.copies,
        **described_groups(config.group, parts),
        "notes": [
            *report.warnings,
            *([report.shapes] if report.shapes else []),
            *report.notes,
            *([f"at most {config.limit} images of each part are used"] if config.limit else []),
        ],
    }
    return Images(classes=tuple(data.classes), mean=mean, std=std, describe=describe, **parts)


def described_groups(column: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The column of the groups and how many every part has, for run.json; nothing where there are none."""
    if any(part.groups is None for part in parts.values()):
        return {}
    return {"group": column, "groups": {name: len(set(part.groups)) for name, part in parts.items()}}


def _read(data: ImageData, name: str, config, progress: Progress) -> Part:
    split = getattr(data, name)
    if config.limit and config.limit < len(split):
        split = split.take(spread_over_classes(split.labels, config.limit, config.split_seed))
    progress.start(f"reading {name}", len(split))
    try:
        images = split.array(config.image_size, lambda done, total: progress.update(done), config.fit)
    finally:
        progress.stop()
    return Part(images, np.asarray(split.labels), list(split.ids), split.groups)


def spread_over_classes(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` positions in ascending order, taken in turn from every class, at random within each."""
    rng = np.random.default_rng(seed)
    turn = np.empty(len(labels))
    for name in np.unique(labels):
        members = np.flatnonzero(labels == name)
        turn[members] = rng.permutation(len(members))
    # The first of every class, then the second of every class, and so on.
    return np.sort(np.lexsort((rng.random(len(labels)), turn))[:count])


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
