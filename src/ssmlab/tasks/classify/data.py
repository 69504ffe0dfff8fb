"""The images of a run in memory: read and checked with numpy alone, before torch is imported."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ssmlab.core.errors import RecipeError
from ssmlab.core.progress import Progress
from ssmlab.core.text import did_you_mean
from ssmlab.data import ImageData, check_images, open_images
from ssmlab.data.contents import count
from ssmlab.data.copies import digest, kept_together
from ssmlab.data.folds import Division, about_division, described_groups
from ssmlab.data.images.medmnist import machine_memory
from ssmlab.data.images.reader import Split
from ssmlab.data.near import near_across_folds, thumbnail
from ssmlab.data.splits import split_hash
from ssmlab.data.stream.labelled import is_sharded
from ssmlab.tasks.classify.images import PARTS, Images, Part, channel_statistics
from ssmlab.tasks.classify.recipe import Recipe
from ssmlab.tasks.classify.streaming import stream_folders, stream_shards


def strata_of(labels: np.ndarray) -> np.ndarray:
    """Labels by which images are divided alike: of several labels the rarest one of an image, -1 where it has none."""
    if labels.ndim == 1:
        return labels
    counts = labels.sum(0)
    rarest = np.where(labels > 0, counts, np.iinfo(np.int64).max).argmin(1)
    return np.where(labels.any(1), rarest, -1)


def load_images(recipe: Recipe, progress: Progress | None = None) -> Images:
    """Read every image of a recipe at its size.

    Raises:
        DataError: with all problems by file name.
        RecipeError: the recipe names a class that the data do not have.
    """
    config, progress, folded = recipe.data, progress or Progress(), getattr(recipe, "folded", False)
    if folded and (config.stream is True or (config.path and is_sharded(config.path))):
        raise RecipeError("folds need all images in memory; leave out folds, or data.stream")
    if config.path and config.stream is not False and is_sharded(config.path):
        return checked(recipe, stream_shards(recipe, progress))
    data = open_images(
        config.path,
        group=config.group or None,
        labels=config.labels,
        val_fraction=config.val_fraction,
        seed=config.split_seed,
        divide=not folded,
        window=(config.window[0], config.window[1]) if config.window else None,
        slices=config.slices,
        skip_unreadable=config.skip_unreadable,
    )
    items, memory = sum(len(getattr(data, name)) for name in PARTS), machine_memory()
    large = memory is not None and not config.limit and items * config.image_size**2 * 3 > memory // 2
    if not (folded or data.several) and (config.stream is True or (config.stream == "auto" and large)):
        return checked(recipe, stream_folders(recipe, data, progress))
    check_classes(recipe, data.classes, data.several)
    progress.start("checking images", items)
    try:  # decode everything once, so that all damaged files and all images in two parts are reported before training
        report = check_images(data, progress=lambda done, total: progress.update(done), fit=config.fit)
    finally:
        progress.stop()
    splits = dict(data.splits)
    if folded:
        splits["train"], splits["val"] = data.train.joined(data.val), data.val.take([])
    parts = {name: _read(split, config, progress) for name, split in splits.items()}
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
    about: dict[str, Any] = {"mean": mean, "std": std, "describe": describe, "several": data.several} | parts
    images = Images(classes=tuple(data.classes), **about)
    return _folded(recipe, images, splits["train"].folds, data) if folded else images


def checked(recipe: Recipe, images: Images) -> Images:
    """The images of a recipe whose classes are theirs, see `check_classes`."""
    check_classes(recipe, images.classes)
    return images


def check_classes(recipe: Recipe, classes: tuple[str, ...], several: bool = False) -> None:
    """Refuse what a recipe says about classes where the data do not fit.

    Raises:
        RecipeError: it names a class that there is not, a positive one of more than two, or mixes images with several
            labels.
    """
    positive = recipe.evaluation.positive
    if positive and positive not in classes:
        raise RecipeError(f"evaluation.positive={positive!r} is no class of the data: {', '.join(classes)}")
    if positive and len(classes) != 2:
        raise RecipeError(f"evaluation.positive is for two classes, the data have {len(classes)}; leave it out")
    for config in [recipe.training, *(recipe.training_of(model) for model in recipe.models)]:
        for name in config.class_weights if isinstance(config.class_weights, dict) else ():
            if name not in classes:
                hint = did_you_mean(name, classes) or f": {', '.join(classes[:8])}"
                raise RecipeError(f"training.class_weights names {name!r}, which is no class of the data{hint}")
        if several and (config.mixup or config.cutmix):
            raise RecipeError("training.mixup and cutmix mix one label an image, these have several; leave them out")


def _folded(recipe: Recipe, images: Images, published: list[str] | None, data: ImageData) -> Images:
    """The same images divided into folds; a published test part stays apart."""
    pool, config = images.train, recipe.data
    groups = pool.groups
    division = Division(
        folds=recipe.folds, repeats=recipe.repeats, splits=recipe.splits, val_fraction=config.val_fraction,
        seed=config.split_seed,
    )  # fmt: skip
    digests = [digest(image) for image in pool.images]
    drawn = not (recipe.splits or published)  # folds that others have made stay as they are
    whole = kept_together(pool.ids, groups, digests) if drawn else groups
    twice = len(digests) - len(set(digests))
    forms = (lambda id_: PurePosixPath(id_).name, lambda id_: PurePosixPath(id_).stem)
    folds = division.divide(pool.ids, strata_of(pool.labels).tolist(), whole, published, forms)
    apart = images.test if len(images.test.ids) else None
    describe = images.describe | about_division(images.describe, folds, pool.ids, groups, apart.ids if apart else [])
    alike = near_across_folds([thumbnail(Image.fromarray(image)) for image in pool.images], digests, pool.ids, folds)
    describe |= {"near_copies": alike.pairs, "notes": [*describe["notes"], *alike.notes]}
    if twice and drawn:
        describe["notes"].append(f"{count(twice, 'image')} equal to another, which stay in one fold with it")
    if apart is None:  # so that nobody tests the folds' models on what they have learned from
        describe["all"] = split_hash({"all": [id_ for split in data.splits.values() for id_ in split.ids]})
    return replace(images, test=pool, describe=describe, folds=folds, apart=apart)


def _read(split: Split, config, progress: Progress) -> Part:
    if config.limit and config.limit < len(split):
        split = split.take(spread_over_classes(strata_of(split.labels), config.limit, config.split_seed))
    progress.start(f"reading {split.name}", len(split))
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
