"""Which images are held out: the same on every machine, whatever order the files were listed in.

Whether an image is held out follows from the SHA-256 of the seed and its id (its group, where groups are
given), so neither the file system's order nor a version of a random number generator can change it.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

TEST_FRACTION = 0.2  # of data that come without any parts


def held_out(
    ids: Sequence[str],
    labels: Sequence,
    groups: Sequence[str] | None = None,
    *,
    fraction: float,
    seed: int,
    part: str,
) -> set[int]:
    """Choose about `fraction` of every class, whole groups only.

    Each class wants n * fraction of its n images, rounded, at least 1 and at most n - 1 (a single image
    stays). Groups are visited in the order of their hash; one is taken when that brings the counts per class
    nearer to what is wanted (sum of absolute differences) and leaves every class an image. If none was taken,
    the group that comes nearest is.

    Args:
        groups: the group of every image; None: each image by itself, and the counts are exactly those wanted.
        part: "val" or "test"; salts the hash, so that the two choices are independent.
    Returns:
        positions in `ids`; empty where no group can be spared.
    """
    names = ids if groups is None else groups
    members: dict[str, list[int]] = {}
    inside: dict[str, dict] = {}  # plain: a Counter each takes longest where there are as many groups as items
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
        counts = inside.setdefault(name, {})
        counts[labels[i]] = counts.get(labels[i], 0) + 1
    left = Counter(labels)
    lack = {c: min(max(int(n * fraction + 0.5), 1), n - 1) for c, n in left.items()}
    order = sorted(members, key=lambda name: hashlib.sha256(f"{part}:{seed}:{name}".encode()).digest())

    def gain(counts):
        return sum(abs(lack[c]) - abs(lack[c] - n) for c, n in counts.items())

    def can_go(counts):
        return all(left[c] > n for c, n in counts.items())

    taken = []
    for name in order:
        counts = inside[name]
        if can_go(counts) and gain(counts) > 0:
            taken.append(name)
            for c, n in counts.items():
                lack[c] -= n
                left[c] -= n
    if not taken:
        taken = sorted((name for name in order if can_go(inside[name])), key=lambda name: -gain(inside[name]))[:1]
    return {i for name in taken for i in members[name]}


def about_split(part: str, of: str, held: int, total: int, noun: str, *, fraction: float, whole: str, how: str) -> str:
    """How a part was made that was not published, in words.

    Args:
        of: what it was taken from, "train" or "all". whole: what was not divided, such as "group"; "".
        how: what else the note says, such as the seed.
    """
    said = f"no {part} part was published: {held / max(total, 1):.0%} of {of} ({held:,} of {total:,} {noun}), {how}"
    return said + (f"; {fraction:.0%} were wanted, {noun} of one {whole} stay together" if whole else "")


def split_hash(parts: dict[str, Sequence[str]]) -> str:
    """SHA-256 (hex) over the sorted lines "id<tab>part": two runs with the same hash had the same split."""
    lines = sorted(f"{id}\t{part}\n" for part, ids in parts.items() for id in ids)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
