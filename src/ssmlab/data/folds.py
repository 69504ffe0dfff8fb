"""Folds of a cross-validation: drawn, as the data publish them, or read from nnU-Net's `splits_final.json`.

Drawn folds follow from the SHA-256 of the seed and the names of items, as held-out parts do (ssmlab.data.splits): equal
on every machine. They are saved as nnU-Net saves them, a list of {"train": names, "val": names}; what it calls val is
held out here, and the part that training validates on is taken from the fold's training part.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.data.contents import count, some
from ssmlab.data.splits import held_out, split_hash
from ssmlab.data.tables import group_title

FILE = "splits_final.json"  # nnU-Net's name of it


@dataclass(frozen=True)
class Fold:
    """One fold: positions in the items that are divided.

    number: from 0, over all repeats. held_out: predicted and never learned from. val: what training validates on.
    """

    number: int
    train: tuple[int, ...]
    val: tuple[int, ...]
    held_out: tuple[int, ...]


def draw_folds(
    ids: Sequence[str], labels: Sequence, groups: Sequence[str] | None, *, folds: int, repeat: int = 0, seed: int = 0
) -> list[list[int]]:
    """Divide items so that every fold has the same share of every class, as near as whole groups allow.

    Groups are taken from the largest down, equal ones in the order of their hashes. Each goes to the fold in which it
    adds least to the sum of squares of the classes' shares, of equals to the smallest: for items without groups, whose
    classes are dealt one by one, the counts of a class differ by at most 1.

    Args:
        groups: of every item, never divided; None: each item by itself.
        repeat: another division of the same items.
    Returns:
        the positions of every fold, in ascending order.
    Raises:
        DataError: there are fewer groups than folds.
    """
    names = ids if groups is None else groups
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    if len(members) < folds:
        what = "images" if groups is None else "groups"
        raise DataError(f"folds={folds} needs at least {folds} {what}, there are {len(members)}; take fewer folds")
    totals = Counter(labels)
    salt = f"fold:{seed}:{repeat}"
    hashed = {name: hashlib.sha256(f"{salt}:{name}".encode()).digest() for name in members}
    held: list[Counter] = [Counter() for _ in range(folds)]
    sizes, found = [0] * folds, [[] for _ in range(folds)]  # type: tuple[list[int], list[list[int]]]
    for name in sorted(members, key=lambda name: (-len(members[name]), hashed[name])):
        own = Counter(labels[i] for i in members[name])
        parts = sorted(own.items(), key=str)  # so that sums are the same whatever the order of the items
        costs = [sum(n * (2 * held[f][c] + n) / totals[c] ** 2 for c, n in parts) for f in range(folds)]
        best = min(range(folds), key=lambda f: (costs[f], sizes[f], f))
        held[best] += own
        sizes[best] += len(members[name])
        found[best] += members[name]
    return [sorted(positions) for positions in found]


def folds_of(
    held: Sequence[Sequence[int]],
    ids: Sequence[str],
    labels: Sequence,
    groups: Sequence[str] | None,
    *,
    val_fraction: float,
    seed: int,
    first: int = 0,
) -> list[Fold]:
    """The folds of one division, each with a validation part taken from what it is trained on.

    Args:
        held: positions of every fold. first: the number of the first.
    Raises:
        DataError: a fold would have nothing to train on or to validate on, or a class only there.
    """
    found = []
    for number, out in enumerate(held, start=first):
        inside = set(out)
        rest = [i for i in range(len(ids)) if i not in inside]
        known = None if groups is None else [groups[i] for i in rest]
        own = [labels[i] for i in rest]
        missing = set(labels) - set(own)
        if missing:
            raise DataError(
                f"fold {number}: class {some(sorted(map(str, missing)))} is only in its held-out part, so that nothing "
                "can learn it; every class needs images in two groups at least, or take fewer folds"
            )
        names = [ids[i] for i in rest]
        chosen = held_out(names, own, known, fraction=val_fraction, seed=seed, part=f"val{number}")
        if not chosen:
            raise DataError(f"fold {number}: no images can be spared for validation; take fewer folds")
        val = tuple(i for n, i in enumerate(rest) if n in chosen)
        train = tuple(i for n, i in enumerate(rest) if n not in chosen)
        found.append(Fold(number, train, val, tuple(out)))
    return found


def splits_text(folds: Sequence[Fold], names: Sequence[str]) -> str:
    """Folds as nnU-Net's `splits_final.json`; its train is our train and val together.

    Args:
        names: of the items.
    """
    rows = [
        {
            "train": sorted(names[i] for i in (*fold.train, *fold.val)),
            "val": sorted(names[i] for i in fold.held_out),
        }
        for fold in folds
    ]
    return json.dumps(rows, indent=4) + "\n"


def read_splits(path: Path, ids: Sequence[str], forms: Sequence[Callable[[str], str]] = ()) -> list[list[list[int]]]:
    """Held-out positions by repeat and fold, from a `splits_final.json` of nnU-Net or of a run.

    Args:
        forms: further ways in which a file may call an item, such as without its suffix; one that several items share
            names none of them.
    Raises:
        DataError: the file is no such list, names what is not there, leaves something out, or its folds overlap.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
        named = [([str(name) for name in row["train"]], [str(name) for name in row["val"]]) for row in rows]
    except OSError as error:
        raise DataError(f"splits={path}: cannot be read ({error.strerror}); give a splits_final.json") from None
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f'splits={path}: expected a list of {{"train": [...], "val": [...]}}, as nnU-Net has it'
        ) from None
    place = {id_: i for i, id_ in enumerate(ids)}
    for form in forms:
        shared = Counter(map(form, ids))
        for i, id_ in enumerate(ids):
            if shared[form(id_)] == 1:
                place.setdefault(form(id_), i)
    unknown = sorted({name for row in named for side in row for name in side if name not in place})
    if unknown:
        raise DataError(f"splits={path}: names {count(len(unknown), 'image')} that are not there ({some(unknown)})")
    repeats: list[list[list[int]]] = [[]]
    for number, (train, out) in enumerate(named):
        held, learned = {place[name] for name in out}, {place[name] for name in train}
        if held & learned or not held:
            what = f"{ids[min(held & learned)]} is in train and in val" if held else "val is empty"
            raise DataError(f"splits={path}: fold {number}: {what}")
        if len(held) + len(learned) < len(ids):
            left = [id_ for i, id_ in enumerate(ids) if i not in held | learned]
            raise DataError(f"splits={path}: fold {number} leaves out {count(len(left), 'image')} ({some(left)})")
        if sum(map(len, repeats[-1])) == len(ids):
            repeats.append([])
        before = {i for fold in repeats[-1] for i in fold}
        if before & held:
            raise DataError(f"splits={path}: fold {number}: {ids[min(before & held)]} is held out twice in one round")
        repeats[-1].append(sorted(held))
    if sum(map(len, repeats[-1])) != len(ids):
        missing = [id_ for i, id_ in enumerate(ids) if not any(i in fold for fold in repeats[-1])]
        raise DataError(f"splits={path}: {count(len(missing), 'image')} never held out ({some(missing)})")
    return repeats


def published_folds(names: Sequence[str | None], folds: int) -> list[list[int]]:
    """Positions of every fold that the data themselves name, in the order of the names.

    Raises:
        DataError: another number of folds is wanted than there are, or an item has none.
    """
    known = sorted({name for name in names if name}, key=lambda name: (len(name), name))
    without = sum(not name for name in names)
    if without:
        raise DataError(f"{count(without, 'image')} without a fold, the others have one; name it for all, or for none")
    if len(known) != folds:
        raise DataError(f"the data name {len(known)} folds ({some(known)}); take folds={len(known)}, not {folds}")
    return [[i for i, name in enumerate(names) if name == fold] for fold in known]


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the items of a run are divided into folds.

    Args:
        folds: how many; 0 where a file says it. repeats: how often they are divided anew.
        splits: a file with folds instead, see `read_splits`; "" for none.
        val_fraction, seed: of the validation part of each fold, and of the folds.
    """

    folds: int
    repeats: int = 1
    splits: str = ""
    val_fraction: float
    seed: int

    def divide(
        self,
        ids: Sequence[str],
        labels: Sequence,
        groups: Sequence[str] | None = None,
        published: Sequence[str | None] | None = None,
        forms: Sequence[Callable[[str], str]] = (),
    ) -> tuple[tuple[Fold, ...], ...]:
        """The folds of every repeat.

        Args:
            groups: that are not divided; None: none. published: the fold of every item where the data name it, which
                is then taken. forms: see `read_splits`.
        Raises:
            DataError: folds do not fit the items, or groups lie in several of them.
        """
        if self.splits:
            held = read_splits(Path(self.splits), ids, forms)
            if len(held) != self.repeats or self.folds not in (0, len(held[0])):
                raise DataError(
                    f"splits={self.splits} holds {len(held)} x {len(held[0])} folds; give folds={len(held[0])} "
                    f"repeats={len(held)}, not folds={self.folds} repeats={self.repeats}"
                )
        elif published is not None:
            if self.repeats > 1:
                raise DataError("the data name their folds, which are the same in every repeat; leave repeats out")
            held = [published_folds(published, self.folds)]
        else:
            held = [
                draw_folds(ids, labels, groups, folds=self.folds, repeat=repeat, seed=self.seed)
                for repeat in range(self.repeats)
            ]
        for divided in held if groups is not None else ():
            where: dict[str, int] = {}
            for number, out in enumerate(divided):
                for i in out:
                    if where.setdefault(groups[i], number) != number:  # type: ignore[index]
                        raise DataError(
                            f"group {groups[i]!r} is in folds {where[groups[i]]} and {number}, "  # type: ignore[index]
                            "which flatters them; keep a group in one fold"
                        )
        how = {"val_fraction": self.val_fraction, "seed": self.seed}
        return tuple(tuple(folds_of(divided, ids, labels, groups, **how)) for divided in held)  # type: ignore[arg-type]


def described_groups(column: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of groups: by what, and how many every part has; nothing where there are none.

    Args:
        parts: by name, with `groups` of every item, or None.
    """
    if any(part.groups is None for part in parts.values()):
        return {}
    return {"group": group_title(column), "groups": {name: len(set(part.groups)) for name, part in parts.items()}}


def about_division(
    described: dict[str, Any],
    folds: Sequence[Sequence[Fold]],
    ids: Sequence[str],
    groups: Sequence[str] | None,
    apart: Sequence[str],
) -> dict[str, Any]:
    """What run.json says of a cross-validation: counts, split_hash, folds and notes.

    Args:
        described: what it says of the data. ids, groups: of the items that are divided. apart: ids of a published test.
    """
    first = folds[0]
    held = {f"{r}:{f.number}": [ids[i] for i in f.held_out] for r, one in enumerate(folds) for f in one}
    sizes = sorted({len(fold.held_out) for fold in first})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    whole = "" if groups is None else f", {len(set(groups)):,} groups kept whole"
    again = f", drawn {len(folds)} times" if len(folds) > 1 else ""
    note = (
        f"{len(first)} folds of {len(ids):,} images{whole}{again}: {size} are held out of each; every image is "
        "predicted by a model that has neither learned from it nor been chosen by it"
    )
    return {
        "counts": {"train": len(first[0].train), "val": len(first[0].val), "test": len(ids)},
        "split_hash": split_hash(held | {"test": apart}),
        "folds": {"number": len(first), "repeats": len(folds), "published_test": len(apart)},
        **(
            {}
            if groups is None
            else {
                "groups": {
                    "train": len({groups[i] for i in first[0].train}),
                    "val": len({groups[i] for i in first[0].val}),
                    "test": len(set(groups)),
                }
            }
        ),
        "notes": [*described.get("notes", []), note],
    }
