"""What a reader hands over: labelled items with their published parts, and everything that is wrong."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from PIL import Image

PARTS = ("train", "val", "test")
JOINT = "|"  # between the labels of one image, as ChestX-ray14's tables have it


@dataclass(frozen=True, slots=True)
class Item:
    """One image: a stable id, its class, the part it was published in (None: unknown), what `load` needs.

    label: of an image with several labels all of them, joined by `JOINT`; "" where it has none.
    fold: of a cross-validation, as published.
    """

    id: str
    label: str
    part: str | None
    key: object
    group: str | None = None
    fold: str | None = None

    @property
    def labels(self) -> list[str]:
        """The labels, of an image that may have several."""
        return self.label.split(JOINT) if self.label else []


@dataclass(kw_only=True)
class Contents:
    """A data set as it was found.

    Attributes:
        format: digits | mhist | label_table | class_folders | zip_folders | medmnist | cifar10 | cifar100 | imagenet.
        classes: in the order of the label numbers, those without images included.
        load: key of an item -> RGB picture; raises UnreadableImage.
        problems: what must be mended, each naming its file and the fix. notes: what the user should know.
        warnings: of these what may be a mistake. folds: names of the folds that are the items' groups.
        incomplete: items are missing for a reason that a problem gives, so that counts say nothing.
        several: an image may have several labels, or none.
    """

    name: str
    format: str
    classes: tuple[str, ...]
    items: list[Item]
    load: Callable[[Any], Image.Image]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    folds: tuple[str, ...] = ()
    incomplete: bool = False
    several: bool = False


@dataclass(frozen=True)
class Format:
    """A published data set, known from its files; `images/formats.py` has the list.

    read: `read(files, group, labels)`, the contents; None where the files are no such data set.
    accepted: what messages call it. tar: whether it is read from a .tar.gz too.
    """

    read: Callable[[Any, str | None, str], Contents | None]
    accepted: str = ""
    tar: bool = False


def alike(classes: Iterable[str]) -> list[str]:
    """A warning for each group of classes whose names differ only in case, blanks, "-" and "_"."""
    same: dict[str, list[str]] = {}
    for name in classes:
        same.setdefault(re.sub(r"[\s_-]+", " ", name.casefold()).strip(), []).append(name)
    return [
        f"classes {' and '.join(map(repr, names))} differ only in how they are written; if they are one, rename one"
        for names in same.values()
        if len(names) > 1
    ]


def did_you_mean(word: str, known) -> str:
    """'; did you mean x?' or nothing."""
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def count(n: int, noun: str) -> str:
    """ "1 image", "1,797 images"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def some(names, most: int = 3) -> str:
    """The first few of many names."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
