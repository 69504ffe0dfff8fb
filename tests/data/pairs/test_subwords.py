"""The joint vocabulary: lossless for any text, learned from what it is given, the same on every machine."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_files import pairs

from ssmlab.core.errors import DataError
from ssmlab.data.pairs.subwords import EOS, MARKS, PAD, SEP, Subwords, load_subwords, train_subwords, vocabulary_size
from ssmlab.data.text.tokenizers import JsonTokenizer, load_tokenizer

TEXTS = [text for side in pairs(400) for text in side]
WORDS = train_subwords(TEXTS, 400)
HOSTILE = [
    *("", " ", "  ", "a", " a", "a ", " a  b ", "\n", "\r\n", "\t", "\0", "a\u2028b\x0b\x0c\x85", "\ufeffx"),
    *(
        "</s>",
        "<pad><sep></s> <s>",
        "Ġ Ċ ĠĠ",
        "😀👩‍👩‍👧",
        "e\u0301 é \ufb01 \u00a0 \u202f \u00ad",
        "ﬁ ½ ²",
        "नमस्ते की",
        "字字字",
    ),
    *(
        "Привет",
        "x" * 5000,
        "caf\udce9 \udcff",
        "\udc80",
        "\udce9 a \udce9",
        "don't l'homme 18.10 €",
        "UPPER lower Ünïcödé",
    ),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_comes_back(text):
    tokens = WORDS.encode(text)
    assert WORDS.decode(tokens, "surrogateescape") == text
    assert not {PAD, SEP, EOS} & set(tokens) and all(token < WORDS.size for token in tokens)


@given(st.one_of(st.text(), st.binary().map(lambda content: content.decode("utf-8", "surrogateescape"))))
@settings(max_examples=300, deadline=None)
def test_any_text_and_any_bytes_come_back(text):
    if any("\ud800" <= letter <= "\udc7f" or "\udd00" <= letter <= "\udfff" for letter in text):
        return  # halves of characters that no file holds
    assert WORDS.decode(WORDS.encode(text), "surrogateescape") == text


def test_many_texts_are_encoded_as_each_alone(monkeypatch):
    monkeypatch.setattr("ssmlab.data.pairs.subwords._AT_A_TIME", 7)
    assert [tokens.tolist() for tokens in WORDS.encode_all(HOSTILE)] == [WORDS.encode(text) for text in HOSTILE]
    assert WORDS.encode_all([]) == []


def test_what_a_model_writes_is_text_whatever_it_is():
    assert WORDS.decode([PAD, SEP, *WORDS.encode("The dog"), EOS, 10**6, -1]) == "The dog"
    half = WORDS.encode("é")[:-1] if len(WORDS.encode("é")) > 2 else WORDS.encode("字")[:-1]
    assert WORDS.decode(half) == "\ufffd"


def test_numbers_are_marks_then_bytes_then_merges():
    words = json.loads(WORDS.content)["model"]["vocab"]
    order = sorted(words, key=words.get)
    assert tuple(order[:3]) == MARKS and len(order) == WORDS.size == 400
    assert all(len(word) == 1 for word in order[3:259]) and all(len(word) > 1 for word in order[259:])
    assert (WORDS.pad, WORDS.sep, WORDS.eos) == (0, 1, 2)


def test_a_word_is_the_same_token_at_the_beginning_and_later():
    first, later = WORDS.encode("dog"), WORDS.encode("the dog")
    assert len(first) == 1 and later[-1] == first[0]
    assert len(WORDS.encode("2024")) - len(WORDS.encode("20")) == 2  # digits one by one


def test_only_the_texts_that_are_given_are_learned():
    seen = train_subwords([*TEXTS, *["zyxomma"] * 50], 500)
    assert len(seen.encode("zyxomma")) < len(WORDS.encode("zyxomma"))


def test_the_same_texts_give_the_same_vocabulary_in_another_process():
    code = (
        "import sys; sys.path.insert(0, 'tests/data/pairs'); from test_subwords import TEXTS, train_subwords as t;"
        "import hashlib; print(hashlib.sha256(t(TEXTS, 400).content.encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        for env in ({"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"}, {"RAYON_NUM_THREADS": "3"})
    }
    assert len(found) == 1


def test_the_size_follows_from_the_pairs():
    assert [vocabulary_size(n) for n in (100, 10_000, 29_000, 100_000, 10**6, 10**7)] == [
        1_000, 2_000, 4_000, 8_000, 8_000, 32_000,
    ]  # fmt: skip
    assert train_subwords(TEXTS).size <= 1_000


def test_a_folder_keeps_the_vocabulary(tmp_path):
    path = WORDS.save(tmp_path)
    assert path == tmp_path / "tokenizer.json"
    for again in (load_subwords(tmp_path), load_subwords(path), pickle.loads(pickle.dumps(WORDS))):
        assert [again.encode(text) for text in HOSTILE] == [WORDS.encode(text) for text in HOSTILE]


def test_others_read_the_file_too(tmp_path):
    WORDS.save(tmp_path)
    other = load_tokenizer(tmp_path)
    assert isinstance(other, JsonTokenizer) and (other.size, other.eos) == (400, EOS)
    for text in ("The dog sees", " a  b ", "", "字"):
        assert other.encode(text) == WORDS.encode(text) and other.decode(WORDS.encode(text)) == text


def test_mistakes_are_said_in_a_line(tmp_path):
    with pytest.raises(DataError, match="no text to learn a vocabulary from"):
        train_subwords(["", ""])
    with pytest.raises(DataError, match="a vocabulary of 100 has no room for 259 bytes and marks"):
        train_subwords(TEXTS, 100)
    with pytest.raises(DataError, match="cannot be read"):
        load_subwords(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer.json: no tokenizer.json"):
        load_subwords(tmp_path)
    from tokenizers import Tokenizer, models

    with pytest.raises(DataError, match="no tokenizer of sentence pairs"):
        Subwords(Tokenizer(models.BPE({"a": 0}, [])).to_str())
