"""Images that are read while a model is trained: what of them is in memory, and what is said about them."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.progress import Progress
from ssmlab.data import ImageData
from ssmlab.data.splits import split_hash
from ssmlab.data.stream.labelled import Census, Chosen, count_labels, open_shards, preparing
from ssmlab.data.stream.pictures import FolderShards, Pictures
from ssmlab.data.stream.shuffle import Source, Stream
from ssmlab.tasks.classify.images import PARTS, Images, ImageStream, Part, channel_statistics
from ssmlab.tasks.classify.recipe import Recipe

MOST_HELD, HELD_BYTES = 5000, 128 << 20  # images of a part in memory, of val, of test, and of train for its statistics


def stream_shards(recipe: Recipe, progress: Progress) -> Images:
    """Open the shards of a recipe: the labels are read once, the images that are held out too.

    Raises:
        DataError: there is no training part, or images cannot be read or have no class.
        UserError: a library is not installed that the format needs.
    """
    config = recipe.data
    progress.say(f"reading the labels of {config.path}")
    parts = open_shards(config.path)
    census = count_labels(parts, _most(config), config.val_fraction, config.split_seed)
    sources: dict[str, Source] = {
        part: Chosen(parts.get(part, parts["train"]), census, part, published=part in parts and part != "train")
        for part in PARTS
    }
    how = [
        f"{part}: {len(parts[part])} shards of its own" if part in parts else f"{part} is taken from train, by hash"
        for part in ("val", "test")
    ]
    return _images(recipe, sources, census, list(parts.values()), "shards", how, progress)


def stream_folders(recipe: Recipe, data: ImageData, progress: Progress) -> Images:
    """The images of folders or an archive that are opened already."""
    counts = tuple(np.bincount(data.train.labels, minlength=len(data.classes)).tolist())
    census = Census(classes=tuple(data.classes), counts=counts, held={}, by_number=True)
    shards = {part: FolderShards(split, data.classes) for part, split in data.splits.items()}
    sources: dict[str, Source] = {part: Chosen(shards[part], census, part, published=True) for part in PARTS}
    images = _images(recipe, sources, census, list(shards.values()), data.format, data.notes, progress)
    images.describe["split_hash"] = data.split_hash
    return images


def _most(config) -> int:
    most = min(MOST_HELD, max(64, HELD_BYTES // (config.image_size**2 * 3)))
    return min(most, config.limit or most)


def _images(
    recipe: Recipe,
    sources: dict[str, Source],
    census: Census,
    shards: list[Pictures],
    form: str,
    how: list[str],
    progress: Progress,
) -> Images:
    config, most = recipe.data, _most(recipe.data)
    prepare = preparing(config.image_size, config.fit)
    open_stream = partial(Stream, sources["train"], buffer=config.buffer, prepare=prepare, workers=config.workers)
    parts, whole = {}, {}
    for name in ("val", "test"):
        parts[name], whole[name] = _held(sources[name], prepare, most, name, config.path, progress)
    counts = np.array(census.counts)
    for name in census.held:  # they are of the training shards
        counts -= np.bincount(parts[name].labels, minlength=len(counts))
    items = int(counts.sum())
    if not items:
        raise DataError(f"{config.path}: no images are left for training; give more")
    parts["train"] = _part(
        Stream(sources["train"], buffer=1, prepare=prepare, workers=config.workers).take(min(most, items))
    )
    epoch = min(items, config.limit or items)
    mean, std = channel_statistics(parts["train"].images)
    held = sum(part.images.nbytes for part in parts.values()) / 2**20
    told = (
        f"read in a stream: {items:,} images of {len(shards[0]):,} shards, {epoch:,} an epoch; {config.buffer:,} "
        f"encoded ones are shuffled in memory, and {held:,.0f} MiB are held there (mean and standard deviation are of "
        f"{len(parts['train'].labels):,})"
    )
    for name, count in whole.items():
        if count > len(parts[name].labels):
            how = [*how, f"{len(parts[name].labels):,} images of {name} are used, from all over it"]
    ids: dict[str, Sequence[str]] = {name: part.ids for name, part in parts.items() if name != "train"}
    names = [f"{shard} {n}" for source in shards for n, shard in enumerate(source.names)]
    describe = {
        "format": form,
        "path": config.path,
        "counts": {name: len(part.labels) for name, part in parts.items()} | {"train": epoch},
        "classes": list(census.classes),
        "split_hash": split_hash(ids | {"train": [*names, *map(str, census.counts)]}),
        "image_size": config.image_size,
        "fit": config.fit,
        "copies": {},
        "notes": [told, *how, "copies across parts are not looked for in a stream"],
    }
    stream = ImageStream(open_stream, epoch, tuple(counts.tolist()))
    train, val, test = (parts[name] for name in PARTS)
    return Images(
        train=train, val=val, test=test, classes=census.classes, mean=mean, std=std, describe=describe, stream=stream
    )


def _held(source: Source, prepare, most: int, name: str, path: str, progress: Progress) -> tuple[Part, int]:
    """The images of a part, at most `most` of them at equal distances, and how many it has."""
    kept, count, step = [], 0, 1
    progress.start(f"reading {name}", len(source))
    try:
        for shard in range(len(source)):
            for picture in source.read(shard):
                if count % step == 0:
                    kept.append(picture)
                    if len(kept) == 2 * most:
                        kept, step = kept[::2], step * 2
                count += 1
            progress.update(shard + 1)
    finally:
        progress.stop()
    if not kept:
        raise DataError(f"{path}: {name} has no images; give more")
    chosen = np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int)
    return _part([prepare(kept[i]) for i in chosen]), count


def _part(found: list[tuple[np.ndarray, int, str]]) -> Part:
    images, labels, ids = zip(*found, strict=True)
    return Part(np.stack(images), np.array(labels, np.int64), list(ids))
