"""Which files hold the two sides of which part, by their names: train.en with train.fr, europarl-v7.fr-en.{en,fr}."""

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ssmlab.core.errors import DataError
from ssmlab.core.text import did_you_mean
from ssmlab.data import names as words
from ssmlab.data.contents import count, some
from ssmlab.data.files import FolderFiles, Member, ZipFiles, open_files
from ssmlab.data.pairs.config import PairConfig
from ssmlab.data.pairs.languages import is_language
from ssmlab.data.text.encoding import head_of_text

EXPECTED = (
    "two files of equally many lines (train.en and train.fr), a folder of them, or a file of pairs with a tab between"
)
TABLES = (".tsv", ".tab", ".txt", ".tsv.gz", ".tab.gz", ".txt.gz")
SIDES = (("src", "tgt"), ("src", "trg"), ("source", "target"))  # of files that name no language
_ENDING = re.compile(r"(\.(txt|text|gz|plain|tsv|tab))+$", re.I)
_WORD = re.compile(r"[^\s._/-]+")
HEAD = 1 << 16
MOST_TABLES, MOST_FILES = 3, 1_000  # of a folder that clearly holds pairs
File = Path | Member


@dataclass(frozen=True)
class PairFile:
    """Two aligned files, or one of pairs in columns, where `target` is None.

    part: train, val, test; None where the name says none.
    """

    name: str
    part: str | None
    source: File
    target: File | None


@dataclass
class PairFiles:
    """What `find_pairs` found.

    Attributes:
        format: aligned | table. source, target: the languages, as the names have them; "" where nothing says them.
        notes: what was decided and left out.
    """

    format: str
    source: str
    target: str
    files: list[PairFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_pairs(config: PairConfig) -> PairFiles:
    """The files of a path.

    Raises:
        DataError: there are none, one of two is missing, or which are meant is not clear.
    """
    if not config.path:
        raise DataError(f"no path; expected {EXPECTED}")
    path = Path(config.path).expanduser()
    if config.target_path:
        return _two_files(path, Path(config.target_path).expanduser(), config)
    listed = open_files(path)
    if listed is not None:
        at = {name: listed.at(name) for name in listed.files}
        found = _aligned(str(path), at, config) or _tables(at, config)
        if found is None:
            raise DataError(f"{path}: no sentence pairs in it; expected {EXPECTED}")
        if listed.ignored:
            found.notes.append(
                f"left out: {count(len(listed.ignored), 'hidden or system file')} ({some(listed.ignored)})"
            )
        return found
    if path.is_file() and is_table(path):
        return PairFiles("table", config.source, config.target, [PairFile(path.name, None, path, None)])
    begins = _without_last(path.name) if path.is_file() else path.name
    if path.is_file() and not (config.source or config.target):
        config = config.model_copy(update={"source": _last_word(path.name)})
    found = _aligned(str(path), _beginning(path, begins), config, begins)
    if found is None and path.is_file():
        raise DataError(
            f"{path}: its lines hold no tabs and no second file is next to it; name the target's with target_path"
        )
    if found is None:
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder; expected {EXPECTED}{did_you_mean(path.name, near)}")
    return found


def has_pairs(path: Path, listed: FolderFiles | ZipFiles | None) -> bool:
    """Whether a path clearly holds sentence pairs: by names of languages that most files end in, or by two columns.

    Folders that are named after languages are not enough: they may be classes.

    Args:
        listed: what `open_files` says of the path.
    """
    if listed is not None:
        at = {name: listed.at(name) for name in listed.files}
    elif not path.is_file():
        at = _beginning(path)
    elif is_language(_last_word(path.name)):
        at = _beginning(path, _without_last(path.name))
    else:
        return path.name.lower().endswith(TABLES) and _holds_sentences(path)
    if len(at) > MOST_FILES:
        return False
    keys: dict[str, set[str]] = {}
    for name in at:
        tag = _last_word(name)
        if is_language(tag) or any(tag.casefold() in sides for sides in SIDES):
            keys.setdefault(_without_last(name).casefold(), set()).add(tag.casefold())
    paired = sum(len(tags) for tags in keys.values() if len(tags) > 1)
    plain = [name for name in at if not words.is_note(name, True)]
    if 2 * paired > len(plain):
        return True
    tables = [name for name in plain if name.lower().endswith(TABLES)]
    return 0 < len(tables) == len(plain) <= MOST_TABLES and all(_holds_sentences(at[name]) for name in tables)


def _beginning(path: Path, begins: str = "") -> dict[str, File]:
    """The files next to a path whose names begin as its own does."""
    begins = (begins or path.name).casefold()
    near = sorted(path.parent.iterdir()) if begins and path.parent.is_dir() else []
    return {entry.name: entry for entry in near if entry.name.casefold().startswith(begins) and entry.is_file()}


def _two_files(source: Path, target: Path, config: PairConfig) -> PairFiles:
    for path, other in ((source, target), (target, source)):
        if not path.is_file():
            near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            what = "is a folder" if path.is_dir() else "no such file"
            hint = did_you_mean(path.name, near)
            raise DataError(f"{path}: {what}; expected the file whose lines belong to those of {other}{hint}")
    tags = [_last_word(path.name) for path in (source, target)]
    said = [tag if is_language(tag) else "" for tag in tags]
    return PairFiles(
        "aligned", config.source or said[0], config.target or said[1], [PairFile(source.name, None, source, target)]
    )


def _aligned(path: str, at: dict[str, File], config: PairConfig, only: str = "") -> PairFiles | None:
    """Files that differ in the language alone.

    Args:
        at: name -> file. only: the one name without its language that is meant; "" for all.
    """
    source, target = _languages(path, at, config)
    if not source:
        return None
    folded = {name.casefold(): name for name in at}
    partners: dict[str, tuple[str, str]] = {}
    lonely: list[str] = []
    for name in at:
        for own, other in ((source, target), (target, source)):
            for begin, end in reversed(_spans(name, own)):
                twin = folded.get(f"{name[:begin]}{other}{name[end:]}".casefold())
                if twin:
                    if own == source:
                        partners.setdefault(_cut(name, (begin, end)), (name, twin))  # before train.en.gz
                    break
            else:
                lonely += [name] if _ends_with(name, own) else []
    if only:
        exact = {key: pair for key, pair in partners.items() if key.casefold() == only.casefold()}
        partners = exact or partners
    alone = []
    for name in lonely:
        other, own = (target, source) if _ends_with(name, source) else (source, target)
        begin, end = _spans(name, own)[-1]
        alone.append(f"{name} without {name[:begin]}{other}{name[end:]}")
    if not partners:
        if lonely:
            raise DataError(f"{path}: {some(alone)}; both files are needed, line by line")
        return None
    found = PairFiles("aligned", config.source or source, config.target or target)
    alone_meant = only and len(partners) == 1  # test.en and test.fr may be all that a user has
    parts = dict.fromkeys(partners) if alone_meant else _parts(path, partners, config, found)
    missing = {_part_of(_without_last(name)) for name in lonely} - {None, *parts.values()}
    if missing and not only:
        raise DataError(f"{path}: {some(alone)}; both files are needed, or neither")
    if lonely and not only:
        found.notes.append(f"left out: {some(alone)}")
    if not (config.source and config.target):
        found.notes.append(f"from {source} to {target}, by the names of the files; data.source and data.target turn it")
    found.files = [
        PairFile(key, parts[key], at[one], at[other]) for key, (one, other) in partners.items() if key in parts
    ]
    return found


def _languages(path: str, at: Iterable[str], config: PairConfig) -> tuple[str, str]:
    """Source and target as the names have them: those that are said, or what several files differ in; ("", "") if none.

    Raises:
        DataError: more than two languages would do.
    """
    if config.source and config.target:
        named = any(_spans(name, config.source) or _spans(name, config.target) for name in at)
        ends = {_last_word(name).casefold() for name in at}
        return next((pair for pair in SIDES if not named and ends.issuperset(pair)), (config.source, config.target))
    keys: dict[str, set[str]] = {}
    for name in at:
        for tag in (_last_word(name), _WORD.findall(name)[0] if "/" in name else ""):
            if tag.casefold() in {side for pair in SIDES for side in pair} or is_language(tag):
                keys.setdefault(tag.casefold(), set()).add(_cut(name, _spans(name, tag)[-1]).casefold())
                break
    shared = {tag for tag in keys if any(keys[tag] & keys[other] for other in keys if other != tag)}
    for source, target in SIDES:
        if {source, target} <= shared:
            return source, target
    said = (config.source or config.target).casefold()
    others = sorted(tag for tag in shared if tag != said)
    if said and len(others) == 1:
        return (config.source, others[0]) if config.source else (others[0], config.target)
    if len(shared) > 2:
        raise DataError(f"{path}: holds {', '.join(sorted(shared))}; say which two with data.source and data.target")
    if len(shared) < 2:
        return "", ""
    first, second = sorted(shared)
    turned = any(re.search(rf"(?<![a-z]){second}-{first}(?![a-z])", name.casefold()) for name in at)
    return (second, first) if turned else (first, second)


def _tables(at: dict[str, File], config: PairConfig) -> PairFiles | None:
    """Files of pairs in columns."""
    found = PairFiles("table", config.source, config.target)
    tables = {
        _ENDING.sub("", name): name
        for name, file in reversed(at.items())  # pairs.tsv rather than pairs.tsv.gz
        if name.lower().endswith(TABLES) and not words.is_note(name, False) and is_table(file)
    }
    if not tables:
        return None
    parts = _parts(config.path, sorted(tables), config, found)
    found.files = [PairFile(tables[key], part, at[tables[key]], None) for key, part in parts.items()]
    return found


def _parts(path: str, keys: Iterable[str], config: PairConfig, found: PairFiles) -> dict[str, str | None]:
    """Key -> part, of those that are read; notes say what is left out.

    Raises:
        DataError: a name that the user gives is not there, or several files would be the one part.
    """
    keys = list(keys)
    parts = {key: _part_of(key) for key in keys}
    for part in ("train", "val", "test"):
        said = getattr(config, part)
        if not said:
            continue
        meant = [key for key in keys if said.casefold() in (key.casefold(), key.rpartition("/")[2].casefold())]
        if not meant:
            near = did_you_mean(said, keys)
            raise DataError(f"{path}: no files {said} for data.{part}{near or '; there are ' + some(keys, 8)}")
        parts = {key: (None if own == part else own) for key, own in parts.items()} | dict.fromkeys(meant, part)
        if part == "train":
            keys = [key for key in keys if parts[key]]
    held = {part: [key for key in keys if parts[key] == part] for part in ("train", "val", "test")}
    for part in ("val", "test"):
        if len(held[part]) > 1:
            raise DataError(f"{path}: {some(held[part], 8)} could be the {part} part; say which with data.{part}")
    unnamed = [key for key in keys if parts[key] is None]
    if held["train"] and unnamed:
        found.notes.append(f"left out: {some(unnamed)}, which no part is named after")
        keys = [key for key in keys if parts[key]]
    elif (held["val"] or held["test"]) and not held["train"]:
        if not unnamed:
            raise DataError(f"{path}: only {some(held['val'] + held['test'])}, no training part")
        parts |= dict.fromkeys(unnamed, "train")
    several = [key for key in keys if parts[key] in ("train", None)]
    if len(several) > 1:
        found.notes.append(f"the training part is {some(several, 8)} together")
    return {key: parts[key] for key in keys}


def _part_of(key: str) -> str | None:
    """The part that a file's name or else a folder's says: train, tst2010, IWSLT17.TED.dev2010.fr-en."""
    for step in reversed(key.split("/")):
        step = _ENDING.sub("", step)
        while (last := _last_word(step)) != step and is_language(last):
            step = _without_last(step)
        part, _ = words.folder_meaning(step)
        if part:
            return part
    return None


def _last_word(name: str) -> str:
    """The last word of a file's name before what only says its format: en of europarl-v7.fr-en.en.txt.gz."""
    return (_WORD.findall(_ENDING.sub("", name.rpartition("/")[2])) or [""])[-1]


def _ends_with(name: str, word: str) -> bool:
    """Whether a word is the last before what only says the format."""
    plain = _ENDING.sub("", name)
    return any(end == len(plain) for _, end in _spans(plain, word))


def _without_last(name: str) -> str:
    """A name without its last word."""
    spans = _spans(name, _last_word(name))
    return _cut(name, spans[-1]) if spans else name


def _spans(name: str, word: str) -> list[tuple[int, int]]:
    """Where a word stands in a name."""
    return [found.span() for found in re.finditer(rf"(?<![^\s._/-]){re.escape(word)}(?![^\s._/-])", name, re.I)]


def _cut(name: str, span: tuple[int, int]) -> str:
    """A name without the word there, nor what says its format: the same for both languages."""
    before, after = name[: span[0]].rstrip("._-/ "), _ENDING.sub("", name[span[1] :])
    return before + after if before else after.lstrip("._-/ ")


def _head(file: File) -> bytes:
    """The first bytes of a file, unpacked."""
    try:
        if isinstance(file, Member):
            head = file.files.head(file.name, HEAD)
        else:
            with open(file, "rb") as opened:
                head = opened.read(HEAD)
        return zlib.decompressobj(31).decompress(head, HEAD) if head[:2] == b"\x1f\x8b" else head
    except (OSError, zlib.error):
        return b""  # whoever reads it in full reports it


def _rows(file: File) -> list[str]:
    """The first lines of a file that are not blank."""
    return [line for line in head_of_text(_head(file)).split("\n")[:100] if line.strip()]


def is_table(file: File) -> bool:
    """Whether nearly all of the first lines have a tab."""
    lines = _rows(file)
    return bool(lines) and sum("\t" in line for line in lines) >= 0.95 * len(lines)


def _holds_sentences(file: File) -> bool:
    """Whether the first two columns of a table are texts, neither numbers nor a few classes."""
    if not is_table(file):
        return False
    cells = [[cell.strip() for cell in line.split("\t")[:2]] for line in _rows(file) if "\t" in line]
    return all(
        2 * len(set(column)) > len(column)
        and 2 * sum(bool(re.search(r"[^\W\d_]", cell)) for cell in column) > len(column)
        for column in zip(*cells, strict=True)
    )
