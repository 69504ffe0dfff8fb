"""Tokenizers: there and back, special tokens, streams of text, what is beside a model, mistakes."""

import json
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ssmlab.core.errors import DataError
from ssmlab.data.text.tokenizers import (
    BaseTokenizer,
    ByteTokenizer,
    SentencePieceTokenizer,
    find_ends,
    find_tokenizer,
    load_tokenizer,
)
from ssmlab.generation.text_stream import TextStream

TEXT = "Hello world, naïve café 😀🎉 日本語\n\n  two spaces\tand an end. " + "🦄" * 30 + " then more of it"
CORPUS = ["Hello world, hello there, and an end of it.", "two worlds and more spaces then"] * 3


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """Like GPT-NeoX's: BPE over bytes, one token that ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    path = tmp_path_factory.mktemp("byte_level") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def with_fallback(tmp_path_factory):
    """Like Llama's: spaces as marks, unknown characters as their bytes, a token for the start."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdehlnoprstw,."]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $0", special_tokens=[("<s>", 1)])
    tokenizer.enable_truncation(3)  # files hold what training left there; prompts are not cut
    path = tmp_path_factory.mktemp("with_fallback") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(params=["byte_level", "with_fallback", "bytes"])
def tokenizer(request):
    return load_tokenizer("bytes" if request.param == "bytes" else request.getfixturevalue(request.param))


def test_there_and_back(tokenizer):
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens) == TEXT and max(tokens) < tokenizer.size
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_special_tokens(byte_level, with_fallback):
    ours, theirs, plain = load_tokenizer(byte_level), load_tokenizer(with_fallback), ByteTokenizer()
    assert (ours.size, ours.eos, theirs.eos, plain.size, plain.eos) == (290, 0, 2, 256, None)
    assert ours.encode("end", special=True) == ours.encode("end")
    assert theirs.encode("end", special=True) == [1, *theirs.encode("end")]
    assert theirs.decode([1, *theirs.encode("end"), 2]) == "end"
    assert plain.encode("é") == [0xC3, 0xA9] and plain.decode([0xC3, 300, 0xA9]) == "é"
    assert plain.decode([0xC3]) == "\ufffd"


def test_a_stream_gives_the_text_of_all_tokens_whatever_is_cut(tokenizer):
    tokens = tokenizer.encode(TEXT)
    whole = tokenizer.decode(tokens)
    for cut in range(0, len(tokens), 3):
        before = tokenizer.decode(tokens[:cut])
        if before.endswith("\ufffd"):  # a prompt does not end within a character
            continue
        stream = TextStream(tokenizer.decode, tokens[:cut])
        pieces = [stream.push(token) for token in tokens[cut:]]
        rest = stream.end()
        assert before + "".join(pieces) + rest == whole and stream.text == "".join(pieces) + rest
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_hands_out_text_as_soon_as_it_is_certain():
    stream = TextStream(ByteTokenizer().decode, stop=["stop", "pop"])
    pieces = [stream.push(byte) for byte in "aé stsp\n".encode()]
    assert pieces == ["a", "", "é", " ", "", "", "st", "s", "p\n"]
    assert [stream.push(byte) for byte in b"popx"] == ["", "", "", ""]
    assert stream.stopped and stream.text == "aé stsp\n" and stream.end() == ""
    unfinished = TextStream(ByteTokenizer().decode, stop=["stop"])
    assert [unfinished.push(byte) for byte in b"st\xe2\x82"] == ["", "", "", ""]
    assert unfinished.end() == "st\ufffd" == unfinished.text


def test_a_stream_of_broken_bytes_is_their_text():
    tokens = [0x41, 0x80, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x41, 0x98, 0x80, 0xE2] * 30
    stream = TextStream(ByteTokenizer().decode)
    text = "".join(stream.push(token) for token in tokens) + stream.end()
    assert text == stream.text == bytes(tokens).decode("utf-8", "replace")


def test_the_tokenizer_beside_a_model(byte_level, with_fallback, tmp_path):
    with pytest.raises(DataError, match="has no tokenizer and 50277 tokens, which are not bytes"):
        find_tokenizer(tmp_path, 50277)
    with pytest.raises(DataError, match="61 tokens, which are not bytes"):
        find_tokenizer(tmp_path, 61)
    assert isinstance(find_tokenizer(tmp_path, 256), ByteTokenizer)
    assert isinstance(find_tokenizer(tmp_path, 260), ByteTokenizer)
    assert load_tokenizer(byte_level.parent).size == find_tokenizer(byte_level.parent, 256).size == 290
    (tmp_path / "tokenizer.json").write_bytes(with_fallback.read_bytes())
    for named in ("<unk>", {"content": "<unk>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": named}))
        assert load_tokenizer(tmp_path).eos == 0
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert load_tokenizer(tmp_path).eos == 2


def test_mistakes(tmp_path, monkeypatch):
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    for source, message in [
        (tmp_path / "nothing.json", "there is no tokenizer .*nothing.json"),
        (tmp_path / "a" / "b.model", "there is no tokenizer"),
        (broken, r"is no tokenizer\.json"),
    ]:
        with pytest.raises(DataError, match=message) as error:
            load_tokenizer(source)
        assert "\n" not in str(error.value)
    broken.unlink()
    with pytest.raises(DataError, match=r"has no tokenizer; one of tokenizer\.json, tokenizer\.model, spiece\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match="needs the package sentencepiece; pip install sentencepiece"):
        load_tokenizer(tmp_path)


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(tmp_path / "tokenizer"), vocab_size=290, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.size == 290
    assert tokenizer.eos == 2 and tokenizer.encode("end", special=True) == [1, *tokenizer.encode("end")]
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens) == TEXT
    stream = TextStream(tokenizer.decode, tokens[:3])
    assert tokenizer.decode(tokens[:3]) + "".join(map(stream.push, tokens[3:])) + stream.end() == TEXT
    assert tokenizer.decode([5000]) == ""
    (tmp_path / "broken.model").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="is no model of sentencepiece"):
        load_tokenizer(tmp_path / "broken.model")


def test_a_model_of_bytes_ends_where_its_documents_did(tmp_path, byte_level):
    assert find_ends(tmp_path, ByteTokenizer()) == find_ends(tmp_path, None) == ()
    (tmp_path / "preprocess.json").write_text(json.dumps({"kind": "text", "tokenizer": "bytes", "mark": 256}))
    words = find_tokenizer(tmp_path, 257)
    assert (words.size, words.eos, find_ends(tmp_path, words)) == (256, 256, (256,))
    assert words.decode([104, 256, 105]) == "hi"
    assert find_tokenizer(tmp_path, 257, "bytes").eos == 256
    assert find_tokenizer(tmp_path, 300, byte_level).eos == 0  # an end of its own


def test_ends_of_the_configuration_go_before_the_tokenizers(tmp_path):
    words = ByteTokenizer(256)
    for name, content, ends in (
        ("config.json", {"eos_token_id": None}, (256,)),
        ("config.json", {"eos_token_id": 7}, (7,)),
        ("generation_config.json", {"temperature": 1}, (7,)),
        ("generation_config.json", {"eos_token_id": [3, 5]}, (3, 5)),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        assert find_ends(tmp_path, words) == ends, content
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "stop"}')
    with pytest.raises(DataError, match=r"eos_token_id must be a token or a list of them, got \['stop'\]"):
        find_ends(tmp_path, words)


def test_models_of_bases_and_of_sounds(tmp_path):
    (tmp_path / "preprocess.json").write_text(json.dumps({"kind": "dna", "mark": 5}))
    words = find_tokenizer(tmp_path, 6)
    assert isinstance(words, BaseTokenizer) and words.eos == 5
    assert words.encode("ac gt\nNru") == [0, 1, 2, 3, 4, 4, 3] and words.encode(" ") == []
    assert words.decode([0, 1, 5, 2, 3, 4]) == "ACGTN"
    with pytest.raises(DataError, match="the text is no DNA: 'x' is no base"):
        words.encode("ACx")
    (tmp_path / "preprocess.json").write_text(json.dumps({"kind": "audio", "mark": 256}))
    with pytest.raises(DataError, match="samples of sound, which are no text"):
        find_tokenizer(tmp_path, 257)
