"""Nested subsets of a training part: images of every class alike, groups whole, the same on every machine."""

import hashlib
from collections import Counter
from collections.abc import Sequence


def nested(ids: Sequence[str], labels: Sequence, groups: Sequence[str] | None, fractions: Sequence[float], seed: int):
    """Positions of growing subsets.

    Every group belongs to the rarest class that it has. Those of a class are in the order of their hashes, and all of
    them are taken in the order of their places in their classes: a beginning has every class in proportion. A subset is
    the shortest beginning with a fraction of the images and with every class.

    Args:
        groups: None: each item by itself.
        fractions: of the items.
    Returns:
        a list of positions, in ascending order, for every fraction.
    """
    names = ids if groups is None else groups
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    counts = Counter(labels)
    of_class: dict[object, list[str]] = {}
    for name, own in members.items():
        rarest = min((labels[i] for i in own), key=lambda label: (counts[label], str(label)))
        of_class.setdefault(rarest, []).append(name)
    placed = []
    for label, inside in of_class.items():
        hashed = sorted((hashlib.sha256(f"subset:{seed}:{name}".encode()).digest(), name) for name in inside)
        placed += [((place + 0.5) / len(inside), str(label), name) for place, (_, name) in enumerate(hashed)]
    order = [name for *_, name in sorted(placed)]
    found, taken, seen, done = [], [], set(), 0  # type: ignore[var-annotated]
    for fraction in fractions:
        while done < len(order) and (len(taken) < fraction * len(ids) - 1e-9 or len(seen) < len(counts)):
            taken += members[order[done]]
            seen |= {labels[i] for i in members[order[done]]}
            done += 1
        found.append(sorted(taken))
    return found
