"""`open_images`: a folder, an archive or the embedded digits as three labelled parts, whatever its format."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.contents import JOINT, PARTS, Contents, count, some
from ssmlab.data.images.decode import Progress, UnreadableImage, fit_square, for_each_image
from ssmlab.data.images.formats import read_contents
from ssmlab.data.images.medmnist import machine_memory
from ssmlab.data.splits import TEST_FRACTION, about_split, held_out, split_hash

DIVIDED = ("class_folders", "zip_folders", "label_table", "imagenet")  # of these a missing test is taken from train
MANY = 20  # more problems of one kind become one line


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set. Pictures are decoded when they are read; safe to use from several threads.

    Attributes:
        name: "train", "val" or "test".
        labels: int64 (n,), positions in `ImageData.classes`; of images with several labels 0 or 1, (n, classes).
        ids: stable names, unique in the data set: the path below the data's root, the image name, or
            "train/7".
        groups: the group of every image, or None where no group column was named and no header says it.
        folds: the fold of every image, or None where the data name none.
    """

    name: str
    labels: np.ndarray
    ids: list[str]
    groups: list[str] | None
    folds: list[str] | None
    _keys: list = field(repr=False)
    _load: Callable[[Any], Image.Image] = field(repr=False)
    _all: list["Split"] = field(repr=False)  # the parts of the data set, this one too

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions) -> "Split":
        """The split with the images at these positions only."""
        return replace(
            self,
            labels=self.labels[positions],
            ids=[self.ids[i] for i in positions],
            groups=None if self.groups is None else [self.groups[i] for i in positions],
            folds=None if self.folds is None else [self.folds[i] for i in positions],
            _keys=[self._keys[i] for i in positions],
        )

    def joined(self, other: "Split") -> "Split":
        """The images of two parts of one data set."""
        pairs = ((self.groups, other.groups), (self.folds, other.folds))
        groups, folds = (None if one is None or more is None else one + more for one, more in pairs)
        return replace(
            self,
            labels=np.concatenate([self.labels, other.labels]),
            ids=self.ids + other.ids,
            groups=groups,
            folds=folds,
            _keys=self._keys + other._keys,
        )

    def image(self, i: int) -> Image.Image:
        """Picture i as 8-bit RGB in its own size, by the rule of ssmlab.data.images.decode. Raises DataError."""
        try:
            return self._load(self._keys[i])
        except UnreadableImage as error:
            raise DataError("an image cannot be read", [unreadable(self.ids[i], str(error))]) from error

    def array(self, image_size: int, progress: Progress | None = None, fit: str = "crop") -> np.ndarray:
        """All pictures as uint8 (n, image_size, image_size, 3), made square as `fit_square` says.

        Args:
            progress: called as progress(done, total).
        Raises:
            DataError: pictures that cannot be read, those of the other parts too, so that the list is
                complete; or they need more memory than there is.
        """
        shape = (len(self), image_size, image_size, 3)
        memory = machine_memory()
        if memory is not None and prod(shape) > memory:
            raise DataError(
                f"{count(shape[0], 'image')} of {shape[1]} x {shape[2]} need {prod(shape) >> 20:,} MiB of memory, this "
                f"machine has {memory >> 20:,}; take fewer (data.limit) or smaller ones (data.image_size)"
            )
        out = np.empty(shape, np.uint8)

        def visit(i, image):
            out[i] = np.asarray(fit_square(image, image_size, fit))

        failures = for_each_image(self._load, self._keys, visit, progress)
        if failures:
            problems = [problem for split in self._all for problem in find_unreadable(split)]
            raise DataError(f"{count(len(problems), 'image')} cannot be read", problems)
        return out


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A labelled image data set in three parts.

    Attributes:
        format: digits | mhist | label_table | class_folders | zip_folders | medmnist | cifar10 | cifar100 | imagenet.
        path: as it was given.
        classes: names in the order of the labels.
        split_hash: SHA-256 over the sorted lines "id<tab>part".
        several: whether an image may have several labels.
        notes: how the parts were made and what was left out, for the reader of a report.
        warnings: what was left out and should not have been there, such as pictures in formats that are not read.
        problems: empty unless opened with strict=False.
    """

    name: str
    format: str
    path: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    split_hash: str
    notes: list[str]
    warnings: list[str]
    problems: list[str]
    several: bool = False

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "val": self.val, "test": self.test}


def open_images(
    path: str | Path = "digits",
    *,
    group: str | None = None,
    labels: str = "fine",
    val_fraction: float = 0.1,
    seed: int = 0,
    divide: bool = True,
    window: tuple[float, float] | None = None,
    slices: int = 0,
    skip_unreadable: bool = False,
    strict: bool = True,
) -> ImageData:
    """Open a labelled image data set; the format is found from the content, not from the name.

    The parts are those published. Without a validation part, `val_fraction` of train becomes one: stratified,
    whole groups, chosen by the hash of seed and id (ssmlab.data.splits). Without a test part, 20 % of every
    class of train, or of all, are first set apart for it in the same way with seed 0, so that the test part depends
    neither on `seed` nor on `val_fraction`.

    Args:
        path: "digits" (the embedded default; a folder of that name is "./digits"), or class folders, a zip of
            them, images next to a table of their labels (MHIST's annotations.csv too), a MedMNIST .npz, CIFAR-10 or
            CIFAR-100 as published, ImageNet's folders, or a folder with one such archive and other files.
        group: a column whose images stay on one side, such as the patient's: of the table of labels, else of a
            `groups.csv` or `metadata.csv` with a column `file` next to the data. Every image needs a value.
        labels: of CIFAR-100, "fine" (100 classes) or "coarse" (20); of a table of labels, the column of the classes,
            where its name and content do not say it; "folders" where class folders count and a table does not.
        val_fraction: in (0, 1); without effect where the data have a validation part.
        divide: False takes no part from data that lack one, as a cross-validation of all images needs it.
        window: centre and width of the values that become 0..255, of DICOM, NIfTI and grey pictures of 16 bits; None:
            what a DICOM file says, the middle 99 % of a volume, the high byte of 16.
        slices: of every volume so many at equal distances are images of one group, of NIfTI files and of DICOM series;
            0: of NIfTI the middle one, and every DICOM file is an image.
        skip_unreadable: leave pictures out that cannot be decoded, with a note; the parts are then those of the rest.
        strict: False leaves what is wrong in `.problems`, as far as the data can be opened at all.
    Raises:
        DataError: with every problem, by file name and with the fix. Where the structure is wrong, all images
            are decoded too, so that the list is complete; where it is right, `check_images` and `Split.array`
            find those that cannot be read.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    contents = read_contents(str(path), group, labels, window, slices)
    if skip_unreadable:
        _skip_unreadable(contents)
    _check(contents)
    splits = _divide(contents, val_fraction, seed, divide)
    told = ("name", "format", "classes", "notes", "warnings", "problems", "several")
    about: dict[str, Any] = {name: getattr(contents, name) for name in told} | splits
    hashed = split_hash({part: split.ids for part, split in splits.items()})
    data = ImageData(path=str(path), split_hash=hashed, **about)
    if strict and data.problems:
        problems = data.problems + [p for split in splits.values() for p in find_unreadable(split)]
        raise DataError(f"{path}: {count(len(problems), 'problem')} in the data", problems)
    return data


def _skip_unreadable(contents: Contents) -> None:
    """Decode every picture, and leave out those that cannot be."""
    failures = dict(for_each_image(contents.load, [item.key for item in contents.items], lambda i, image: None))
    if failures:
        lost = [f"{contents.items[i].id} ({reason})" for i, reason in failures.items()]
        contents.warnings.append(
            f"left out, since data.skip_unreadable: {count(len(lost), 'image')} that cannot be read: {'; '.join(lost)}"
        )
        contents.items = [item for i, item in enumerate(contents.items) if i not in failures]


def find_unreadable(split: Split) -> list[str]:
    """Decode every image; a problem for each that fails."""
    failures = for_each_image(split._load, split._keys, lambda i, image: None)
    return [unreadable(split.ids[i], reason) for i, reason in failures]


def unreadable(name: str, reason: str) -> str:
    """The problem that a picture cannot be decoded, as a line of a `DataError`."""
    return f"{name}: cannot be read ({reason}); replace the file, or take it out of the data"


def _check(contents):
    """Report what is wrong across parts: empty parts, classes that cannot be learnt, groups on two sides."""
    sizes = Counter(item.part for item in contents.items)
    counts = {
        part: Counter(
            label
            for item in contents.items
            if item.part == part
            for label in (item.labels if contents.several else (item.label,))
        )
        for part in PARTS
    }
    published = any(sizes[part] for part in PARTS)
    if contents.incomplete or (contents.problems and not contents.items):
        return  # that is why
    for part in ("train", "test"):
        taken = part == "test" and contents.format in DIVIDED
        if not sizes[part] and not taken and (published or not contents.items):
            contents.problems.append(f"{part}: the part is empty or missing; add images")
    if len(contents.classes) == 1 and not contents.several:
        contents.problems.append(f"only one class, {contents.classes[0]!r}; give two, a folder of images for each")
    if not published:
        return
    empty = [name for name in contents.classes if not any(part[name] for part in counts.values())]
    if len(empty) > MANY:
        contents.problems.append(
            f"{len(empty):,} classes have no images anywhere ({some(empty)}); mend the label that is out of range, or "
            "remove them"
        )
    for name in contents.classes:
        if len(empty) > MANY and name in empty:
            continue
        elsewhere = {part: counts[part][name] for part in ("val", "test") if counts[part][name]}
        if counts["train"] and not counts["train"][name]:
            seen = " and ".join(f"{n:,} in {part}" for part, n in elsewhere.items()) or "none anywhere"
            contents.problems.append(f"class {name!r}: no images in train ({seen}); add some, or remove the class")
        elif counts["test"] and not counts["test"][name]:
            contents.notes.append(f"class {name!r} has no test images: nothing can be measured for it")
    members: dict[str, dict[str, list[str]]] = {}
    for item in contents.items:
        if item.group is not None:
            members.setdefault(item.group, {}).setdefault(item.part, []).append(item.id)
    for name, parts in members.items():
        if len(parts) > 1:
            where = ", ".join(f"{part} ({some(ids)})" for part, ids in parts.items())
            contents.problems.append(f"group {name!r} is in {where}; move its images to one part, or name no group")


def strata(labels: Sequence[str]) -> list[str]:
    """By which images with several labels are divided alike: the rarest label of each, "" where it has none."""
    counts = Counter(one for label in labels for one in label.split(JOINT))
    return [min(label.split(JOINT), key=lambda one: (counts[one], one)) for label in labels]


def _divide(contents, val_fraction, seed, divide) -> dict[str, Split]:
    """The three parts: as published, or taken from what is there; says in the notes which."""
    parts = {part: [item for item in contents.items if item.part == part] for part in PARTS}
    free = [item for item in contents.items if item.part is None]
    if not divide:
        parts["train"] += free
    elif free:
        parts["train"], parts["test"] = _take(contents, free, TEST_FRACTION, 0, "test", "all")
    elif parts["train"] and not parts["test"] and contents.format in DIVIDED and not contents.incomplete:
        parts["train"], parts["test"] = _take(contents, parts["train"], TEST_FRACTION, 0, "test", "train")
        if parts["val"]:
            contents.notes.append("if val is meant to be the test, rename it: validation is then taken from train")
    if divide and parts["train"] and not parts["val"]:
        parts["train"], parts["val"] = _take(contents, parts["train"], val_fraction, seed, "val", "train")
    number = {name: i for i, name in enumerate(contents.classes)}
    grouped = any(item.group for item in contents.items) and not contents.folds
    folded = any(item.fold for item in contents.items)
    together: list[Split] = []
    for part, items in parts.items():
        if contents.several:
            labels = np.zeros((len(items), len(number)), np.int64)
            for row, item in zip(labels, items, strict=True):
                row[[number[label] for label in item.labels]] = 1
        else:
            labels = np.array([number[item.label] for item in items], np.int64)
        split = Split(
            name=part,
            labels=labels,
            ids=[item.id for item in items],
            groups=[item.group or "" for item in items] if grouped else None,
            folds=[item.fold or "" for item in items] if folded else None,
            _keys=[item.key for item in items],
            _load=contents.load,
            _all=together,
        )
        together.append(split)
    return {split.name: split for split in together}


def _take(contents, items, fraction, seed, part, of):
    groups = [item.group or item.id for item in items] if any(item.group for item in items) else None
    ids, labels = [item.id for item in items], [item.label for item in items]
    labels = strata(labels) if contents.several else labels
    chosen = held_out(ids, labels, groups, fraction=fraction, seed=seed, part=part)
    if not chosen and contents.folds:  # one fold is left
        groups, chosen = None, held_out(ids, labels, fraction=fraction, seed=seed, part=part)
    if not chosen and not contents.incomplete:
        contents.problems.append(
            f"{part}: no images can be spared for it; every class needs two images" + " in two groups" * bool(groups)
        )
    whole = ("fold" if contents.folds else "group") if groups else ""
    how = f"stratified, seed {seed}"
    contents.notes.append(
        about_split(part, of, len(chosen), len(items), "images", fraction=fraction, whole=whole, how=how)
    )
    lacking = sorted(set(labels) - {labels[i] for i in chosen})
    if chosen and lacking:
        contents.notes.append(f"{part} has no images of {some(lacking)}")
    rest = [item for i, item in enumerate(items) if i not in chosen]
    return rest, [item for i, item in enumerate(items) if i in chosen]
