"""`read_pairs`: sentence pairs in three parts, the training part cleaned and free of what is in the others."""

import hashlib
import zlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.contents import PARTS, count, some
from ssmlab.data.files import gunzip
from ssmlab.data.pairs.cleaning import groups, repeated, text_key, unsuited
from ssmlab.data.pairs.config import PairConfig
from ssmlab.data.pairs.find import File, PairFile, find_pairs
from ssmlab.data.pairs.languages import LANGUAGE_NAMES, check_languages, check_sides, language_of, other_language
from ssmlab.data.splits import held_out, split_hash
from ssmlab.data.text.encoding import UTF8, as_utf8

LEAK = "in val or test"
LEAST = 1 << 30  # bytes that a compressed file may always become
SHARE = 0.1  # of all pairs that val and test may take each
MOST_ZEROS = 0.1  # of a text's characters
FEWEST_LINES, LEAST_AGREEMENT = 200, 0.3  # lines whose lengths are compared, and their correlation
HEADER = frozenset(("source", "target", "src", "tgt", "trg", "sentence1", "sentence2", "translation"))


@dataclass(frozen=True)
class Pairs:
    """Sources and the targets that belong to them, equally many."""

    sources: list[str]
    targets: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(source, target) of every pair."""
        return zip(self.sources, self.targets, strict=True)

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """All sources and all targets."""
        return self.sources, self.targets

    def take(self, rows: Iterable[int]) -> "Pairs":
        """These pairs, in this order."""
        rows = list(rows)
        return Pairs([self.sources[i] for i in rows], [self.targets[i] for i in rows])


@dataclass(kw_only=True)
class PairData:
    """What `read_pairs` found.

    Attributes:
        format: aligned | table. source, target: the languages, "source" and "target" where nothing says them.
        parts: train, val, test.
        read: part -> pairs in the files, before anything was left out. divided: the parts that were not published.
        removed: reason -> pairs left out of the training part.
        leaks: part -> its lines whose source or target is in the training part as it was read: "exact", "near" (but
            for case, blanks, punctuation) and "of". The training pairs are left out.
        notes: what was decided. warnings: of these what may be a mistake.
    """

    name: str
    path: str
    format: str
    source: str
    target: str
    parts: dict[str, Pairs]
    read: dict[str, int]
    divided: tuple[str, ...]
    removed: dict[str, int]
    leaks: dict[str, dict[str, int]]
    split_hash: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """part -> pairs."""
        return {part: len(pairs) for part, pairs in self.parts.items()}

    def describe(self) -> dict[str, Any]:
        """Everything but the pairs, as plain values for run.json and records."""
        plain = {name: value for name, value in vars(self).items() if name != "parts"}
        return plain | {"counts": self.counts, "divided": list(self.divided)}


def read_pairs(config: PairConfig) -> PairData:
    """Read, check, divide and clean the pairs of a path.

    Validation and test parts that come with the data are left as they are, line by line. What has none is divided:
    pairs that share a source or a target stay on one side. Only the training part is cleaned; its pairs whose source or
    target is in val or test are left out.

    Raises:
        DataError: the files cannot be read or do not belong together, with every problem; or too few pairs are left.
    """
    found = find_pairs(config)
    notes = found.notes
    parts = read_parts(found.files, config, notes)
    source, target = found.source or "source", found.target or "target"
    warnings = _check(parts, source, target, config.path)
    read = {part: len(pairs) for part, pairs in parts.items()}
    missing = tuple(part for part in PARTS if part not in parts)
    removed: dict[str, int] = {}
    masks = repeated(*parts["train"].sides)
    train = _without(parts["train"], masks if config.clean else {"empty": masks["empty"]}, removed)
    keys = [[text_key(text) for text in side] for side in train.sides]
    if missing:
        names = groups(*keys)
        side = _assign(names, missing, config)
        parts |= {part: train.take(np.flatnonzero(side == part)) for part in missing}
        notes.append(_about_division(parts, missing, len(train)))
        kept = np.flatnonzero(side == "train")
        train, keys = train.take(kept), [[own[i] for i in kept] for own in keys]
    leaked, leaks, shared = _leaks(train, keys, parts)
    if shared and not missing:
        warnings.append(f"of {len(parts['test']):,} test lines {shared:,} are in val too, which flatters the test")
    train = _without(train, {LEAK: leaked}, removed)
    if config.clean:
        train = _without(train, unsuited(*train.sides, config.max_length, config.max_ratio), removed)
    if config.train_pairs:
        notes.append(f"a subset: {config.train_pairs:,} of {count(len(train), 'training pair')}")
        train = _subset(train, config)
    parts = {"train": train, "val": parts["val"], "test": parts["test"]}
    empty = [part for part in PARTS if not len(parts[part])]
    if empty:
        left = ", ".join(f"{n:,} {reason}" for reason, n in removed.items() if n) or "none"
        raise DataError(f"{config.path}: no pairs for {', '.join(empty)} (left out: {left}); give more pairs")
    return PairData(
        name=Path(config.path).expanduser().resolve().name,
        path=config.path,
        format=found.format,
        source=source,
        target=target,
        parts=parts,
        read=read,
        divided=missing,
        removed=removed,
        leaks=leaks,
        split_hash=split_hash({part: [_content_id(pair) for pair in pairs] for part, pairs in parts.items()}),
        notes=notes,
        warnings=warnings,
    )


def read_parts(files: list[PairFile], config: PairConfig, notes: list[str]) -> dict[str, Pairs]:
    """The lines of all files by part; what has no part is train.

    Args:
        notes: gets what was decided.
    Raises:
        DataError: with every file that cannot be read, and every two that have not equally many lines.
    """
    parts: dict[str, Pairs] = {}
    problems: list[str] = []
    for file in files:
        sides: list[list[str]] = []
        for side in (file.source, file.target):
            try:
                if side is not None:
                    sides.append(read_lines(side, config.encoding))
                elif sides:
                    head, *sides = _columns(sides[0], config)
                    if head:
                        notes.append(f"{file.source}: the first line names the columns, no pair: {', '.join(head)}")
            except ValueError as error:
                problems.append(f"{side or file.source}: {error}")
        if len(sides) == 2 and len(sides[0]) != len(sides[1]):
            sizes = f"{len(sides[0]):,} lines, but {file.target} has {len(sides[1]):,}"
            problems.append(f"{file.source}: {sizes}; line N of both must belong together")
        elif len(sides) == 2:
            pairs = parts.setdefault(file.part or "train", Pairs([], []))
            pairs.sources.extend(sides[0])
            pairs.targets.extend(sides[1])
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError(f"{config.path}: {len(problems)} problems", problems)
    return parts


def read_lines(file: File, encoding: str = UTF8) -> list[str]:
    """The lines of a file, plain or packed by gzip, which end in LF or CR LF and in nothing else (U+2028, FF, VT ...).

    Raises:
        ValueError: it cannot be read, or is in another encoding, with the line and the way out.
    """
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gunzip(content, LEAST)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot be read ({error})") from error
    plain = as_utf8(content) if encoding == UTF8 else content
    try:
        text = plain.decode(encoding)
    except UnicodeDecodeError as error:
        line = plain.count(b"\n", 0, error.start) + 1
        way = "convert it, e.g. with iconv -t utf-8, or name its encoding with data.encoding"
        raise ValueError(f"line {line:,} is not {encoding} (byte 0x{plain[error.start]:02x}); {way}") from None
    if text.count("\0") > MOST_ZEROS * len(text):
        raise ValueError("holds zero bytes: UTF-16 without its mark, or no text; save it as UTF-8")
    if not text:
        raise ValueError("is empty")
    lines = text.removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


def _columns(lines: list[str], config: PairConfig) -> tuple[list[str], list[str], list[str]]:
    """The cells of a first line that names columns, then two columns of pairs with tabs between, without quoting: a
    quotation mark is one."""
    first, second = config.source_column - 1, config.target_column - 1
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    head = [cell.strip().casefold() for cell in rows[0][1]] if rows else []
    named: list[str] = []
    if config.source and config.target and {config.source.casefold(), config.target.casefold()} <= set(head):
        first, second = head.index(config.source.casefold()), head.index(config.target.casefold())
        named = rows.pop(0)[1]
    elif head and (HEADER.issuperset(head) or _names_languages(head[first : first + 1] + head[second : second + 1])):
        named = rows.pop(0)[1]
    short = [number for number, cells in rows if len(cells) <= max(first, second)]
    if short:
        where = some(f"{number:,}" for number in short)
        raise ValueError(f"fewer than {max(first, second) + 1} columns with tabs between in line {where}")
    if not rows:
        raise ValueError("holds no pairs")
    return named, [cells[first] for _, cells in rows], [cells[second] for _, cells in rows]


def _names_languages(cells: list[str]) -> bool:
    """Whether both cells of a first line say what is below them: en and fr, English and French, source and target."""
    known = [language_of(cell) or LANGUAGE_NAMES.get(cell, "") or cell * (cell in HEADER) for cell in cells]
    return len(cells) == 2 and all(known) and known[0] != known[1]


def _check(parts: dict[str, Pairs], source: str, target: str, path: str) -> list[str]:
    """What is wrong with the pairs as they are in the files, as warnings.

    Raises:
        DataError: the languages are swapped, or both sides hold the same.
    """
    if "train" not in parts:
        raise DataError(f"{path}: no training part")
    warnings = []
    for part, pairs in parts.items():
        where = f"{path}, {part}" if len(parts) > 1 else path
        same = sum(map(str.__eq__, *pairs.sides)) / len(pairs)
        if same > 0.5:
            raise DataError(f"{where}: in {same:.0%} of the pairs both sides are the same text; give the translations")
        check_languages(*pairs.sides, source, target, where)
        for side, lines in zip((source, target), pairs.sides, strict=True):
            if found := other_language(lines, side):
                warnings.append(
                    f"{where}: the {side} side reads like {found}; look whether data.source and data.target are right"
                )
        if part != "train":
            check_sides(pairs.sides, parts["train"].sides, where)
        if len(pairs) >= FEWEST_LINES:
            sizes = np.log1p([[len(text) for text in side] for side in pairs.sides])
            agree = float(np.corrcoef(sizes)[0, 1]) if sizes.std(1).all() else 1.0
            if agree < LEAST_AGREEMENT:
                warnings.append(
                    f"{where}: long sources do not have long targets (correlation {agree:.2f}); look whether line N of "
                    "one side belongs to line N of the other"
                )
    return warnings


def _without(pairs: Pairs, masks: dict[str, np.ndarray], removed: dict[str, int]) -> Pairs:
    """What is left, while `removed` counts by reason what is not."""
    out = np.zeros(len(pairs), bool)
    for reason, mask in masks.items():
        removed[reason] = int(mask.sum())
        out |= mask
    return pairs.take(np.flatnonzero(~out)) if out.any() else pairs


def _assign(names: list[str], missing: tuple[str, ...], config: PairConfig) -> np.ndarray:
    """The part of every pair, (n,): whole groups are taken for the missing parts."""
    side = np.full(len(names), "train", object)
    for part in reversed(missing):  # test first, as everywhere here
        left = np.flatnonzero(side == "train")
        wanted = min(getattr(config, f"{part}_pairs"), SHARE * len(names)) / max(1, len(left))
        own = [names[i] for i in left]
        seed = config.split_seed
        chosen = held_out(own, [0] * len(own), own, fraction=wanted, seed=seed, part=part) if own else set()
        side[left[sorted(chosen)]] = part
    return side


def _about_division(parts: dict[str, Pairs], missing: tuple[str, ...], total: int) -> str:
    taken = " and ".join(f"{len(parts[part]):,} for {part}" for part in missing)
    return f"of {count(total, 'pair')} {taken}; pairs with the same source or the same target are on one side"


def _leaks(train: Pairs, keys: list[list[bytes]], parts: dict[str, Pairs]) -> tuple[np.ndarray, dict, int]:
    """Training pairs whose source or target is in val or test, (n,) bool; `PairData.leaks`; test lines in val.

    Args:
        keys: of the training sources and targets, see `text_key`.
    """
    leaked, found = np.zeros(len(train), bool), {}
    held = {part: [[text_key(line) for line in side] for side in parts[part].sides] for part in ("val", "test")}
    for part, sides in held.items():
        exact, near = np.zeros((2, len(parts[part])), bool)
        for i, there in enumerate(sides):
            exact |= _among(parts[part].sides[i], train.sides[i])
            near |= _among(there, keys[i])
            leaked |= _among(keys[i], there)
        if near.any():
            found[part] = {"exact": int(exact.sum()), "near": int((near & ~exact).sum()), "of": len(near)}
    shared = _among(held["test"][0], held["val"][0]) | _among(held["test"][1], held["val"][1])
    return leaked, found, int(shared.sum())


def _among(some: Iterable[Hashable], others: Iterable[Hashable]) -> np.ndarray:
    known = set(others)
    return np.array([one in known for one in some], bool)


def _subset(train: Pairs, config: PairConfig) -> Pairs:
    """The first pairs by a hash of seed and content, in the order of the file: a smaller subset is inside a larger."""
    if config.train_pairs > len(train):
        raise DataError(
            f"{config.path}: train_pairs is {config.train_pairs:,}, but {len(train):,} training pairs are left; 0 "
            "takes all of them"
        )
    salt = str(config.split_seed).encode()
    drawn = [hashlib.blake2b(_content(pair), key=salt, digest_size=16).digest() for pair in train]
    return train.take(sorted(sorted(range(len(drawn)), key=drawn.__getitem__)[: config.train_pairs]))


def _content(pair: tuple[str, str]) -> bytes:
    return "\t".join(pair).encode("utf-8", "surrogatepass")


def _content_id(pair: tuple[str, str]) -> str:
    return hashlib.sha256(_content(pair)).hexdigest()
