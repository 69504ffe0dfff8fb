"""What is in files of text: JSON lines, tables, encodings, copies; what a chat template makes of chats."""

import json

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data.leaks import base_keys, leaks, text_keys
from ssmlab.data.text.chat_template import ChatTemplate, chat_document, find_template
from ssmlab.data.text.documents import Document, divide, read_texts
from ssmlab.data.text.packing import pack_alone, pack_whole, stream
from ssmlab.data.text.tokenizers import load_tokenizer


def test_lines_of_json_are_their_texts(tmp_path):
    rows = [{"text": "one\nand"}, {"text": "zwei ß", "label": 3}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "README.md").write_text("# not this one")
    expected = [("a.jsonl:1", "one\nand"), ("a.jsonl:3", "zwei ß")]
    assert read_texts(tmp_path) == read_texts(tmp_path / "a.jsonl", "line") == expected
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lines.txt").write_text((tmp_path / "a.jsonl").read_text())  # whatever the file is called
    assert [text for _, text in read_texts(tmp_path / "b")] == ["one\nand", "zwei ß"]


def test_a_folder_of_markdown_is_texts(tmp_path):
    (tmp_path / "a.md").write_text("# Title")
    assert read_texts(tmp_path) == [("a.md", "# Title")]
    assert read_texts(tmp_path / "a.md") == [("a.md", "# Title")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,label\nfine,1\n", "a table is no text; write its texts as lines of JSON"),
        ("a.json", '[{"text": "x"}]', "JSON is no text; write its texts as lines of JSON"),
        ("a.txt", '{\n "text": "x"\n}', "JSON is no text"),
        ("a.jsonl", '{"txt": "x"}', r'line 1: expected {"text": "..."}, got txt'),
        ("a.jsonl", '{"text": "x"}\n[1]', r"line 2: expected .*, got list"),
        ("a.jsonl", '{"text": "x"}\n{', r"line 2: not JSON"),
        ("a.jsonl", '{"text": "  "}', "line 1: holds no text"),
        ("a.jsonl", '{"prompt": "x", "response": "y"}', "chats are data.kind=chat"),
    ],
)
def test_braces_and_commas_are_never_learned(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_texts(tmp_path / name)
    import re

    assert re.search(words, " ".join(caught.value.problems)), caught.value.problems


def test_a_text_may_begin_with_a_bracket(tmp_path):
    (tmp_path / "a.txt").write_text("[Music]\n{x} is a set\n")
    assert read_texts(tmp_path / "a.txt", "line") == [("a.txt:1", "[Music]"), ("a.txt:2", "{x} is a set")]


def test_other_encodings_by_name(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\u00e9\r\n\u20ac".encode("cp1252"))
    assert read_texts(tmp_path, encoding="cp1252") == [("a.txt", "caf\u00e9\n\u20ac")]
    with pytest.raises(DataError) as caught:
        read_texts(tmp_path, encoding="ascii")
    assert "not ascii at byte 3; data.encoding names another encoding" in caught.value.problems[0]


def test_parts_are_cut_between_characters():
    text = "ä€😀" * 50
    document = Document("a", np.frombuffer(text.encode(), np.uint8))
    for fraction in np.linspace(0.05, 0.4, 30):
        options = {"val_fraction": fraction, "test_fraction": fraction, "seed": 0}
        parts, _ = divide([document], characters=True, **options)
        assert "".join(d.tokens.tobytes().decode() for name in ("train", "val", "test") for d in parts[name]) == text
        plain, _ = divide([document], **options)
        for name in parts:
            assert abs(len(parts[name][0].tokens) - len(plain[name][0].tokens)) <= 6


def test_copies_are_held_out_together_in_any_order():
    documents = [Document(f"{i:03d}.txt", np.full(3, i // 3)) for i in range(180)]
    options = {"val_fraction": 0.1, "test_fraction": 0.2, "seed": 0}
    for listed in (documents, documents[::-1]):
        digests = [d.tokens.tobytes() for d in listed]
        parts, _ = divide(listed, digests=digests, **options)
        found = {name: {int(d.tokens[0]) for d in held} for name, held in parts.items()}
        assert not (found["train"] & found["test"] or found["train"] & found["val"] or found["val"] & found["test"])
        assert {name: len(held) for name, held in parts.items()} == {"train": 126, "val": 18, "test": 36}
    alone, _ = divide(documents, **options)
    found = {name: {int(d.tokens[0]) for d in held} for name, held in alone.items()}
    assert found["train"] & found["test"], "as it is without digests"


def test_copies_across_parts_are_counted_and_named():
    texts = [
        ("train", "a", "One  text."),
        ("test", "b", "One  text."),
        ("test", "c", "one TEXT."),
        ("val", "d", "Other"),
    ]
    counts, warnings = leaks([(part, id, text_keys(text)) for part, id, text in texts], "texts")
    assert counts == {"test": {"exact": 1, "near": 1, "of": 2}}
    assert warnings == [
        "of 2 test texts, 1 exact copies and 1 near copies of what is in train or val, which flatters test "
        "(test: b = train: a); remove them"
    ]
    assert leaks([("train", "a", text_keys("x")), ("train", "b", text_keys("x"))], "texts") == ({}, [])
    strands = [("train", "a", base_keys(np.array([0, 0, 1]))), ("test", "b", base_keys(np.array([2, 3, 3])))]
    assert leaks(strands, "sequences")[0] == {"test": {"exact": 0, "near": 1, "of": 1}}


def test_one_document_a_row():
    documents = [Document("a", np.array([1, 2, 3, 4, 5])), Document("b", np.array([6]))]
    rows = pack_alone(documents, 4, 9)
    assert rows.tokens.tolist() == [[9, 1, 2, 3, 4], [4, 5, 9, 9, 9], [9, 6, 9, 9, 9]]
    assert rows.labels().tolist() == [[1, 2, 3, 4], [5, 9, -100, -100], [6, 9, -100, -100]]
    assert (rows.documents == rows.documents[:, :1]).all(), "nothing that a layer would have to tell apart"
    chats = [Document(name, np.array([1, 2]), np.array([False, True])) for name in "ab"]
    whole, cut = pack_whole(chats, 7, 9, alone=True)
    assert whole.tokens.tolist() == [[9, 1, 2, 9, 9, 9, 9, 9]] * 2 and cut == 0
    assert (whole.documents == 0).all() and (whole.labels() >= 0).sum() == 2
    assert len(pack_whole(chats, 7, 9)[0]) == 1


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = [("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "So long")]


def template(text=TEMPLATE, tmp="chat_template.jinja"):
    return ChatTemplate(text, tmp, {"bos_token": "<s>"})


def test_a_chat_is_what_transformers_makes_of_it(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    document = chat_document("a", CHAT, template(), lambda text: list(text.encode()), 256)
    written = "".join(chr(token) for token in document.tokens if token < 256)
    letters = Tokenizer(models.BPE({chr(i): i for i in range(128)}, []))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    theirs = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>", chat_template=TEMPLATE)
    messages = [{"role": role, "content": text} for role, text in CHAT]
    assert written == theirs.apply_chat_template(messages, tokenize=False)
    learned = "".join(chr(token) for token in document.tokens[document.learned] if token < 256)
    assert learned == "Hello</s>So long</s>" and document.tokens[-1] == 256, "the end, which the template lacks"
    assert stream([document], 256)[0].tolist() == document.tokens.tolist(), "no mark that generation would lack"
    ended = chat_document("a", CHAT[:3], template(), lambda text: [len(text)], 9)
    assert ended.tokens.tolist() == [len("<s><system>Be short.</s><user>Hi</s><assistant>"), 9], "</s> is the mark here"


def test_templates_that_cannot_be_used_say_why():
    rewriting = "{% for m in messages %}{{ loop.revindex }}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match=r"writes earlier messages of a in another way .*data.chat_template=recipe"):
        chat_document("a", CHAT, template(rewriting), lambda text: list(text.encode()), 256)
    for broken, words in (("{% for", "cannot write these"), ("{{ raise_exception('no system') }}", "no system")):
        with pytest.raises(DataError, match=words):
            template(broken).render(CHAT, answer=True)
    with pytest.raises(DataError, match="cannot write these messages"):  # a sandbox, as transformers'
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}").render(CHAT, answer=True)


def test_where_templates_are_found(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "old", "bos_token": {"content": "<b>"}, "eos_token": "</b>"})
    )
    found = find_template([tmp_path / "nothing", tmp_path])
    assert found.text == "old" and found.special == {"bos_token": "<b>", "eos_token": "</b>"}
    (tmp_path / "chat_template.jinja").write_text("new")
    assert find_template([tmp_path]).text == "new"
    several = tmp_path / "several"
    several.mkdir()
    rows = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    (several / "tokenizer_config.json").write_text(json.dumps({"chat_template": rows}))
    assert find_template([several]).text == "d"
    (several / "tokenizer_config.json").write_text(json.dumps({"chat_template": rows[:1]}))
    with pytest.raises(DataError, match="no default one, only tool"):
        find_template([several])
    assert find_template([tmp_path / "nothing"]) is None


def test_vocab_json_with_merges(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(["to be or not to be, that is the question"] * 3, trainer)
    words.model.save(str(tmp_path))
    read = load_tokenizer(tmp_path)
    text = "to be, é or not"
    assert read.encode(text) == words.encode(text).ids and read.decode(read.encode(text)) == text
    assert read.eos == words.token_to_id("<|endoftext|>") and read.encode("<|endoftext|>") == [read.eos]
    assert load_tokenizer(tmp_path / "vocab.json").encode(text) == read.encode(text)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(DataError, match="needs merges.txt next to it"):
        load_tokenizer(tmp_path / "vocab.json")
    with pytest.raises(DataError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
