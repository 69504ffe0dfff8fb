"""Rows of tokens: every token is asked for once, and nothing leaks from one document into another."""

import numpy as np
import pytest

from ssmlab.data.text.documents import Document
from ssmlab.data.text.packing import pack, pack_streams, pack_whole, stream

MARK = 99


def documents(*lengths):
    """Tokens that tell their document: number d has 10 d, 10 d + 1, ..."""
    return [Document(str(d), np.arange(10 * d, 10 * d + length)) for d, length in enumerate(lengths)]


def asked(rows):
    """(input token, its document, label, the label's document) of every place that is asked for."""
    labels = rows.labels()
    return [
        (rows.tokens[i, t], rows.documents[i, t], labels[i, t], rows.documents[i, t + 1])
        for i, t in zip(*np.nonzero(labels != -100), strict=True)
    ]


@pytest.mark.parametrize("length", [2, 3, 5, 8, 40])
@pytest.mark.parametrize("make", [pack, lambda d, n, m: pack_streams(d, n, m, 2)], ids=["pack", "streams"])
def test_every_token_is_asked_for_once_within_its_document(make, length):
    held = documents(4, 1, 7, 9)
    rows = make(held, length, MARK)
    assert rows.tokens.shape[1] == length + 1
    found = asked(rows)
    assert all(before == after for _, before, _, after in found), "a label is of its input's document"
    tokens = np.concatenate([document.tokens for document in held])
    labels = [label for _, _, label, _ in found]
    assert sorted(label for label in labels if label != MARK) == sorted(tokens)
    assert labels.count(MARK) == len(held), "and every document's end once"


def test_a_first_token_is_told_from_the_mark_alone():
    tokens, numbers, learned = stream(documents(3, 2), MARK)
    assert tokens.tolist() == [MARK, 0, 1, 2, MARK, MARK, 10, 11, MARK]
    assert numbers.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1] and not learned[0] and not learned[5]


def test_lanes_continue_one_another_and_say_where_states_begin():
    held = documents(9, 9, 9)
    rows = pack_streams(held, 4, MARK, 2)
    assert len(rows) % 2 == 0 and rows.fresh[:2].all()
    for row in range(2, len(rows)):
        assert rows.tokens[row, 0] == rows.tokens[row - 2, -1], (
            "a row begins with the last token of the one it continues"
        )
        begins = rows.documents[row, 0] != rows.documents[row - 2, -2]
        assert rows.fresh[row] == begins


def test_chats_lie_in_one_row_each_and_long_ones_lose_their_end():
    learned = np.array([False, False, True, True])
    held = [Document(str(i), np.arange(4) + 10 * i, learned) for i in range(5)]
    held.append(Document("long", np.arange(50, 80), np.ones(30, bool)))
    rows, cut = pack_whole(held, 11, MARK)
    assert cut == 1 and rows.tokens.shape[1] == 12
    for i in range(5):
        places = np.nonzero(rows.tokens == 10 * i)
        assert len(places[0]) == 1
        row, column = places[0][0], places[1][0]
        assert rows.tokens[row, column : column + 4].tolist() == held[i].tokens.tolist()
        assert rows.labels()[row, column + 1] == 10 * i + 2 and rows.labels()[row, column] == -100
    assert (rows.labels() != -100).sum() == 5 * 2 + 11


def test_few_rows_come_from_all_over_but_not_out_of_lanes():
    text = [Document("a", np.arange(400, dtype=np.int32) % 200)]
    rows = pack(text, 10, 255)
    few = rows.few(4)
    assert few.tokens[:, 1].tolist() == [rows.tokens[i, 1] for i in (0, 13, 27, len(rows) - 1)]
    streams = pack_streams(text, 10, 255, 2)
    assert (streams.few(4).tokens == streams.tokens[:4]).all() and streams.few(4).streams == 2
