"""Exact copies: the same content in train and test makes a test worthless, whatever kind the data are.

`digest` says when two contents are the same, `copies_across_parts` finds them, `describe_copies` puts them into words.
`first_copies` names the group that keeps copies together where parts are still to be chosen.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from ssmlab.data.contents import count


def digest(content: str | bytes | np.ndarray) -> bytes:
    """16 bytes that are equal where the contents are.

    Texts are compared by their words: case, width of blanks, line ends and Unicode's composition do not count. Arrays
    are equal where shape, type and values are.
    """
    if isinstance(content, str):
        words = " ".join(unicodedata.normalize("NFKC", content).casefold().split())
        content = b"text " + words.encode("utf-8", "surrogatepass")
    elif isinstance(content, np.ndarray):
        content = f"{content.shape} {content.dtype} ".encode() + np.ascontiguousarray(content).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


def copies_across_parts(items: Iterable[tuple[str, str, bytes]]) -> list[list[tuple[str, str]]]:
    """Groups of (part, id) whose digests are equal and that are in more than one part, in the order of the items.

    Args:
        items: (part, id, digest) of everything; see `digest`.
    """
    equal: dict[bytes, list[tuple[str, str]]] = {}
    for part, id, key in items:
        equal.setdefault(key, []).append((part, id))
    return [group for group in equal.values() if len({part for part, _ in group}) > 1]


def describe_copies(groups: Sequence[Sequence[tuple[str, str]]], noun: str) -> list[str]:
    """A warning in one line, or none.

    Args:
        noun: what an item is, such as "text".
    """
    if not groups:
        return []
    first = " = ".join(f"{part}: {id}" for part, id in groups[0][:3])
    return [f"{count(len(groups), noun)} in more than one part, which flatters validation or test ({first})"]


def first_copies(ids: Sequence[str], digests: Sequence[bytes]) -> list[str]:
    """For every item the id of its first copy, its own where it has none: as groups they keep copies on one side."""
    first: dict[bytes, str] = {}
    return [first.setdefault(key, id) for id, key in zip(ids, digests, strict=True)]


def kept_together(ids: Sequence[str], groups: Sequence[str] | None, digests: Sequence[bytes]) -> list[str] | None:
    """Groups that hold all that shares a group or a digest, copies of copies too; None where nothing does.

    Args:
        groups: of every item, None where there are none.
    """
    if groups is None and len(set(digests)) == len(ids):
        return None
    above = list(range(len(ids)))

    def top(i: int) -> int:
        while above[i] != i:
            above[i] = i = above[above[i]]
        return i

    first: dict[object, int] = {}
    for i in range(len(ids)):
        for key in (digests[i], *([groups[i]] if groups is not None else [])):
            above[top(i)] = top(first.setdefault(key, i))
    return [groups[top(i)] if groups is not None else ids[top(i)] for i in range(len(ids))]
