"""The restricted reader of pickles: what it reads, and what it refuses before anything is run."""

import os
import pickle
import pickletools
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from ssmlab.data.unpickle import _INSTRUCTIONS, UnreadablePickle, read_pickle


def python2(pixels: np.ndarray, **others: bytes) -> bytes:
    """A dict {"data": array, ...} in the very bytes that Python 2 and numpy 1 wrote (CIFAR's files)."""
    content = pixels.tobytes()
    body = b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    body += b"(K\x01(" + b"".join(b"J" + struct.pack("<i", n) for n in pixels.shape) + b"t"
    body += b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    body += b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    body += b"".join(b"U" + bytes([len(key)]) + key.encode() + value for key, value in others.items())
    return body + b"u."


def refusal(data):
    with pytest.raises(UnreadablePickle) as caught:
        read_pickle(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_python_3(protocol):
    value = {
        "whole": np.arange(-6, 6, dtype=np.int16).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4)),
        "real": np.linspace(0, 1, 5),
        "big": np.arange(3, dtype=">i4"),
        "labels": [0, 1, -7, 2**70],
        "names": ["tench", "café"],
        "raw": b"\x00\xff",
        "inside": {"a": (1, 2.5, None, True)},
    }
    found = read_pickle(pickle.dumps(value, protocol))
    for key, expected in value.items():
        if isinstance(expected, np.ndarray):
            assert found[key].dtype == expected.dtype and np.array_equal(found[key], expected), key
        else:
            assert found[key] == expected, key


def test_bytes_as_python_2_wrote_them():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    found = read_pickle(python2(pixels, labels=b"](K\x03K\x09e", name=b"U\x05apple"))
    assert np.array_equal(found["data"], pixels) and found["data"].dtype == np.uint8
    assert found["labels"] == [3, 9] and found["name"] == "apple"


def test_keys_that_are_bytes_become_text():
    assert read_pickle(pickle.dumps({b"labels": [1]})) == {"labels": [1]}


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch '{}'", "system"),
        (eval, "open({!r}, 'w')", "eval"),
        (Path.touch, Path("{}"), "touch|getattr"),
        (np.zeros, (3,), "zeros"),
    ],
)
def test_other_names_are_refused_and_nothing_is_run(tmp_path, protocol, function, argument, name):
    mark = tmp_path / "was here"
    if isinstance(argument, (str, Path)):
        argument = type(argument)(str(argument).format(str(mark)))
    reason = refusal(pickle.dumps({"data": Calls(function, argument)}, protocol))
    assert re.search(rf"^refused: asks for [\w.]+\.({name}), .*nothing was run$", reason)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"\x80\x02(S'x'\ni__main__\nA\n.", "the instruction INST"),
        (b"\x80\x02(cnumpy\nndarray\no.", "the instruction OBJ"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "the instruction NEWOBJ"),
        (b"\x80\x02U\x01xQ.", "the instruction BINPERSID"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "memory for 2,147,483,647 objects"),
        (b"\x80\x02cnumpy\nndarray\n}U\x01xU\x01yssb.", "no pickle"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "changes a function of numpy"),
        (b"\x80\x02cnumpy\nndarray\n(K\x05tR.", "no pickle"),
        (b"\x80\x02ccodecs\nopen\n.", "asks for codecs.open"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x04zlib\x86R.", "the encoding 'zlib'"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "asks for posix.system"),
        (b"\x80\x04\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "no pickle"),
        (b"\x80\x02]q\x00h\x00a.", "holds a list; expected a dict"),
        (b"hello", "no place in plain data"),
        (b"", "no pickle"),
    ],
)
def test_programs_made_by_hand(program, reason):
    assert reason in refusal(program)


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()], dtype=object),
        np.array(["text"]),
        np.zeros(2, [("x", "i4"), ("y", "i4")]),
        np.array([1 + 2j]),
        np.array(["2020-01-01"], "datetime64[D]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_kinds_are_refused(array):
    assert any(word in refusal(pickle.dumps({"data": array}, 2)) for word in ("holds an array", "refused: asks for"))


def test_an_array_must_have_the_size_that_it_announces():
    good = python2(np.zeros((4, 3), np.uint8))
    assert read_pickle(good)["data"].shape == (4, 3)
    huge = good.replace(struct.pack("<i", 4), struct.pack("<i", 2**31 - 1), 1)
    assert "cannot reshape" in refusal(huge)
    empty = b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btRs."
    assert "without content" in refusal(empty)


def test_a_file_cut_anywhere_is_refused():
    whole = python2(np.arange(40, dtype=np.uint8).reshape(5, 8), labels=b"](K\x01K\x02e")
    assert list(read_pickle(whole)) == ["data", "labels"]
    for length in range(len(whole)):
        refusal(whole[:length])


def test_any_damaged_byte_gives_data_or_a_reason(tmp_path):
    whole = bytearray(python2(np.arange(6, dtype=np.uint8).reshape(2, 3), labels=b"](K\x01K\x02e"))
    rng = np.random.default_rng(0)
    read = 0
    for place in range(len(whole)):
        for value in rng.integers(0, 256, 12).tolist():
            damaged = bytes(whole[:place]) + bytes([value]) + bytes(whole[place + 1 :])
            try:
                read += isinstance(read_pickle(damaged), dict)
            except UnreadablePickle:
                continue
    assert read > 0


def test_every_allowed_instruction_exists():
    assert {instruction.name for instruction in pickletools.opcodes} >= _INSTRUCTIONS
