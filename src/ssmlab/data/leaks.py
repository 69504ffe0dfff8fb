"""How much of a validation or test part was in an earlier part: exact copies, and what differs in hardly anything."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ssmlab.data.copies import copies_across_parts, digest
from ssmlab.data.sequences.fasta import reverse_complement

ORDER = ("train", "val", "test")


class Keys(NamedTuple):
    """Digests of an item: equal for exact copies, and for near ones."""

    exact: bytes
    near: bytes


def text_keys(text: str) -> Keys:
    """Near copies of a text differ in case, in white space or in the composition of characters."""
    return Keys(digest(text.encode("utf-8", "surrogatepass")), digest(text))


def base_keys(bases: np.ndarray) -> Keys:
    """A near copy of a sequence of bases is its other strand."""
    exact = digest(bases)
    return Keys(exact, min(exact, digest(reverse_complement(bases))))


def sound_keys(samples: np.ndarray) -> Keys:
    """Sounds are equal or not."""
    return Keys(digest(samples), digest(samples))


def leaks(items: Iterable[tuple[str, str, Keys]], noun: str) -> tuple[dict[str, dict[str, int]], list[str]]:
    """What of val and test was in an earlier part, and warnings in words.

    Args:
        items: (part, id, keys) of everything.
        noun: what several items are, such as "texts".
    Returns:
        by part "exact", "near" (without the exact ones) and "of", all its items; nothing for parts without copies.
    """
    items = list(items)
    copied: dict[str, dict[str, set[str]]] = {}
    examples: dict[str, str] = {}
    for kind in ("exact", "near"):
        for group in copies_across_parts((part, id, getattr(keys, kind)) for part, id, keys in items):
            earliest = min((part for part, _ in group), key=ORDER.index)
            first = next(id for part, id in group if part == earliest)
            for part, id in group:
                if part != earliest:
                    copied.setdefault(part, {"exact": set(), "near": set()})[kind].add(id)
                    examples.setdefault(part, f"{part}: {id} = {earliest}: {first}")
    counts, warnings = {}, []
    for part in (name for name in ORDER if name in copied):
        exact, near = copied[part]["exact"], copied[part]["near"] - copied[part]["exact"]
        total = sum(own == part for own, _, _ in items)
        counts[part] = {"exact": len(exact), "near": len(near), "of": total}
        said = [f"{len(exact):,} exact copies"] * bool(exact) + [f"{len(near):,} near copies"] * bool(near)
        earlier = " or ".join(ORDER[: ORDER.index(part)])
        warnings.append(
            f"of {total:,} {part} {noun}, {' and '.join(said)} of what is in {earlier}, which flatters {part} "
            f"({examples[part]}); remove them"
        )
    return counts, warnings
