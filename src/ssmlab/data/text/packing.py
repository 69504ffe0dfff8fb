"""Documents of any length in rows of one length, so that nothing leaks from one document into another. numpy only."""

from dataclasses import dataclass

import numpy as np

from ssmlab.data.text.documents import Document


@dataclass(frozen=True)
class Rows:
    """What a language model is trained on: the first l tokens of a row are read, the last l are predicted.

    Attributes:
        tokens: (n, l + 1), integers.
        documents: (n, l + 1) int32, the number of the document that a token belongs to.
        learned: (n, l + 1) bool; False for what is read only, such as prompts and filling.
        fresh: (n,) bool, where a row's state begins anew; for rows that continue others.
        streams: so many rows are a step; the next so many continue them. 0: every row is independent.
    """

    tokens: np.ndarray
    documents: np.ndarray
    learned: np.ndarray
    fresh: np.ndarray
    streams: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def few(self, count: int) -> "Rows":
        """So many rows from all over the part, or its first ones where a row continues another."""
        kept = slice(count) if self.streams else np.linspace(0, len(self) - 1, count).round().astype(int)
        return Rows(self.tokens[kept], self.documents[kept], self.learned[kept], self.fresh[kept], self.streams)

    def labels(self, rows=slice(None)) -> np.ndarray:
        """(n, l) int64: the next token, or -100 where it is not learned or belongs to another document."""
        tokens, documents = self.tokens[rows], self.documents[rows]
        learned = self.learned[rows][:, 1:] & (documents[:, 1:] == documents[:, :-1])
        return np.where(learned, tokens[:, 1:].astype(np.int64), -100)


def stream(documents: list[Document], separator_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All documents one after another: tokens, numbers of documents, learned; each (t,).

    A document begins with the separator, from which its first token is predicted, and ends with it.
    """
    pieces, numbers, learned = [], [], []
    for number, document in enumerate(documents):
        own = np.ones(len(document.tokens), bool) if document.learned is None else document.learned
        # what is learned in part ends its answers with a separator of their own
        opening, closing = [separator_id] * document.opened, [separator_id] * (document.learned is None)
        pieces += [np.array(opening, np.int32), document.tokens.astype(np.int32), np.array(closing, np.int32)]
        learned += [np.zeros(len(opening), bool), own, np.ones(len(closing), bool)]
        numbers.append(np.full(len(document.tokens) + len(opening) + len(closing), number, np.int32))
    return np.concatenate(pieces), np.concatenate(numbers), np.concatenate(learned)


def pack(documents: list[Document], length: int, separator_id: int, stride: int = 0) -> Rows:
    """Rows of `length + 1` tokens; a row begins with the last token of the one before, so that each is predicted once.

    Args:
        separator_id: the token between documents, and what fills the last row.
        stride: where rows overlap, how far the next one is; the tokens that two rows have are read again, but
            predicted only in the first. 0: `length`, no overlap.
    """
    return _windows(*stream(documents, separator_id), length, separator_id, stride or length)


def repack(rows: Rows, length: int, separator_id: int, stride: int = 0) -> Rows:
    """The tokens of rows that `pack` made without an overlap, in rows of another length."""
    tokens, documents, learned = (
        np.append(each[:, :-1], each[-1, -1]) for each in (rows.tokens, rows.documents, rows.learned)
    )
    return _windows(tokens, documents, learned, length, separator_id, stride or length)


def _windows(tokens, numbers, learned, length: int, separator_id: int, stride: int) -> Rows:
    n = max(1, 1 - (length - (len(tokens) - 1)) // stride)
    tokens, numbers, learned = _filled(tokens, numbers, learned, (n - 1) * stride + length + 1, separator_id)
    at = np.arange(n)[:, None] * stride + np.arange(length + 1)
    counted = learned[at]
    if stride < length:
        counted[1:, : length - stride + 1] = False
    return Rows(tokens[at], numbers[at], counted, np.ones(n, bool))


def pack_alone(documents: list[Document], length: int, separator_id: int) -> Rows:
    """As `pack`, with one document a row, for layers that cannot separate several; a long one fills several rows."""
    rows = [pack([document], length, separator_id) for document in documents]
    numbers = [np.full(row.documents.shape, i, np.int32) for i, row in enumerate(rows)]
    parts = zip(*((row.tokens, row.learned, row.fresh) for row in rows), strict=True)
    tokens, learned, fresh = (np.concatenate(part) for part in parts)
    return Rows(tokens, np.concatenate(numbers), learned, fresh)


def pack_whole(documents: list[Document], length: int, separator_id: int, *, alone: bool = False) -> tuple[Rows, int]:
    """As `pack`, for documents that make no sense in pieces: each is in one row, the first that has room for it.

    Args:
        alone: each in a row of its own.
    Returns:
        The rows, and how many documents were cut at their end because they are longer than a row.
    """
    size = length + 1
    rows: list[list[tuple[np.ndarray, np.ndarray]]] = []
    room: list[int] = []
    for document in documents:
        tokens, _, learned = stream([document], separator_id)
        count = min(len(tokens), size)
        place = None if alone else next((i for i, left in enumerate(room) if left >= count), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(size)
        rows[place].append((tokens[:size], learned[:size]))
        room[place] -= count
    tokens, numbers = (
        np.full((len(rows), size), separator_id, np.int32),
        np.full((len(rows), size), -1 + alone, np.int32),
    )
    learned = np.zeros((len(rows), size), bool)
    for i, row in enumerate(rows):
        begin = 0
        for number, (own, learn) in enumerate(row):
            where = slice(begin, begin + len(own))
            tokens[i, where], numbers[i, where], learned[i, where] = own, number, learn
            begin += len(own)
    cut = sum(len(stream([document], separator_id)[0]) > size for document in documents)
    return Rows(tokens, numbers, learned, np.ones(len(rows), bool)), cut


def pack_streams(documents: list[Document], length: int, separator_id: int, streams: int) -> Rows:
    """The same for states that go on: the text is cut into `streams` long stretches that are read side by side.

    Row s * streams + k is the s-th row of stretch k; it continues row (s - 1) * streams + k, unless it is `fresh`.
    """
    tokens, numbers, learned = stream(documents, separator_id)
    steps = max(1, -(-(len(tokens) - 1) // (streams * length)))
    tokens, numbers, learned = _filled(tokens, numbers, learned, streams * steps * length + 1, separator_id)
    start = (np.arange(steps)[:, None] * length + np.arange(streams) * steps * length).ravel()
    at = start[:, None] + np.arange(length + 1)
    first = np.append(True, numbers[1:] != numbers[:-1])
    fresh = first[start] | (np.arange(steps * streams) < streams)
    return Rows(tokens[at], numbers[at], learned[at], fresh, streams)


def _filled(tokens, numbers, learned, size, separator_id):
    """Filled to a size with marks that belong to no document and are not learned."""
    lack = size - len(tokens)
    return (
        np.append(tokens, np.full(lack, separator_id, tokens.dtype)),
        np.append(numbers, np.full(lack, numbers[-1] + 1, numbers.dtype)),
        np.append(learned, np.zeros(lack, bool)),
    )
