"""Exact copies across parts, and one rule for the encoding of text files."""

import numpy as np
import pytest

from ssmlab.data.copies import copies_across_parts, describe_copies, digest, first_copies
from ssmlab.data.text.encoding import as_utf8, decode_text


def test_texts_are_equal_by_their_words():
    assert digest("A fine  film.\r\n") == digest("a fine film.") != digest("a fine films.")
    assert digest("caf\u00e9") == digest("cafe\u0301")
    assert digest(np.array([1, 2], np.uint8)) == digest(np.array([1, 2], np.uint8))
    assert digest(np.array([1, 2], np.uint8)) != digest(np.array([1, 2], np.int32))
    assert digest(np.zeros((2, 3))) != digest(np.zeros((3, 2)))


def test_only_copies_in_several_parts_are_reported():
    items = [(part, id, digest(text)) for part, id, text in (
        ("train", "1", "x"), ("train", "2", "x"), ("train", "3", "y"), ("test", "4", "Y"), ("val", "5", "z"),
    )]  # fmt: skip
    groups = copies_across_parts(items)
    assert groups == [[("train", "3"), ("test", "4")]]
    assert describe_copies(groups, "text") == [
        "1 text in more than one part, which flatters validation or test (train: 3 = test: 4)"
    ]
    assert describe_copies([], "text") == []
    assert first_copies(["1", "2", "3"], [digest(text) for text in "xyx"]) == ["1", "2", "1"]


@pytest.mark.parametrize("content", [b"a\nb\n", b"a\r\nb\r\n", b"a\rb\r", b"\xef\xbb\xbfa\nb\n"])
def test_one_text_however_it_was_saved(content):
    assert decode_text(content) == "a\nb\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_with_its_mark_is_read(encoding):
    mark = b"\xfe\xff" if encoding.endswith("be") else b""
    assert decode_text(mark + "ä;ö\r\n".encode(encoding)) == "ä;ö\n"
    assert as_utf8(mark + "ACGT".encode(encoding)) == b"ACGT"


def test_what_is_no_text_says_where():
    with pytest.raises(ValueError, match="not UTF-8 at byte 3; convert it"):
        decode_text(b"caf\xe9")
    with pytest.raises(ValueError, match="not UTF-8 at byte 6"):
        decode_text(b"\xef\xbb\xbfcaf\xe9")
    with pytest.raises(ValueError, match="begins as UTF-16 and is not"):
        decode_text(b"\xff\xfea")
    with pytest.raises(ValueError, match="zero bytes: no text, or UTF-16 without its mark"):
        decode_text("a film".encode("utf-16-le"))
