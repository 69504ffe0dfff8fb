"""What is nearly alike in different parts: pictures made smaller, saved again, brighter; texts with some words changed.

A note, never a verdict.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from PIL import Image

from ssmlab.core.formats import plural
from ssmlab.data.folds import Fold

SIDES = (12, 12)  # of a thumbnail, in pixels
ALIKE = 0.995  # correlation of two thumbnails
FLAT = 3.0  # a spread of grey values below which a thumbnail shows nothing
MOST = 1 << 30  # pairs of images, beyond which none is compared
CELLS = 1 << 24  # of them at a time
ORDER = ("train", "val", "test")
WORDS = 5  # of a shingle
SKETCH = 48  # of a text's shingles, those with the smallest hashes, by which texts are found that may be alike
SHARED = 0.8  # of all shingles of two texts that are nearly alike
LEAST_WORDS = 12  # shorter texts are alike by chance
LONGEST = 50_000_000  # characters, beyond which texts are not compared


def thumbnail(image: Image.Image) -> bytes:
    """A small grey copy of a picture, by which near copies are found."""
    return image.resize(SIDES, Image.Resampling.BOX, reducing_gap=3.0).convert("L").tobytes()


class Alike(NamedTuple):
    """Ids of images in different folds that look nearly alike, by twos, and notes on them."""

    pairs: list[tuple[str, str]]
    notes: list[str]


def near_across_folds(
    thumbs: Sequence[bytes], digests: Sequence[bytes], ids: Sequence[str], folds: Sequence[Sequence[Fold]]
) -> Alike:
    """Images of a cross-validation that look nearly like one of another fold of the first division; equal ones, which
    are kept in one fold, are not counted.

    Of every image the most similar later one is listed. They stay where they are: what looks alike may differ, as the
    slices of one head do.

    Args:
        thumbs: see `thumbnail`. digests, ids: of every item that is divided.
    """
    count = len(ids)
    if count * count // 2 > MOST:
        return Alike([], [f"nearly equal images in different folds were not looked for: more than {MOST:,} pairs"])
    values, shown = _standardised(thumbs)
    fold_of = np.zeros(count, np.int64)
    for fold in folds[0]:
        fold_of[list(fold.held_out)] = fold.number
    known = np.unique(np.array(digests), return_inverse=True)[1]
    pairs = []
    few = max(1, CELLS // count)
    for first in range(0, count, few):
        some = slice(first, first + few)
        likeness = values[some] @ values.T
        other = (fold_of[some, None] == fold_of) | (known[some, None] == known) | ~shown | ~shown[some, None]
        likeness[other | (np.arange(count)[some, None] >= np.arange(count))] = -1
        best = likeness.argmax(1)
        pairs += [(ids[first + i], ids[j]) for i, j in enumerate(best.tolist()) if likeness[i, j] > ALIKE]
    if not pairs:
        return Alike([], [])
    said = "; ".join(f"{one} and {other}" for one, other in pairs[:3]) + ("; ..." if len(pairs) > 3 else "")
    return Alike(pairs, [
        f"{plural(len(pairs), 'pair')} of images in different folds look nearly alike ({said}); run.json lists them as "
        "near_copies; look whether they are copies or of one patient, whom data.group keeps in one fold"
    ])  # fmt: skip


def _standardised(thumbs: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails whose products are correlations, (n, pixels), and which of them show anything (n,)."""
    values = np.frombuffer(b"".join(thumbs), np.uint8).reshape(len(thumbs), -1).astype(np.float32)
    spread = values.std(1, keepdims=True)
    values = (values - values.mean(1, keepdims=True)) / np.maximum(spread, FLAT) / np.sqrt(values.shape[1])
    return values, spread[:, 0] >= FLAT


def near_copies(seen: Sequence[Any]) -> list[str]:
    """Notes about images of val and test that look nearly like one of an earlier part; equal ones are not counted.

    Args:
        seen: of every image, an object with `part`, `id`, `digest`, which is equal where images are, and `thumb`.
    """
    if not seen:
        return []
    parts = [one.part for one in seen]
    values, shown = _standardised([one.thumb for one in seen])
    places = {part: np.flatnonzero((np.array(parts) == part) & shown) for part in ORDER}
    notes = []
    for part in ORDER[1:]:
        earlier = np.concatenate([places[name] for name in ORDER[: ORDER.index(part)]])
        if not len(earlier) or not len(places[part]) or len(earlier) * len(places[part]) > MOST:
            continue
        known = {seen[i].digest for i in earlier.tolist()}
        own = [i for i in places[part].tolist() if seen[i].digest not in known]
        pairs = []
        few = max(1, CELLS // len(earlier))
        for first in range(0, len(own), few):
            some = own[first : first + few]
            likeness = values[some] @ values[earlier].T
            best = likeness.argmax(1)
            pairs += [(i, int(earlier[j])) for i, j, row in zip(some, best, likeness, strict=True) if row[j] > ALIKE]
        if pairs:
            i, j = pairs[0]
            where = " or ".join(ORDER[: ORDER.index(part)])
            notes.append(
                f"{len(pairs):,} of {parts.count(part):,} {part} images look nearly like one in {where} "
                f"({part}: {seen[i].id} and {parts[j]}: {seen[j].id}); look whether they are copies"
            )
    return notes


def near_texts(items: Iterable[tuple[str, str, str]], noun: str = "texts") -> list[str]:
    """Notes about texts of val and test that share most of their words, in order, with one of an earlier part.

    Shingles are five words in a row, whatever their case and what lies between them. Two texts are nearly alike where
    80 % of the shingles of both are shared (Jaccard); texts whose words are the same are counted elsewhere.

    Source: Broder 1997, "On the resemblance and containment of documents"; candidates by the smallest hashes.

    Args:
        items: (part, id, text) of everything.
        noun: what several items are.
    """
    items = list(items)
    if sum(len(text) for *_, text in items) > LONGEST:
        return [f"{noun} with a few words changed were not looked for: more than {LONGEST:,} characters"]
    shingles = [_shingles(text) for *_, text in items]
    sketches = [set(sorted(found)[:SKETCH]) for found in shingles]
    places: dict[int, list[int]] = {}
    for i, (part, *_) in enumerate(items):
        for value in sketches[i] if part != ORDER[-1] else ():
            places.setdefault(value, []).append(i)
    notes = []
    for part in ORDER[1:]:
        earlier, pairs = ORDER[: ORDER.index(part)], []
        for i, (own, *_) in enumerate(items):
            if own != part or not shingles[i]:
                continue
            shared = Counter(j for value in sketches[i] for j in places.get(value, ()) if items[j][0] in earlier)
            for j, _ in shared.most_common(3):
                both = len(shingles[i] & shingles[j])
                likeness = both / (len(shingles[i]) + len(shingles[j]) - both)
                if SHARED <= likeness < 1:
                    pairs.append((i, j))
                    break
        if pairs:
            i, j = pairs[0]
            total = sum(own == part for own, *_ in items)
            notes.append(
                f"{len(pairs):,} of {total:,} {part} {noun} differ in a few words from one in {' or '.join(earlier)} "
                f"({part}: {items[i][1]} and {items[j][0]}: {items[j][1]}); look whether they are copies"
            )
    return notes


def _shingles(text: str) -> set[int]:
    """Hashes of every five words in a row; none of a text that is too short."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) < LEAST_WORDS:
        return set()
    return {crc32(" ".join(words[i : i + WORDS]).encode()) for i in range(len(words) - WORDS + 1)}
