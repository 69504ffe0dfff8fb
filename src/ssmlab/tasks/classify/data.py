"""The images of a run in memory: read and checked with numpy alone, before torch is imported."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.text import did_you_mean
from ssmlab.data import ImageData, check_images, open_images
from ssmlab.data.contents import count
from ssmlab.data.copies import digest, kept_together
from ssmlab.data.folds import Division, Fold, about_division
from ssmlab.data.images.reader import Split
from ssmlab.data.splits import split_hash
from ssmlab.tasks.classify.recipe import Recipe

PARTS = ("train", "val", "test")


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
        folds: by repeat. apart: with folds, the published test part, which is in none of them.
    """

    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    describe: dict
    several: bool = False
    folds: tuple[tuple[Fold, ...], ...] = ()
    apart: Part | None = None

    def of_fold(self, fold: Fold) -> "Images":
        """The parts of one fold; test is what it holds out."""
        parts = {
            "train": self.train.take(fold.train),
            "val": self.train.take(fold.val),
            "test": self.train.take(fold.held_out),
        }
        mean, std = channel_statistics(parts["train"].images)
        describe = self.describe | {"counts": {name: len(part.labels) for name, part in parts.items()}}
        return replace(self, **parts, mean=mean, std=std, describe=describe)  # type: ignore[arg-type]

    def part(self, name: str) -> Part:
        """What models that a run has finished may be tested on.

        Raises:
            UserError: a cross-validation has learned from it.
        """
        if not self.folds:
            return getattr(self, name)
        if name != "test" or self.apart is None:
            raise UserError(
                f"the folds have learned from every image of the {name} part, so that it measures nothing; the run's "
                "records hold what was predicted out of the folds, or give other data"
            )
        return self.apart


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
    config, progress = recipe.data, progress or Progress()
    folded = getattr(recipe, "folded", False)
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
    positive = recipe.evaluation.positive
    if positive and positive not in data.classes:
        raise RecipeError(f"evaluation.positive={positive!r} is no class of the data: {', '.join(data.classes)}")
    if positive and len(data.classes) != 2:
        raise RecipeError(f"evaluation.positive is for two classes, the data have {len(data.classes)}; leave it out")
    _check_training(recipe, data.classes, data.several)
    progress.start("checking images", sum(len(getattr(data, name)) for name in PARTS))
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
    if twice and drawn:
        describe["notes"].append(f"{count(twice, 'image')} equal to another, which stay in one fold with it")
    if apart is None:  # so that nobody tests the folds' models on what they have learned from
        describe["all"] = split_hash({"all": [id_ for split in data.splits.values() for id_ in split.ids]})
    return replace(images, test=pool, describe=describe, folds=folds, apart=apart)


def _check_training(recipe: Recipe, classes: tuple[str, ...], several: bool) -> None:
    """That what the recipe says about classes fits the data.

    Raises:
        RecipeError: it names a class that there is not, or mixes images with several labels.
    """
    for config in [recipe.training, *(recipe.training_of(model) for model in recipe.models)]:
        for name in config.class_weights if isinstance(config.class_weights, dict) else ():
            if name not in classes:
                hint = did_you_mean(name, classes) or f": {', '.join(classes[:8])}"
                raise RecipeError(f"training.class_weights names {name!r}, which is no class of the data{hint}")
        if several and (config.mixup or config.cutmix):
            raise RecipeError("training.mixup and cutmix mix one label an image, these have several; leave them out")


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
