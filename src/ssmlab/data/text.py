"""Texts in files, and how any documents are divided into parts. numpy only."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlab.data.contents import did_you_mean, some
from ssmlab.data.encoding import decode_text
from ssmlab.data.files import FolderFiles
from ssmlab.data.kinds import KINDS
from ssmlab.data.parts import parts_of, sort_files
from ssmlab.data.splits import held_out
from ssmlab.errors import DataError

PYDOC = "pydoc"  # the chapters on the language that come with Python: English prose without a download
FEW = 20  # so many documents or fewer are each cut in three; more are divided as wholes
# Given as a file, these are refused where they are not what is read: they would be learned with their braces and commas
OTHER_FORMATS = (
    *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xls", ".xlsx", ".ods", ".xml"),
    *(".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".npz", ".npy", ".pt", ".bin", ".safetensors"),
)


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
    """(id, file) of a file, or of every example below a folder whose name ends so; ids are relative to the folder.

    `left_out` says which files are none.

    Args:
        what: is looked for, in words.
    Raises:
        DataError: there is none, or the file is of another format.
    """
    path = Path(path).expanduser()
    endings = tuple(suffixes)
    if path.is_file():
        if path.name.lower().endswith(OTHER_FORMATS) and not path.name.lower().endswith(endings):
            raise DataError(f"{path}: a {path.suffix} is not read as it is; expected {what}")
        return [(path.name, path)]
    if not path.is_dir():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder{did_you_mean(path.name, near)}; expected {what}")
    listed = FolderFiles(path)
    found = sort_files(listed, _kind_of(endings), classed=False, suffixes=endings)
    if not found.examples:
        there = some(sorted({Path(id).suffix or id for id in listed.files})) or "nothing"
        raise DataError(f"{path}: no {', '.join(endings)} in it, found {there}; expected {what}")
    return [(example.name, path / listed.files[example.name]) for example in found.examples]


def left_out(path: str | Path, suffixes: Sequence[str]) -> list[str]:
    """What `find_files` leaves out of a folder, in words: system files, notes and licences, other formats."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return []
    found = sort_files(FolderFiles(path), _kind_of(tuple(suffixes)), classed=False, suffixes=tuple(suffixes))
    return [*found.warnings, *found.notes]


def _kind_of(endings):
    return next((kind for kind, rule in KINDS.items() if set(rule.suffixes) & set(endings)), "text")


def read_texts(
    path: str | Path, documents: str = "file", files: list[tuple[str, Path]] | None = None
) -> list[tuple[str, str]]:
    """(id, text) of every document in a .txt file or in a folder of them.

    Args:
        path: or "pydoc", the 79 chapters and more of prose that come with every Python.
        documents: "file", or "line" where every line that is not blank is a document.
        files: (id, file) of those that are read; all below the path where they are not given.
    Raises:
        DataError: with every file that is empty or is not UTF-8.
    """
    if str(path) == PYDOC:
        from pydoc_data.topics import topics

        return sorted(topics.items())
    found: list[tuple[str, str]] = []
    problems = []
    for id, file in files or find_files(path, (".txt",), "a .txt file, a folder of them, or pydoc"):
        try:
            text = decode_text(file.read_bytes())
        except ValueError as error:
            problems.append(f"{id}: {error}")
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

    Files or folders that are named after parts are these; one that is missing is taken from train. Else a few documents
    are each cut in three stretches, in this order; many are divided as wholes, by the hashes of their ids.

    Raises:
        DataError: there is too little for three parts.
    """
    named = parts_of(document.id.split(":")[0] for document in documents)
    if "train" in named and not {"val", "test"}.isdisjoint(named):
        parts: dict[str, list[Document]] = {"train": [], "val": [], "test": []}
        for document, name in zip(documents, named, strict=True):
            parts[name or "train"].append(document)
        for missing, fraction, by in (("test", test_fraction, 0), ("val", val_fraction, seed)):
            if not parts[missing]:
                cut, _ = divide(parts["train"], val_fraction=fraction, test_fraction=0.0, seed=by)
                parts |= {"train": cut["train"], missing: cut["val"]}
                given = "train and test" if missing == "val" else "train and val"
                return parts, f"{given} are so named, {missing} was taken from train"
        return parts, "the parts are those that files or folders are named after"
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
