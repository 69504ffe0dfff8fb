"""The images of a run in memory: read and checked with numpy alone, before torch is imported."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmlab.core.errors import RecipeError
from ssmlab.core.progress import Progress
from ssmlab.data import ImageData, check_images, open_images
from ssmlab.data.images.medmnist import machine_memory
from ssmlab.data.stream.labelled import is_sharded
from ssmlab.tasks.classify.images import PARTS, Images, Part, channel_statistics
from ssmlab.tasks.classify.recipe import Recipe
from ssmlab.tasks.classify.streaming import stream_folders, stream_shards


def load_images(recipe: Recipe, progress: Progress | None = None) -> Images:
    """Read every image of a recipe at its size.

    Raises:
        DataError: with all problems by file name.
        RecipeError: the recipe names a class that the data do not have.
    """
    config, progress = recipe.data, progress or Progress()
    if config.path and config.stream is not False and is_sharded(config.path):
        return checked_positive(recipe, stream_shards(recipe, progress))
    data = open_images(
        config.path,
        group=config.group or None,
        labels=config.labels,
        val_fraction=config.val_fraction,
        seed=config.split_seed,
    )
    count, memory = sum(len(getattr(data, name)) for name in PARTS), machine_memory()
    large = memory is not None and not config.limit and count * config.image_size**2 * 3 > memory // 2
    if config.stream is True or (config.stream == "auto" and large):
        return checked_positive(recipe, stream_folders(recipe, data, progress))
    check_positive(recipe, data.classes)
    progress.start("checking images", count)
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
    return Images(classes=tuple(data.classes), mean=mean, std=std, describe=describe, stream=None, **parts)


def checked_positive(recipe: Recipe, images: Images) -> Images:
    """The images of a recipe whose positive class is one of theirs, see `check_positive`."""
    check_positive(recipe, images.classes)
    return images


def check_positive(recipe: Recipe, classes: tuple[str, ...]) -> None:
    """Refuse a positive class that the data do not have.

    Raises:
        RecipeError: it is none of them, or they are not two.
    """
    positive = recipe.evaluation.positive
    if positive and positive not in classes:
        raise RecipeError(f"evaluation.positive={positive!r} is no class of the data: {', '.join(classes)}")
    if positive and len(classes) != 2:
        raise RecipeError(f"evaluation.positive is for two classes, the data have {len(classes)}; leave it out")


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
