"""Pictures that look nearly alike in different parts: made smaller, saved again, brighter. A note, never a verdict."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

SIDES = (12, 12)  # of a thumbnail, in pixels
ALIKE = 0.995  # correlation of two thumbnails
FLAT = 3.0  # a spread of grey values below which a thumbnail shows nothing
MOST = 1 << 30  # pairs of images, beyond which none is compared
CELLS = 1 << 24  # of them at a time
ORDER = ("train", "val", "test")


def thumbnail(image: Image.Image) -> bytes:
    """A small grey copy of a picture, by which near copies are found."""
    return image.resize(SIDES, Image.Resampling.BOX, reducing_gap=3.0).convert("L").tobytes()


def near_copies(seen: Sequence[Any]) -> list[str]:
    """Notes about images of val and test that look nearly like one of an earlier part; equal ones are not counted.

    Args:
        seen: of every image, an object with `part`, `id`, `digest`, which is equal where images are, and `thumb`.
    """
    if not seen:
        return []
    parts = [one.part for one in seen]
    values = np.frombuffer(b"".join(one.thumb for one in seen), np.uint8).reshape(len(seen), -1).astype(np.float32)
    spread = values.std(1, keepdims=True)
    values = (values - values.mean(1, keepdims=True)) / np.maximum(spread, FLAT) / np.sqrt(values.shape[1])
    places = {part: np.flatnonzero((np.array(parts) == part) & (spread[:, 0] >= FLAT)) for part in ORDER}
    notes = []
    for part in ORDER[1:]:
        earlier = np.concatenate([places[name] for name in ORDER[: ORDER.index(part)]])
        if not len(earlier) or not len(places[part]) or len(earlier) * len(places[part]) > MOST:
            continue
        known = {seen[i].digest for i in earlier}
        own = [i for i in places[part] if seen[i].digest not in known]
        pairs = []
        few = max(1, CELLS // len(earlier))
        for first in range(0, len(own), few):
            some = own[first : first + few]
            likeness = values[some] @ values[earlier].T
            best = likeness.argmax(1)
            pairs += [(i, earlier[j]) for i, j, row in zip(some, best, likeness, strict=True) if row[j] > ALIKE]
        if pairs:
            i, j = pairs[0]
            where = " or ".join(ORDER[: ORDER.index(part)])
            notes.append(
                f"{len(pairs):,} of {parts.count(part):,} {part} images look nearly like one in {where} "
                f"({part}: {seen[i].id} and {parts[j]}: {seen[j].id}); look whether they are copies"
            )
    return notes
