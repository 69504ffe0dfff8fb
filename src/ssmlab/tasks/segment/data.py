"""The images and masks of a run: read and checked with numpy alone, before torch is imported."""

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.data.copies import digest, kept_together
from ssmlab.data.folds import Division, Fold, about_division, described_groups
from ssmlab.data.masks.reader import MaskData, MaskSplit, open_masks
from ssmlab.data.near import near_across_folds, thumbnail
from ssmlab.tasks.segment.recipe import SegmentationData, SegmentationRecipe
from ssmlab.tasks.shared.folds import fold_parts

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Masks:
    """All parts of a run's data.

    With a cross-validation train and test are all images of its folds and val is empty; `of_fold` has the parts of one.

    Args:
        mean, std: per channel over the training part, of 8-bit values scaled to 0..1; empty where every image is
            normalised by itself.
        found: what the reader says about all of it.
        source: the same for what models are pretrained on, or None.
        describe: what run.json says about the data.
        folds: by repeat. apart: with folds, the published test part, which is in none of them.
    """

    train: MaskSplit
    val: MaskSplit
    test: MaskSplit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    found: MaskData
    source: "Masks | None"
    describe: dict
    folds: tuple[tuple[Fold, ...], ...] = ()
    apart: MaskSplit | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.found.classes

    @property
    def names(self) -> list[str]:
        """What splits_final.json calls the images: of nnU-Net's layout its cases, else their ids."""
        return [case_name(id_) if self.found.format == "nnunet" else id_ for id_ in self.train.ids]

    def of_fold(self, fold: Fold) -> "Masks":
        """The parts of one fold; test is what it holds out."""
        parts = fold_parts(self.train, fold)
        mean, std = statistics(parts["train"]) if self.mean else ((), ())
        describe = self.describe | {"counts": {name: len(split) for name, split in parts.items()}}
        return replace(self, **parts, mean=mean, std=std, describe=describe)  # type: ignore[arg-type]


def load_masks(recipe: SegmentationRecipe, progress: Progress | None = None) -> Masks:
    """Read and check every image and mask of a recipe, those of the source too.

    Raises:
        DataError: with all problems by file name.
        RecipeError: a model starts pretrained and the recipe has no source.
    """
    progress = progress or Progress()
    if recipe.pretrains and not recipe.source.path:
        raise RecipeError('models with start = "pretrained" need images to start on; add source.path=...')
    wanted = {"data": recipe.data} | ({"source": recipe.source} if recipe.pretrains else {})
    read, messages, problems = {}, [], []
    for name, config in wanted.items():  # both, so that everything is reported at once
        try:
            read[name] = _open(config, progress, divide=not (recipe.folded and name == "data"))
        except DataError as error:
            messages.append(str(error).split("\n", 1)[0])
            problems += error.problems
    if messages:
        raise DataError("; ".join(messages), problems)
    source = _masks(recipe.source, read["source"], None) if "source" in read else None
    masks = _masks(recipe.data, read["data"], source)
    if recipe.folded:
        masks = _folded(recipe, masks)
    if source and (source.found.channels, source.found.dimensions) != (masks.found.channels, masks.found.dimensions):
        raise DataError(
            f"source.path has images of {source.found.channels} channels and {source.found.dimensions} dimensions, "
            f"data.path of {masks.found.channels} and {masks.found.dimensions}; both must agree"
        )
    return masks


def _folded(recipe: SegmentationRecipe, masks: Masks) -> Masks:
    """The same images divided into folds; a published test part stays apart."""
    pool, config = masks.train.joined(masks.val), recipe.data
    groups = pool.groups
    thumbs, digests = [], []
    for i in range(len(pool)):
        image = pool.sample(i).image
        thumbs.append(thumbnail(picture_of(image)))
        digests.append(digest(image))
    drawn = not (recipe.splits or pool.folds)  # folds that others have made stay as they are
    whole = kept_together(pool.ids, groups, digests) if drawn else groups
    division = Division(
        folds=recipe.folds, repeats=recipe.repeats, splits=recipe.splits, val_fraction=config.val_fraction,
        seed=config.split_seed,
    )  # fmt: skip
    forms = (case_name, lambda id_: PurePosixPath(id_).name)
    folds = division.divide(pool.ids, [0] * len(pool), whole, pool.folds, forms)
    apart = masks.test if len(masks.test) else None
    describe = masks.describe | about_division(masks.describe, folds, pool.ids, groups, apart.ids if apart else [])
    alike = near_across_folds(thumbs, digests, pool.ids, folds)
    describe |= {"near_copies": alike.pairs, "notes": [*describe["notes"], *alike.notes]}
    return replace(masks, train=pool, val=pool.take([]), test=pool, describe=describe, folds=folds, apart=apart)


def picture_of(image: np.ndarray) -> Image.Image:
    """An image (c, *spatial) as a grey picture, from the least to the largest value; of a volume the middle slice."""
    plane = image.astype(np.float32).mean(0)
    plane = plane[len(plane) // 2] if plane.ndim == 3 else plane
    low, high = float(plane.min()), float(plane.max())
    return Image.fromarray(((plane - low) * (255 / (high - low or 1))).astype(np.uint8))


def case_name(id_: str) -> str:
    """What nnU-Net calls an image: its file's name without channel and suffix."""
    stem = PurePosixPath(id_).name.partition(".")[0]
    return re.sub(r"_\d{4}$", "", stem)


def _open(config: SegmentationData, progress: Progress, divide: bool) -> MaskData:
    def show(done: int, total: int) -> None:
        if not started:
            progress.start(f"checking {config.path}", total)
            started.append(total)
        progress.update(done)

    started: list[int] = []
    try:
        return open_masks(
            config.path,
            images=config.images,
            masks=config.masks,
            views=config.views,
            classes=tuple(config.classes),
            colours=config.colours,
            values=config.values,
            ignore=config.ignore,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=config.split_seed,
            group=config.group,
            divide=divide,
            skip_unreadable=config.skip_unreadable,
            progress=show,
        )
    finally:
        progress.stop()


def _masks(config: SegmentationData, found: MaskData, source: Masks | None) -> Masks:
    parts = {name: getattr(found, name) for name in PARTS}
    if config.limit:
        parts = {name: split.take(range(min(len(split), config.limit))) for name, split in parts.items()}
    first = parts["train"].sample(0).image
    by_set = config.normalise == "set" or (config.normalise == "auto" and first.dtype == np.uint8 and first.ndim == 3)
    mean, std = statistics(parts["train"]) if by_set else ((), ())
    describe: dict[str, Any] = {
        "format": found.format,
        "path": config.path,
        "counts": {name: len(split) for name, split in parts.items()},
        "classes": list(found.classes),
        "shares": {name: round(share, 4) for name, share in zip(found.classes, found.shares, strict=True)},
        "split_hash": found.split_hash,
        "copies": found.copies,
        "image_size": " x ".join(f"{low}" if low == high else f"{low} to {high}" for low, _, high in found.sizes[::-1]),
        **described_groups(config.group, parts),
        "notes": [
            *found.notes,
            *([f"at most {config.limit} images of each part are used"] if config.limit else []),
        ],
    }
    if source:
        counts = source.describe["counts"]
        describe["notes"].append(
            f"pretrained on {source.describe['path']}: {counts['train']} images to train, {counts['val']} to validate; "
            f"classes {', '.join(source.classes)}"
        )
    return Masks(**parts, mean=mean, std=std, found=found, source=source, describe=describe)


def statistics(split: MaskSplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel over a part; 8-bit values are scaled to 0..1."""
    sums = squares = np.zeros(0)
    count = 0
    for i in range(len(split)):
        image = split.sample(i).image
        values = image.reshape(len(image), -1).astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
        sums = sums + values.sum(1) if count else values.sum(1)
        squares = squares + (values**2).sum(1) if count else (values**2).sum(1)
        count += values.shape[1]
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A channel without any variation is left as it is.
    return tuple(float(m) for m in mean.round(6)), tuple(float(s) or 1.0 for s in std.round(6))
