"""What is left out of the training part and why; and which pairs belong together, so that nothing leaks."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from ssmlab.data.copies import digest
from ssmlab.data.pairs.languages import NO_BLANKS, letters_of

FEWEST_LETTERS = 0.05  # a script of a smaller share of a side's letters is not one of its own
ROOM = 8  # characters that are added to both sides before their ratio is taken: short ones differ much
WORD = 12  # characters; longer ones on average are no words but codes, and count as several


class _Plain(dict):
    """Code point -> itself, or a blank for punctuation, symbols and what cannot be seen."""

    def __missing__(self, code):
        self[code] = " " if unicodedata.category(chr(code))[0] in "PSZC" else code
        return self[code]


_PLAIN = _Plain()


def text_key(text: str) -> bytes:
    """Equal for texts that differ only in case, blanks, punctuation and how characters are composed."""
    plain = text.translate(_PLAIN)
    return digest(plain if not plain.isspace() else text)


def repeated(sources: Sequence[str], targets: Sequence[str]) -> dict[str, np.ndarray]:
    """Pairs that no split should see: by reason a mask (n,), "empty" where a side is blank and "duplicate"."""
    empty = np.array([not s.strip() or not t.strip() for s, t in zip(sources, targets, strict=True)], bool)
    seen: set[tuple[str, str]] = set()
    again = np.zeros(len(sources), bool)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        pair = source.strip(), target.strip()
        again[i] = pair in seen
        seen.add(pair)
    return {"empty": empty, "duplicate": again & ~empty}


def unsuited(
    sources: Sequence[str], targets: Sequence[str], max_length: int, max_ratio: float
) -> dict[str, np.ndarray]:
    """Pairs that a training is better without: by reason a mask (n,), a pair under its first reason.

    length: a side has more than `max_length` words; a letter of a script without blanks is a word.
    ratio: one side is more than `max_ratio` times as long as the other's length makes likely, in characters and by the
        median of all pairs.
    script: most letters of a side are of scripts that hardly occur on this side.
    """
    long, strange, characters = [], [], []
    for lines in (sources, targets):
        scripts, letters = letters_of(lines)
        blankless = letters[:, [script in NO_BLANKS for script in scripts]].sum(1)
        characters.append(np.array([len(line) for line in lines]))
        words = np.maximum(np.array([len(line.split()) for line in lines]), blankless)
        long.append(np.maximum(words, characters[-1] // WORD) > max_length)
        total = letters.sum()
        own = letters.sum(0) >= FEWEST_LETTERS * total
        strange.append(2 * letters[:, own].sum(1) < letters.sum(1))
    ratio = (characters[1] + ROOM) / (characters[0] + ROOM)
    usual = np.median(ratio) if len(ratio) else 1.0
    masks = {
        "length": long[0] | long[1],
        "ratio": np.maximum(ratio / usual, usual / ratio) > max_ratio,
        "script": strange[0] | strange[1],
    }
    before = np.zeros(len(sources), bool)
    for reason, mask in masks.items():
        masks[reason], before = mask & ~before, before | mask
    return masks


def groups(source_keys: Sequence[bytes], target_keys: Sequence[bytes]) -> list[str]:
    """For every pair the name of its group: pairs that share a source or a target, however many steps apart.

    The name follows from the group's keys, not from the order of the pairs.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    source_of: dict[bytes, int] = {}
    target_of: dict[bytes, int] = {}
    rows = [source_of.setdefault(key, len(source_of)) for key in source_keys]
    columns = [target_of.setdefault(key, len(target_of)) for key in target_keys]
    n, m = len(source_of), len(target_of)
    edges = coo_matrix((np.ones(len(rows), bool), (rows, np.add(columns, n))), shape=(n + m, n + m))
    _, component = connected_components(edges, directed=False)
    name: dict[int, bytes] = {}
    for key, row in zip(source_keys, rows, strict=True):
        own = component[row]
        name[own] = min(name.get(own, key), key)
    return [name[component[row]].hex() for row in rows]
