"""Which images are tested: so many of each class, chosen by a hash of their names. torch is not imported."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssmlab.core.errors import DataError, UserError
from ssmlab.data import ImageData
from ssmlab.data.images.reader import Split
from ssmlab.tasks.classify.data import strata_of

PARTS = ("test", "val", "train", "all")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images of one or several parts, in the order of the parts.

    Args:
        labels: (n,), positions in `classes`; of several labels an image 0 and 1 for each, (n, classes). ids: unique
            names.
        classes: names in the order of the labels.
        scarce: how many classes have fewer images than were requested.
    """

    splits: tuple[Split, ...]
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    scarce: int

    @property
    def keys(self) -> np.ndarray:
        """The number of every image for the generator, (n,) int64: of its name, so that its company does not matter."""
        return np.array([_hash(id_) >> 1 for id_ in self.ids], np.int64)

    @property
    def digest(self) -> str:
        """Changes with the images, their labels and their order."""
        if self.labels.ndim == 2:
            named = ["|".join(np.array(self.classes)[row > 0]) for row in self.labels]
        else:
            named = [self.classes[label] for label in self.labels]
        lines = [f"{id_}\t{names}" for id_, names in zip(self.ids, named, strict=True)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(
        self, size: int, crop: float, progress: Callable[[int, int], None] | None = None, fit: str = "crop"
    ) -> np.ndarray:
        """uint8 (n, size, size, 3): a square of size / crop, made as `fit_square` says, and the middle of it.

        Raises:
            DataError: pictures that cannot be read, or not enough memory.
        """
        whole = max(size, round(size / crop))
        start = (whole - size) // 2
        middle = slice(start, start + size)
        done, found = 0, []
        for split in self.splits:
            report = (lambda n, _, before=done: progress(before + n, len(self.ids))) if progress else None
            found.append(split.array(whole, report, fit)[:, middle, middle])
            done += len(split)
        return np.concatenate(found)


def draw_sample(data: ImageData, part: str, per_class: int, seed: int) -> Sample:
    """`per_class` images of every class, 0 for all: those with the smallest hashes of seed and name; of several labels
    an image the rarest one is its class.

    Args:
        part: "test", "val", "train" or "all".
    Raises:
        UserError: there is no such part. DataError: it is empty.
    """
    if part not in PARTS:
        raise UserError(f"--part must be {', '.join(PARTS)}, got {part!r}")
    splits = [data.splits[name] for name in (data.splits if part == "all" else [part])]
    labels = np.concatenate([split.labels for split in splits])
    ids = [id_ for split in splits for id_ in split.ids]
    if not ids:
        raise DataError(f"{data.path}: the {part} part has no images; give another --part")
    strata = strata_of(labels)
    _, counts = np.unique(strata, return_counts=True)
    taken = np.arange(len(ids))
    if per_class:
        left, found = dict.fromkeys(np.unique(strata).tolist(), per_class), []
        for i in sorted(range(len(ids)), key=lambda i: _hash(f"{seed}\t{ids[i]}")):
            label = int(strata[i])
            if left[label]:
                left[label] -= 1
                found.append(i)
        taken = np.sort(found)
    offsets = np.cumsum([0, *(len(split) for split in splits)])
    chosen = [
        split.take(taken[(taken >= low) & (taken < high)] - low)
        for split, low, high in zip(splits, offsets, offsets[1:], strict=False)
    ]
    return Sample(
        splits=tuple(split for split in chosen if len(split)),
        labels=labels[taken],
        ids=tuple(ids[i] for i in taken),
        classes=tuple(data.classes),
        scarce=int((counts < per_class).sum()),
    )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
