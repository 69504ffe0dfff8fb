"""Bases from FASTA files, plain or compressed by gzip. numpy only."""

import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.files import gunzip
from ssmlab.data.text.documents import Document, File, find_files
from ssmlab.data.text.encoding import as_utf8

BASES = "ACGTN"  # numbers of the tokens, in this order; N stands for any base that is not known
LEAST = 256 << 20  # bytes that a compressed file may always become; bases compress four to five times
_CODES = np.full(256, 255, np.uint8)
for _letters, _code in (("Aa", 0), ("Cc", 1), ("Gg", 2), ("TtUu", 3), ("NnRrYySsWwKkMmBbDdHhVv-", 4)):
    _CODES[[ord(letter) for letter in _letters]] = _code


def read_fasta(path: str | Path, files: list[tuple[str, File]] | None = None) -> list[Document]:
    """Every record of a FASTA file, or of all in a folder; ids are "<file>:<name>".

    Small letters, which mark repeats, count as capitals, U as T, and letters for several bases as N.

    Args:
        files: (id, file) of those that are read; all below the path where they are not given.
    Raises:
        DataError: with every file that is no FASTA, by file name and line.
    """
    documents, problems = [], []
    for id, file in files or find_files(path, "dna", "a FASTA file or a folder of them"):
        try:
            documents += parse_fasta(id, unpacked(file.read_bytes()))
        except (OSError, EOFError) as error:
            problems.append(f"{id}: cannot be read ({error})")
        except ValueError as error:
            problems.append(f"{id}: {error}")
    if problems:
        raise DataError(f"{path}: {len(problems)} of the files cannot be used", problems)
    return documents


def parse_fasta(id: str, content: bytes) -> list[Document]:
    """The records of a file's content.

    Raises:
        ValueError: it has no header, a record without bases, or something that is no base.
    """
    records: list[tuple[str, list[np.ndarray]]] = []
    for number, line in enumerate(as_utf8(content).splitlines(), 1):
        line = line.strip()
        if line.startswith(b">"):
            words = line[1:].decode("utf-8", "replace").split()
            records.append((words[0] if words else str(len(records) + 1), []))
        elif line and not line.startswith(b";"):
            if not records:
                got = line[:20].decode("utf-8", "replace")
                raise ValueError(
                    f"line {number}: a FASTA file begins with >name, and bases follow in the next lines; got {got!r}"
                )
            codes = _CODES[np.frombuffer(line, np.uint8)]
            if (codes == 255).any():
                wrong = chr(line[int((codes == 255).argmax())])
                raise ValueError(f"line {number}: {wrong!r} is no base; expected {BASES} or a letter for several bases")
            records[-1][1].append(codes)
    empty = [name for name, lines in records if not lines]
    if empty or not records:
        raise ValueError(f"record {empty[0]} has no bases; remove it" if empty else "has no records")
    names = _told_apart([name for name, _ in records])
    return [Document(f"{id}:{name}", np.concatenate(lines)) for name, (_, lines) in zip(names, records, strict=True)]


def _told_apart(names: list[str]) -> list[str]:
    """Names of which no two are the same, since parts are chosen by them: the second `gene` is `gene#2`."""
    seen: Counter = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found


def record_names(content: bytes) -> list[str]:
    """The names of the records of a file's content, as `parse_fasta` gives them.

    Raises:
        ValueError: its encoding cannot be told.
    """
    heads = [line.strip()[1:] for line in as_utf8(content).splitlines() if line.strip().startswith(b">")]
    words = [head.decode("utf-8", "replace").split() for head in heads]
    return _told_apart([found[0] if found else str(number) for number, found in enumerate(words, 1)])


def reverse_complement(bases: np.ndarray) -> np.ndarray:
    """The other strand, read in its own direction."""
    return np.array([3, 2, 1, 0, 4], bases.dtype)[bases[::-1]]


def unpacked(content: bytes) -> bytes:
    """What a file holds, compressed by gzip or not.

    Raises:
        ValueError: it is damaged, or bases do not become so many when they are unpacked.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gunzip(content, LEAST)
    except zlib.error as error:
        raise ValueError(f"is damaged ({error}); copy it again") from error
