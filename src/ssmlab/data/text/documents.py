"""Texts in files, and how any documents are divided into parts. numpy only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.contents import count, did_you_mean, some
from ssmlab.data.copies import first_copies
from ssmlab.data.examples import TABLES
from ssmlab.data.files import Member, open_files
from ssmlab.data.kinds import KINDS
from ssmlab.data.parts import parts_of, sort_files
from ssmlab.data.splits import held_out
from ssmlab.data.text.encoding import UTF8, decode_text

PYDOC = "pydoc"  # the chapters on the language that come with Python: English prose without a download
FIELD = "text"  # of JSON lines
FEW = 20  # so many documents or fewer are each cut in three; more are divided as wholes
# Given as a file, these are refused: they would be learned with all that they hold besides text
OTHER_FORMATS = (
    *(".parquet", ".arrow", ".xls", ".xlsx", ".ods", ".pdf", ".doc", ".docx", ".odt", ".tar", ".tgz", ".bz2"),
    *(".xz", ".7z", ".npz", ".npy", ".pt", ".bin", ".safetensors"),
)
File = Path | Member


class Document(NamedTuple):
    """Unit that is never split across train, val and test, except where there are few (see `divide`).

    id: the same on every machine.
    tokens: (l,), integers.
    learned: bool (l,), the tokens that a model learns to predict; None for all.
    opened: whether the separator between documents comes before it.
    """

    id: str
    tokens: np.ndarray
    learned: np.ndarray | None = None
    opened: bool = True


def find_files(path: str | Path, kind: str, what: str) -> list[tuple[str, File]]:
    """(id, file) of a file, or of every example of a kind in a folder or a .zip; ids are relative to the folder that
    holds all of it.

    `left_out` says which files are none.

    Args:
        kind: of `KINDS`. what: is looked for, in words.
    Raises:
        DataError: there is none, something in it is no file, or the file is of another format.
    """
    path, endings = Path(path).expanduser(), KINDS[kind].suffixes
    listed = open_files(path)
    if path.is_file() and listed is None:
        refused = OTHER_FORMATS if kind == "text" else (*OTHER_FORMATS, *TABLES)
        if path.name.lower().endswith(refused) and not path.name.lower().endswith(endings):
            raise DataError(f"{path}: a {path.suffix} is not read as it is; expected {what}")
        return [(path.name, path)]
    if listed is None:
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder{did_you_mean(path.name, near)}; expected {what}")
    found = sort_files(listed, kind, classed=False)
    if found.problems:
        raise DataError(f"{path}: {count(len(found.problems), 'problem')} in the data", found.problems)
    if not found.examples:
        there = some(sorted({Path(id).suffix or id for id in listed.files})) or "nothing"
        raise DataError(f"{path}: no {', '.join(endings)} in it, found {there}; expected {what}")
    return [(example.name.removeprefix(found.prefix), listed.at(example.name)) for example in found.examples]


def left_out(path: str | Path, kind: str) -> list[str]:
    """What `find_files` leaves out of a folder, in words: system files, notes and licences, other formats."""
    listed = open_files(path)
    if listed is None:
        return []
    found = sort_files(listed, kind, classed=False)
    return [*found.warnings, *found.notes]


def read_texts(
    path: str | Path,
    documents: str = "file",
    files: list[tuple[str, File]] | None = None,
    encoding: str = UTF8,
) -> list[tuple[str, str]]:
    """(id, text) of every document in a file or in a folder of them: plain text, or JSON lines with a field "text".

    Args:
        path: or "pydoc", the 79 chapters and more of prose that come with every Python.
        documents: "file", or "line" where every line that is not blank is a document. A line of JSON always is one.
        files: (id, file) of those that are read; all below the path where they are not given.
        encoding: a codec's name, such as latin-1, where the files are not UTF-8.
    Raises:
        DataError: with every file that is empty, in another encoding, or a table or JSON instead of text.
    """
    if str(path) == PYDOC:
        from pydoc_data.topics import topics

        return sorted(topics.items())
    found: list[tuple[str, str]] = []
    problems = []
    for id, file in files or find_files(path, "text", "a text, a folder of them, or pydoc"):
        try:
            found += documents_of(id, decode_text(file.read_bytes(), encoding), documents)
        except OSError as error:
            problems.append(f"{id}: cannot be read ({error.strerror})")
        except ValueError as error:
            problems.append(f"{id}: {error}")
    if problems:
        raise DataError(f"{path}: {len(problems)} of the files cannot be used", problems)
    return found


def documents_of(id: str, text: str, documents: str) -> list[tuple[str, str]]:
    """The documents in a file's text, see `read_texts`.

    Raises:
        ValueError: it holds none, or is no text.
    """
    if not text.strip():
        raise ValueError("holds no text; remove it")
    suffix = Path(id).suffix.lower()
    if suffix in (".csv", ".tsv"):
        raise ValueError(f'a table is no text; write its texts as lines of JSON, {{"{FIELD}": "..."}}, or into files')
    lines = [(f"{id}:{i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if suffix == ".jsonl" or (_is_json(lines[0][1], dict) and _is_json(lines[-1][1], dict)):
        found = []
        for name, line in lines:
            where = f"line {name.rpartition(':')[2]}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error})") from None
            if not isinstance(row, dict) or not isinstance(row.get(FIELD), str):
                keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                chat = isinstance(row, dict) and {"messages", "prompt"} & row.keys()
                advice = "; chats are data.kind=chat" if chat else ""
                raise ValueError(f'{where}: expected {{"{FIELD}": "..."}}, got {keys or "no keys"}{advice}')
            if not row[FIELD].strip():
                raise ValueError(f"{where}: holds no text; remove it")
            found.append((name, row[FIELD]))
        return found
    if suffix == ".json" or _is_json(text, (dict, list)):
        raise ValueError(f'JSON is no text; write its texts as lines of JSON, {{"{FIELD}": "..."}}, or into files')
    return lines if documents == "line" else [(id, text)]


def _is_json(text: str, kinds: type | tuple[type, ...]) -> bool:
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        return isinstance(json.loads(text), kinds)
    except (ValueError, RecursionError):
        return False


def divide(
    documents: list[Document],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    characters: bool = False,
    digests: Sequence[bytes] | None = None,
) -> tuple[dict[str, list[Document]], str]:
    """Documents by part, and how that was done, in words.

    Files or folders that are named after parts are these; one that is missing is taken from train. Else a few documents
    are each cut in three stretches, in this order; many are divided as wholes, by the hashes of their ids.

    Args:
        characters: tokens are bytes of UTF-8, and no character is cut in two.
        digests: of the documents; those with equal ones are held out together. None: each by itself.
    Raises:
        DataError: there is too little for three parts.
    """
    named = parts_of(document.id.split(":")[0] for document in documents)
    parts: dict[str, list[Document]] = {"train": [], "val": [], "test": []}
    if "train" in named and not {"val", "test"}.isdisjoint(named):
        for document, name in zip(documents, named, strict=True):
            parts[name or "train"].append(document)
        missing = next((name for name, held in parts.items() if not held), None)
        if missing is None:
            return parts, "the parts are those that files or folders are named after"
        fraction, by, given = {
            "test": (test_fraction, 0, "train and val"), "val": (val_fraction, seed, "train and test")
        }[missing]  # fmt: skip
        if digests is not None:
            digests = [key for key, name in zip(digests, named, strict=True) if (name or "train") == "train"]
        cut, _ = divide(
            parts["train"], val_fraction=fraction, test_fraction=0.0, seed=by, characters=characters, digests=digests
        )
        parts |= {"train": cut["train"], missing: cut["val"]}
        return parts, f"{given} are so named, {missing} was taken from train"
    if len(documents) > FEW:
        held = _wholes([document.id for document in documents], val_fraction, test_fraction, seed, digests)
        for document, name in zip(documents, held, strict=True):
            parts[name].append(document)
        return parts, f"of {len(documents):,} documents whole ones are held out, by the hashes of their names"
    for document in documents:
        for name, stretch in _stretches(document, val_fraction, test_fraction, characters).items():
            if len(stretch.tokens):
                parts[name].append(stretch)
    empty = [name for name, held in parts.items() if not held and (name != "test" or test_fraction)]
    if empty:
        raise DataError(f"too little for three parts, {', '.join(empty)} would be empty; give more text")
    return parts, "every document was cut in three stretches: train, val, test"


def _wholes(
    ids: list[str], val_fraction: float, test_fraction: float, seed: int, digests: Sequence[bytes] | None
) -> list[str]:
    """The part of every document, by the hash of its id; those with equal digests are in one."""
    groups = ids if digests is None else together(ids, digests)
    test: set[int] = set()
    if test_fraction:
        test = held_out(ids, [0] * len(ids), groups, fraction=test_fraction, seed=seed, part="test")
    rest = [i for i in range(len(ids)) if i not in test]
    names, own = [ids[i] for i in rest], [groups[i] for i in rest]
    share = val_fraction / (1 - test_fraction)
    val = {rest[i] for i in held_out(names, [0] * len(rest), own, fraction=share, seed=seed, part="val")}
    return ["test" if i in test else "val" if i in val else "train" for i in range(len(ids))]


def together(ids: Sequence[str], digests: Sequence[bytes]) -> list[str]:
    """For every document an id that its copies share, whatever the order of the documents."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    first = first_copies([ids[i] for i in order], [digests[i] for i in order])
    names = dict(zip(order, first, strict=True))
    return [names[i] for i in range(len(ids))]


def _stretches(document: Document, val_fraction: float, test_fraction: float, characters: bool) -> dict[str, Document]:
    tokens, count = document.tokens, len(document.tokens)
    second = count - int(count * test_fraction)
    cuts = [second - int(count * val_fraction), second]
    for i in range(2 if characters else 0):  # to where the character begins that a byte of UTF-8 belongs to
        while 0 < cuts[i] < count and tokens[cuts[i]] & 0xC0 == 0x80:
            cuts[i] -= 1
    first, second = cuts
    ranges = {"train": slice(0, first), "val": slice(first, second), "test": slice(second, count)}
    return {
        name: Document(
            f"{document.id}[{where.start}:{where.stop}]",
            document.tokens[where],
            None if document.learned is None else document.learned[where],
            document.opened,
        )
        for name, where in ranges.items()
    }
