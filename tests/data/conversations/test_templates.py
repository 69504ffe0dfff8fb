"""The forms of conversations: what is learned, what a prompt is, and what is cut."""

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data.conversations import HUMAN, MODEL, TEMPLATES, Turn, encode, find_template, shorten, text_of
from ssmlab.data.text.tokenizers import ByteTokenizer, JsonTokenizer

QUESTION, ANSWERS = "<image>\nWhat is this?", ("A dog.", "In the park,\nby a tree.")
TURNS = (Turn(HUMAN, QUESTION), Turn(MODEL, ANSWERS[0]), Turn(HUMAN, "Where?"), Turn(MODEL, ANSWERS[1]))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer that puts a blank in front of what it is given and begins every text with <s>, as Llama's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    signs = [chr(n) for n in range(32, 127)] + ["\n", "▁"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {sign: n for n, sign in enumerate(signs, 3)}
    merges = [("▁", letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]
    for first, second in merges:
        vocabulary[first + second] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    tokenizer.save(str(path))
    return JsonTokenizer(path)


@pytest.fixture(params=["bytes", "words"])
def tokenizer(request, words):
    return ByteTokenizer(256) if request.param == "bytes" else words


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_what_was_learned_from(name, tokenizer):
    template = TEMPLATES[name]
    whole = encode(template.pieces(TURNS), tokenizer, [3])
    for asked in (1, 3):
        prompt = encode(template.pieces(TURNS[:asked], reply=True), tokenizer, [3])
        assert prompt.ids.tolist() == whole.ids[: len(prompt)].tolist()
        assert prompt.image_of.tolist() == whole.image_of[: len(prompt)].tolist()
        assert whole.learned[len(prompt)] and not prompt.learned.any()


@pytest.mark.parametrize("name", TEMPLATES)
def test_learned_tokens_are_the_answers(name, tokenizer):
    template = TEMPLATES[name]
    encoded = encode(template.pieces(TURNS), tokenizer, [3])
    written = [int(i) for i in encoded.ids[encoded.learned] if i != tokenizer.eos]
    text = tokenizer.decode(written)
    for answer in ANSWERS:
        assert answer in text
    end = template.end if not template.end_token else ""
    left = text.replace(ANSWERS[0], "").replace(ANSWERS[1], "").replace(end, "")
    assert not left.strip()
    ends = encoded.ids[encoded.learned] == tokenizer.eos
    assert ends.sum() == (2 if template.end_token else 0)
    images = encoded.image_of >= 0
    assert images.sum() == 3 and (encoded.ids[images] == -1).all() and not encoded.learned[images].any()


def test_forms_as_published():
    assert text_of(TEMPLATES["vicuna_v1"].pieces(TURNS)).endswith(
        "user's questions. USER: <image>\nWhat is this? ASSISTANT: A dog.</s>"
        "USER: Where? ASSISTANT: In the park,\nby a tree.</s>"
    )
    assert text_of(TEMPLATES["plain"].pieces(TURNS[:2])) == "<image>A dog.\n"
    assert text_of(TEMPLATES["cobra"].pieces(TURNS[:3], reply=True)) == (
        "<image>In: What is this?\nOut: A dog.<|endoftext|>\nIn: Where?\nOut: "
    )
    assert text_of(TEMPLATES["llama_2"].pieces(TURNS[:3], reply=True)).endswith(
        "<</SYS>>\n\n<image>\nWhat is this? [/INST] A dog. </s>[INST] Where? [/INST]"
    )
    assert "###Human: <image>\nWhat is this?###Assistant: A dog.###Human: Where?###Assistant: In" in text_of(
        TEMPLATES["v0"].pieces(TURNS)
    )


@pytest.mark.parametrize("place", ["first", "middle", "last", "two", "none"])
def test_images_anywhere(place, tokenizer):
    text = {
        "first": "<image>\nWhat?",
        "middle": "On <image> what?",
        "last": "What?\n<image>",
        "two": "<image> or <image>?",
        "none": "What?",
    }[place]
    sizes = [2, 4][: text.count("<image>")]
    turns = (Turn(HUMAN, text), Turn(MODEL, "Yes."))
    encoded = encode(TEMPLATES["vicuna_v1"].pieces(turns), tokenizer, sizes)
    assert [int((encoded.image_of == n).sum()) for n in range(len(sizes))] == sizes
    assert not (encoded.learned & (encoded.image_of >= 0)).any()
    ids = encoded.ids[encoded.image_of < 0]
    assert (ids >= 0).all()


def test_pieces_have_the_tokens_of_the_whole(words):
    """Llama's kind of tokenizer puts no blank of its own where two pieces meet."""
    turns = (Turn(HUMAN, "What is this?"), Turn(MODEL, "A dog."))
    for name in ("vicuna_v1", "cobra", "zephyr"):
        pieces = TEMPLATES[name].pieces(turns)
        text = "".join(piece.text for piece in pieces[:-1])
        if name == "vicuna_v1":
            assert encode(pieces[:-1], words, []).ids.tolist() == words.encode(text, special=True)
        assert words.decode(encode(pieces[:-1], words, []).ids.tolist()).strip() == text.strip()


def test_the_begin_is_the_tokenizers(words):
    for name in TEMPLATES:  # before an image too
        encoded = encode(TEMPLATES[name].pieces(TURNS), words, [1])
        assert encoded.ids[0] == 1 and encoded.begin == 1
        assert (encoded.ids == 1).sum() == (2 if name == "llama_2" else 1)
    assert encode(TEMPLATES["plain"].pieces(TURNS), ByteTokenizer(), [1]).begin == 0


def test_shortened_from_the_questions_side(tokenizer):
    encoded = encode(TEMPLATES["vicuna_v1"].pieces(TURNS), tokenizer, [5])
    needed = int(encoded.learned.sum()) + 5 + encoded.begin
    for limit in (len(encoded), len(encoded) - 1, needed + 3, needed):
        short = shorten(encoded, limit)
        assert len(short) == limit
        assert short.ids[short.learned].tolist() == encoded.ids[encoded.learned].tolist()
        assert (short.image_of >= 0).sum() == 5
        assert short.ids[: short.begin].tolist() == encoded.ids[: encoded.begin].tolist()
    unlearned = encoded.ids[~encoded.learned & (encoded.image_of < 0)]
    kept = short.ids[~short.learned & (short.image_of < 0)]
    assert kept.tolist() == unlearned[: encoded.begin].tolist()
    with pytest.raises(DataError, match="images and answers alone"):
        shorten(encoded, needed - encoded.begin - 1)


def test_what_is_refused():
    with pytest.raises(DataError, match="did you mean vicuna_v1"):
        find_template("vicuna_v2")
    template = TEMPLATES["vicuna_v1"]
    for turns, reply in ((TURNS[:1], False), (TURNS[:2], True), (TURNS[1:], False), ((), False)):
        with pytest.raises(DataError, match="human and model in turn"):
            template.pieces(turns, reply=reply)
    with pytest.raises(DataError, match="answer holds"):
        template.pieces((TURNS[0], Turn(MODEL, "<image>")))
    with pytest.raises(DataError, match="in front of the first question"):
        TEMPLATES["cobra"].pieces((*TURNS[:2], Turn(HUMAN, "<image>"), TURNS[3]))
    with pytest.raises(DataError, match="1 images, sizes are given of 2"):
        encode(template.pieces(TURNS), ByteTokenizer(256), [3, 3])
    with pytest.raises(DataError, match="neither"):
        encode(template.pieces(TURNS), ByteTokenizer(), [3])


def test_arrays():
    encoded = encode(TEMPLATES["plain"].pieces(TURNS[:2]), ByteTokenizer(), [2])
    assert encoded.ids.dtype == np.int32 and encoded.learned.dtype == bool and encoded.image_of.dtype == np.int32
    assert encoded.ids.tolist() == [-1, -1, *b"A dog.\n"]
