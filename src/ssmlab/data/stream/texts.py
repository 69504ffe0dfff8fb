"""Sources of rows of tokens: texts and JSON lines that are read piece by piece, and arrays of tokens."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.text.documents import Document, documents_of
from ssmlab.data.text.encoding import UTF8, decode_text
from ssmlab.data.text.packing import Rows, pack

MOST_PIECES, FEW_PIECES = 1 << 16, 1 << 6  # of all files
PIECE, LEAST_PIECE = 1 << 15, 1 << 10  # bytes
LONGEST_LINE = 1 << 20  # bytes of text; a longer line is cut where a piece ends
LONGEST_ROW = 1 << 26  # the same of JSON, which is not cut
ARRAYS = (".npy", ".bin")


class Piece(NamedTuple):
    """Part of a file: bytes of a text, which belong to the piece where their line begins, or rows of an array."""

    file: int
    begin: int
    end: int


def pieces_of(sizes: list[int], usual: int, least: int) -> list[Piece]:
    """Files of these sizes in pieces of the usual size; of `least` at least where there would be few, and larger ones
    where there would be more than about `MOST_PIECES`."""
    whole = sum(sizes)
    size = max(min(usual, whole // FEW_PIECES), least, whole // MOST_PIECES)
    return [
        Piece(file, begin, min(begin + size, whole))
        for file, whole in enumerate(sizes)
        for begin in range(0, whole, size)
    ]


class TextRows:
    """Rows of tokens of files of text or JSON lines; a shard is a piece of a file.

    Documents do not go on from one piece to the next, so that a row is known by its piece and its number there; the
    last row of a piece is filled up.

    Args:
        files: (name, path).
        encode: tokens of a text, (l,).
        length, separator_id: of rows, as `pack` takes them.
        documents: "file" or "line", as `read_texts` takes it.
        encoding: of the files; one in which a line feed is the byte 10.
    """

    def __init__(
        self,
        files: list[tuple[str, Path]],
        encode: Callable[[str], np.ndarray],
        length: int,
        separator_id: int,
        documents: str = "file",
        encoding: str = UTF8,
    ):
        if "\n".encode(encoding) != b"\n":
            raise DataError(
                f"texts in {encoding} cannot be read in pieces; convert them to UTF-8, or data.stream=false"
            )
        self.files, self.encode, self.length, self.separator_id = files, encode, length, separator_id
        self.documents, self.encoding = documents, encoding
        self.sizes = [path.stat().st_size for _, path in files]
        self.pieces = pieces_of(self.sizes, PIECE, LEAST_PIECE)
        self.encoded_bytes = 0  # of all text so far, as UTF-8

    def __len__(self) -> int:
        return len(self.pieces)

    def rows(self, shard: int) -> Rows | None:
        """All rows of a piece; None where no document begins in it."""
        texts = self.texts(shard)
        return pack(texts, self.length, self.separator_id) if texts else None

    def read(self, shard: int) -> Iterator[Rows]:
        """The rows of a piece, each as `Rows` of one."""
        rows = self.rows(shard)
        for i in range(0 if rows is None else len(rows)):
            yield one_row(rows, i)  # type: ignore[arg-type]

    def texts(self, shard: int) -> list[Document]:
        """The documents, or stretches of them, of a piece.

        Raises:
            DataError: it is no text in this encoding, or a line is no JSON of the expected form.
        """
        file, begin, end = self.pieces[shard]
        name, path = self.files[file]
        lines = path.suffix.lower() == ".jsonl"
        try:
            with open(path, "rb") as opened:
                begin, end = (self._cut(opened, place, self.sizes[file], lines) for place in (begin, end))
                opened.seek(begin)
                text = decode_text(opened.read(end - begin), self.encoding)
            if not text.strip():
                return []
            found = documents_of(name, text, self.documents)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}, from byte {begin:,} on: {error}") from error
        whole = lines or self.documents == "line"
        documents = []
        for id, text in found:
            tokens = self.encode(text)
            self.encoded_bytes += len(text.encode("utf-8"))
            first, last = whole or begin == 0, whole or end == self.sizes[file]
            # the stretch of a text that goes on in the next piece is followed by no separator
            documents.append(Document(id, tokens, None if last else np.ones(len(tokens), bool), opened=first))
        return documents

    def _cut(self, opened, place: int, size: int, lines: bool) -> int:
        """Where the first line begins that begins at `place` or after it; between characters where lines are long."""
        if place in (0, size):
            return place
        longest, looked = LONGEST_ROW if lines else LONGEST_LINE, place - 1
        opened.seek(looked)
        while looked - place < longest and (block := opened.read(1 << 13)):
            if (at := block.find(b"\n")) >= 0:
                return looked + at + 1
            looked += len(block)
        if looked >= size:
            return size
        if lines:
            raise ValueError(f"a line of more than {longest >> 20} MiB; shorten it")
        if self.encoding == UTF8:
            opened.seek(place)
            place += next((i for i, byte in enumerate(opened.read(4)) if byte & 0xC0 != 0x80), 0)
        return place


class TokenRows:
    """Rows of an array of tokens in files: .npy of one axis, or .bin, plain unsigned numbers, 16 bits wide unless the
    vocabulary needs 32; a shard is a piece of a file. They are mapped, not read into memory.

    Args:
        files: (name, path).
        vocab_size: tokens are below it.
        length, separator_id: of rows; a document ends with the separator.
    """

    def __init__(self, files: list[tuple[str, Path]], vocab_size: int, length: int, separator_id: int):
        self.files, self.vocab_size, self.length, self.separator_id = files, vocab_size, length, separator_id
        self.arrays = [self._mapped(path) for _, path in files]
        self.sizes = [len(array) for array in self.arrays]
        self.pieces = pieces_of([max(size - 1, 0) // length for size in self.sizes], max(1, PIECE // length), 1)

    def __len__(self) -> int:
        return len(self.pieces)

    def rows(self, shard: int) -> Rows | None:
        """All rows of a piece.

        Raises:
            DataError: a token is out of range.
        """
        file, begin, end = self.pieces[shard]
        at = np.arange(begin, end)[:, None] * self.length + np.arange(self.length + 1)
        first = begin * self.length
        near = np.asarray(self.arrays[file][first : end * self.length + 1])
        if int(near.max()) >= self.vocab_size or int(near.min()) < 0:
            where = first + int(np.argmax((near >= self.vocab_size) | (near < 0)))
            raise DataError(
                f"{self.files[file][1]}: token {int(near[where - first])} at {where:,}, and the vocabulary has "
                f"{self.vocab_size:,}; name their tokenizer (data.tokenizer)"
            )
        tokens = near[at - first].astype(np.int32)
        ends = tokens[:, :-1] == self.separator_id
        documents = np.cumsum(np.pad(ends, ((0, 0), (1, 0))), 1, dtype=np.int32)
        return Rows(tokens, documents, np.ones(tokens.shape, bool), np.ones(len(tokens), bool))

    def read(self, shard: int) -> Iterator[Rows]:
        """The rows of a piece, each as `Rows` of one."""
        rows = self.rows(shard)
        for i in range(len(rows)):  # type: ignore[arg-type]
            yield one_row(rows, i)  # type: ignore[arg-type]

    def _mapped(self, path: Path) -> np.ndarray:
        try:
            if path.suffix.lower() == ".npy":
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                array = np.memmap(path, np.uint16 if self.vocab_size <= 1 << 16 else np.uint32, "r")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: no array of tokens ({error})") from error
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"{path}: expected one axis of whole numbers, got {array.shape} of {array.dtype}")
        return array


def one_row(rows: Rows, i: int) -> Rows:
    """Row i alone, a copy that does not keep the others in memory."""
    where = slice(i, i + 1)
    return Rows(rows.tokens[where].copy(), rows.documents[where].copy(), rows.learned[where].copy(), rows.fresh[where])


def joined(rows: list[Rows]) -> Rows:
    """Rows of several pieces one after another; numbers of documents count within their own row."""
    columns = zip(*((row.tokens, row.documents, row.learned, row.fresh) for row in rows), strict=True)
    tokens, documents, learned, fresh = (np.concatenate(column) for column in columns)
    return Rows(tokens, documents, learned, fresh)
