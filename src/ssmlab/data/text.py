"""Texts in files, and how any documents are divided into parts. numpy only."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlab.data.contents import did_you_mean, some
from ssmlab.data.files import FolderFiles
from ssmlab.data.splits import held_out
from ssmlab.errors import DataError

PYDOC = "pydoc"  # the chapters on the language that come with Python: English prose without a download
FEW = 20  # so many documents or fewer are each cut in three; more are divided as wholes
PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Document(NamedTuple):
    """Something that nothing leaks out of.

    id: the same on every machine.
    tokens: (l,), integers.
    learned: bool (l,), the tokens that a model is asked for; None for all.
    """

    id: str
    tokens: np.ndarray
    learned: np.ndarray | None = None


def find_files(path: str | Path, suffixes: Sequence[str], what: str) -> list[tuple[str, Path]]:
    """(id, file) of a file, or of every file below a folder whose name ends so; ids are relative to the folder.

    Args:
        what: is looked for, in words.
    Raises:
        DataError: there is none.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder{did_you_mean(path.name, near)}; expected {what}")
    listed = FolderFiles(path)
    found = [(id, path / real) for id, real in listed.files.items() if id.lower().endswith(tuple(suffixes))]
    if not found:
        there = some(sorted({Path(id).suffix or id for id in listed.files})) or "nothing"
        raise DataError(f"{path}: no {', '.join(suffixes)} in it, found {there}; expected {what}")
    return found


def read_texts(path: str | Path, documents: str = "file") -> list[tuple[str, str]]:
    """(id, text) of every document in a .txt file or in a folder of them.

    Args:
        path: or "pydoc", the 79 chapters and more of prose that come with every Python.
        documents: "file", or "line" where every line that is not blank is a document.
    Raises:
        DataError: with every file that is empty or is not UTF-8.
    """
    if str(path) == PYDOC:
        from pydoc_data.topics import topics

        return sorted(topics.items())
    found: list[tuple[str, str]] = []
    problems = []
    for id, file in find_files(path, (".txt",), "a .txt file, a folder of them, or pydoc"):
        try:
            text = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            problems.append(f"{id}: not UTF-8 at byte {error.start:,}; convert it, e.g. with iconv -t utf-8")
            continue
        except OSError as error:
            problems.append(f"{id}: cannot be read ({error.strerror})")
            continue
        lines = [(f"{id}:{i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        if not lines:
            problems.append(f"{id}: holds no text; remove it")
        found += lines if documents == "line" else [(id, text)]
    if problems:
        raise DataError(f"{path}: {len(problems)} of the files cannot be used", problems)
    return found


def divide(
    documents: list[Document], *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[dict[str, list[Document]], str]:
    """Documents by part, and how that was done, in words.

    Files or folders that are named train, val (valid, validation) and test are the parts. Else a few documents are each
    cut in three stretches, in this order; many are divided as wholes, by the hashes of their ids.

    Raises:
        DataError: there is too little for three parts.
    """
    named = [_part_of(document.id) for document in documents]
    if {"train", "test"} <= set(named):
        parts: dict[str, list[Document]] = {"train": [], "val": [], "test": []}
        for document, name in zip(documents, named, strict=True):
            parts[name or "train"].append(document)
        if parts["val"]:
            return parts, "the parts are those that files or folders are named after"
        cut, _ = divide(parts["train"], val_fraction=val_fraction, test_fraction=0.0, seed=seed)
        return cut | {"test": parts["test"]}, "train and test are so named, val was taken from train"
    if len(documents) > FEW:
        ids = [document.id for document in documents]
        test = held_out(ids, [0] * len(ids), fraction=test_fraction, seed=seed, part="test") if test_fraction else set()
        rest = [i for i in range(len(ids)) if i not in test]
        share = val_fraction / (1 - test_fraction)
        val = {
            rest[i] for i in held_out([ids[i] for i in rest], [0] * len(rest), fraction=share, seed=seed, part="val")
        }
        parts = {"train": [], "val": [], "test": []}
        for i, document in enumerate(documents):
            parts["test" if i in test else "val" if i in val else "train"].append(document)
        return parts, f"of {len(documents):,} documents whole ones are held out, by the hashes of their names"
    parts = {"train": [], "val": [], "test": []}
    for document in documents:
        for name, stretch in _stretches(document, val_fraction, test_fraction).items():
            if len(stretch.tokens):
                parts[name].append(stretch)
    empty = [name for name, held in parts.items() if not held and (name != "test" or test_fraction)]
    if empty:
        raise DataError(f"too little for three parts, {', '.join(empty)} would be empty; give more text")
    return parts, "every document was cut in three stretches: train, val, test"


def _stretches(document: Document, val_fraction: float, test_fraction: float) -> dict[str, Document]:
    count = len(document.tokens)
    second = count - int(count * test_fraction)
    first = second - int(count * val_fraction)
    ranges = {"train": slice(0, first), "val": slice(first, second), "test": slice(second, count)}
    return {
        name: Document(
            f"{document.id}[{where.start}:{where.stop}]",
            document.tokens[where],
            None if document.learned is None else document.learned[where],
        )
        for name, where in ranges.items()
    }


def _part_of(id: str) -> str | None:
    names = [Path(part).stem.lower() for part in Path(id.split(":")[0]).parts]
    return next((PART_NAMES[name] for name in names if name in PART_NAMES), None)
