"""Text, DNA, sound and chats from files: what is read, and that every problem is told by its file's name."""

import gzip
import io
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data.sequences.fasta import parse_fasta, read_fasta, reverse_complement
from ssmlab.data.sequences.reader import assign_parts, open_labelled, read_labelled
from ssmlab.data.sequences.wav import mu_law, read_wav, read_wavs
from ssmlab.data.synthetic.recall import ASK, NOISE, generated_bases, induction_heads, selective_copying
from ssmlab.data.text.documents import Document, divide, read_texts
from ssmlab.data.text.jsonl import chat_tokens, read_chats


def test_texts_by_file_and_by_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("drei ß")
    (tmp_path / "SOURCE.md").write_text("not this one")
    assert read_texts(tmp_path) == [("a.txt", "one\n\ntwo\n"), ("deep/b.txt", "drei ß")]
    assert read_texts(tmp_path, "line") == [("a.txt:1", "one"), ("a.txt:3", "two"), ("deep/b.txt:1", "drei ß")]
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "void.txt").write_text(" \n")
    with pytest.raises(DataError) as caught:
        read_texts(tmp_path)
    assert caught.value.problems == [
        "latin.txt: not UTF-8 at byte 3; convert it, e.g. with iconv -t utf-8",
        "void.txt: holds no text; remove it",
    ]
    with pytest.raises(DataError, match=r"no such file or folder; did you mean 'deep'"):
        read_texts(tmp_path / "deap")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no .txt, .text, .jsonl, .md in it, found nothing"):
        read_texts(tmp_path / "empty")


def test_the_prose_of_python_is_there():
    texts = read_texts("pydoc")
    assert len(texts) > 50 and sum(len(text) for _, text in texts) > 300_000


def test_division_is_by_name_by_stretch_or_by_document():
    def parts(documents, **options):
        return divide(documents, **({"val_fraction": 0.1, "test_fraction": 0.2, "seed": 0} | options))[0]

    one = parts([Document("a.txt", np.arange(100))])
    assert [one[name][0].tokens.tolist() for name in ("train", "val", "test")] == [
        list(range(70)), list(range(70, 80)), list(range(80, 100)),
    ]  # fmt: skip
    many = [Document(f"{i}.txt", np.full(3, i)) for i in range(50)]
    divided = parts(many)
    assert {name: len(held) for name, held in divided.items()} == {"train": 35, "val": 5, "test": 10}
    assert sorted(d.id for held in divided.values() for d in held) == sorted(d.id for d in many)
    again = parts(many[::-1])
    assert {d.id for d in again["test"]} == {d.id for d in divided["test"]}, "whatever the order of the files"
    named = parts([Document(name, np.arange(9)) for name in ("train/a.txt", "valid/b.txt", "test/c.txt")])
    assert [held[0].id for held in named.values()] == ["train/a.txt", "valid/b.txt", "test/c.txt"]


def test_fasta(tmp_path):
    (tmp_path / "a.fa").write_text(">first some words\nACGT\nnnRY\n>second\nacgu\n")
    (tmp_path / "b.fa.gz").write_bytes(gzip.compress(b">z\nTTT\n"))
    found = read_fasta(tmp_path)
    assert [d.id for d in found] == ["a.fa:first", "a.fa:second", "b.fa.gz:z"]
    assert [d.tokens.tolist() for d in found] == [[0, 1, 2, 3, 4, 4, 4, 4], [0, 1, 2, 3], [3, 3, 3]]
    for content, message in (
        (b"ACGT", "line 1: a FASTA file begins with >name, and bases follow in the next lines; got 'ACGT'"),
        (b">a\nAC1T", "line 2: '1' is no base"),
        (b">a\n>b\nACG", "record a has no bases"),
        (b"", "has no records"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_fasta("x", content)
    (tmp_path / "bad.fa").write_text("hello")
    with pytest.raises(DataError, match="bad.fa: line 1"):
        read_fasta(tmp_path)


def test_records_of_one_name_are_told_apart_and_divided(tmp_path):
    """`>gene 1` and `>gene 2` are both called gene: with one name they would all be in one part."""
    bases = ["".join(np.random.default_rng(i).choice(list("ACGT"), 30)) for i in range(60)]
    for name, own in (("a.fa", bases[:30]), ("b.fa", bases[30:])):
        (tmp_path / name).write_text("".join(f">gene {i}\n{text}\n" for i, text in enumerate(own)))
    assert [d.id for d in read_fasta(tmp_path / "a.fa")][:3] == ["a.fa:gene", "a.fa:gene#2", "a.fa:gene#3"]
    held = open_labelled(str(tmp_path), "dna", val_fraction=0.1, seed=0).held
    assert all(held[part] for part in ("train", "val", "test"))


def test_the_other_strand():
    bases = np.array([0, 1, 2, 3, 4, 0], np.uint8)
    assert reverse_complement(bases).tolist() == [3, 4, 0, 1, 2, 3]
    assert np.array_equal(reverse_complement(reverse_complement(bases)), bases)


def riff(values, *, width=2, channels=1, rate=8000, extensible=False, floating=False, kind=b"RIFF"):
    """A .wav of `values`, interleaved where there are several channels, written by hand."""
    order = ">" if kind == b"RIFX" else "<"
    values = np.asarray(values, np.float64)
    if floating:
        body = values.astype(f"{order}f{width}").tobytes()
    else:
        whole = np.round(values * (2 ** (8 * width - 1) - 1)).astype(np.int64) + 128 * (width == 1)
        octets = whole.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
        body = (octets[:, ::-1] if order == ">" else octets).tobytes()
    code, block = 3 if floating else 1, width * channels
    head = struct.pack(f"{order}HHIIHH", 0xFFFE if extensible else code, channels, rate, rate * block, block, 8 * width)
    if extensible:
        tail = bytes.fromhex("00000010800000aa00389b71" if order == ">" else "00001000800000aa00389b71")
        head += struct.pack(f"{order}HHII", 22, 8 * width, 0, code) + tail
    pad = b"\0" * (len(body) % 2)
    chunks = b"".join(
        name + struct.pack(f"{order}I", size) + content
        for name, size, content in (
            (b"fmt ", len(head), head),
            (b"LIST", 4, b"note"),
            (b"id3 ", 2, b"xy"),
            (b"data", len(body), body + pad),
        )
    )
    if kind == b"RF64":
        chunks = b"ds64" + struct.pack("<IQQQI", 28, 36 + len(chunks) + 4, len(body), 0, 0) + chunks
    size = 0xFFFFFFFF if kind == b"RF64" else 4 + len(chunks)
    return kind + struct.pack(f"{order}I", size) + b"WAVE" + chunks


def write_wav(path, values, **how):
    path.write_bytes(riff(values, **how))


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("width", "floating"), [(1, False), (2, False), (3, False), (4, False), (8, False), (4, True), (8, True)]
)
def test_samples_of_every_form(width, floating, channels, extensible):
    values = np.sin(np.arange(51) / 5) * 0.9
    content = riff(
        np.repeat(values, channels), width=width, channels=channels, extensible=extensible, floating=floating
    )
    samples, rate = read_wav(io.BytesIO(content))
    assert rate == 8000 and samples.dtype == np.float32 and samples.shape == (51,)
    assert np.abs(samples - values).max() < (1e-6 if floating else 2.0 ** (2 - 8 * min(width, 3)))


@pytest.mark.parametrize("kind", [b"RIFX", b"RF64"])
def test_the_other_two_containers(kind):
    samples, rate = read_wav(io.BytesIO(riff([0.5, -0.25], kind=kind, rate=44100)))
    assert rate == 44100 and samples == pytest.approx([0.5, -0.25], abs=1e-4)


def test_sounds_that_are_refused():
    whole = riff(np.zeros(50))
    scaled = riff(np.full(5, 30000.0), width=4, floating=True)
    coded = bytearray(whole)
    coded[20] = 7  # mu-law
    for content, said in (
        (b"", "it is cut off"),
        (whole[:30], "it is cut off"),
        (whole[:-2], "it is cut off"),
        (riff([]), "it has no samples"),
        (bytes(coded), r"no .wav of plain samples \(Unknown wave file format: MULAW\); convert it to 16 bit PCM"),
        (scaled, "samples reach 30,000, where floats lie within -1 to 1"),
        (riff([0, np.nan], width=8, floating=True), "some samples are not finite"),
        (b"fLaC" + bytes(50), "no .wav of plain samples; give one, or convert the sound to 16 bit PCM"),
    ):
        with pytest.raises(ValueError, match=said):
            read_wav(io.BytesIO(content))
    unknown = bytearray(whole)
    unknown[4:8] = b"\xff" * 4  # as programs write that do not know the length before the end
    assert len(read_wav(io.BytesIO(bytes(unknown)))[0]) == 50


def test_sounds_of_a_folder(tmp_path):
    second = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000) * 0.5
    write_wav(tmp_path / "a.wav", np.zeros(5))
    write_wav(tmp_path / "b.wav", np.repeat([0.5, -0.5], 3), channels=2)
    found, rate, notes = read_wavs(tmp_path)
    assert rate == 8000 and [len(d.tokens) for d in found] == [5, 3]
    assert set(found[0].tokens.tolist()) == {128}, "silence"
    assert notes == ["1 sound of 2 channels, whose mean is taken (b.wav)"]
    write_wav(tmp_path / "c.wav", second, rate=16000)
    write_wav(tmp_path / "d.wav", [1.5, 0], width=4, floating=True)
    found, rate, notes = read_wavs(tmp_path)
    assert rate == 8000 and notes[1:] == [
        "1 sound of 16,000 samples per second, resampled to 8,000 (c.wav)",
        "1 sound louder than -1 to 1, cut off there (d.wav)",
    ]
    expected = mu_law(second[::2].astype(np.float32))  # 200 Hertz are far below what the filter cuts
    assert len(found[2].tokens) == 8000 and np.abs(found[2].tokens.astype(int) - expected)[20:-20].max() <= 3
    (tmp_path / "e.wav").write_bytes(b"RIFF")
    (tmp_path / "f.wav").write_bytes(b"OggS" + bytes(40))
    with pytest.raises(DataError) as caught:
        read_wavs(tmp_path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["e.wav", "f.wav"]
    (tmp_path / "x.fa").write_text(">x\nACGT\n")
    with pytest.raises(ValueError, match="no .wav of plain samples; give one, or convert the sound to 16 bit PCM"):
        read_wav(tmp_path / "x.fa")


def test_mu_law_is_finest_where_it_is_quiet():
    tokens = np.arange(256, dtype=np.uint8)
    loud = tokens.astype(np.float32) / 255 * 2 - 1
    levels = np.sign(loud) * np.expm1(np.abs(loud) * np.log(256)) / 255  # the inverse
    assert np.array_equal(mu_law(levels), tokens) and (levels[0], levels[-1]) == pytest.approx((-1, 1))
    steps = np.diff(levels)
    assert steps[127] == steps.min() and (np.diff(steps[128:]) > 0).all()


CHAT = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"},
                     {"role": "assistant", "content": "A"}]}  # fmt: skip


def test_chats_and_what_is_learned_of_them(tmp_path):
    file = tmp_path / "my.jsonl"
    file.write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n\n" + json.dumps(CHAT) + "\n")
    chats = read_chats(file)
    assert chats[0] == ("my.jsonl:1", [("user", "p"), ("assistant", "r")])
    assert [role for role, _ in chats[1][1]] == ["system", "user", "assistant"]
    template = {"system": "<{text}>", "user": "U:{text}|", "assistant": "A:{text}."}
    document = chat_tokens("x", chats[1][1], template, lambda text: list(text.encode()), 256)
    assert bytes(document.tokens[:-1].tolist()).decode() == "<S>U:U|A:A." and document.tokens[-1] == 256
    assert bytes(document.tokens[document.learned][:-1].tolist()).decode() == "A.", "the answer, not what is before it"


def test_lines_that_are_no_chats_are_all_told(tmp_path):
    file = tmp_path / "my.jsonl"
    wrong = [
        "{",
        "[]",
        '{"prompt": "p"}',
        '{"prompt": "p", "response": 3}',
        '{"messages": [{"role": "bot", "content": ""}]}',
    ]
    file.write_text("\n".join([json.dumps(CHAT), *wrong]))
    with pytest.raises(DataError) as caught:
        read_chats(file)
    said = caught.value.problems
    assert [text.split(":")[0] for text in said] == [f"my.jsonl, line {i}" for i in range(2, 7)]
    for text, part in zip(
        said, ("not JSON", "an object", "has the keys prompt", "a string", "role must be"), strict=True
    ):
        assert part in text


def test_lines_with_the_same_mistake_are_one_problem(tmp_path):
    file = tmp_path / "my.jsonl"
    file.write_text("\n".join(['{"question": "q", "answer": "a"}'] * 50 + ["{", json.dumps(CHAT)]))
    with pytest.raises(DataError, match="51 lines cannot be used") as caught:
        read_chats(file)
    same, other = caught.value.problems
    assert same.startswith("my.jsonl, lines 1, 2, 3 and 47 more: has the keys question, answer;")
    assert other.startswith("my.jsonl, line 51: not JSON")


@pytest.mark.parametrize("first", ["First Citizen:", "[", '"a"', "\n7"])
def test_what_begins_as_no_json_lines_is_told_once(tmp_path, first):
    file = tmp_path / "long.txt"
    file.write_text(first + "\nmore\nand more\n")
    with pytest.raises(
        DataError, match=r"long.txt: begins with .*, which is no JSON object; every line .*prompt"
    ) as told:
        read_chats(file)
    assert told.value.problems == [] and "\n" not in str(told.value)


def test_labels_come_from_folders_files_and_names(tmp_path):
    for part in ("train", "test"):
        for label in ("neg", "pos"):
            (tmp_path / "films" / part / label).mkdir(parents=True)
            for i in range(4):
                (tmp_path / "films" / part / label / f"{i}.txt").write_text(f"{label} {i}")
    items = read_labelled(str(tmp_path / "films"), "text").items
    held = assign_parts(items, val_fraction=0.25, seed=0)
    assert {name: len(found) for name, found in held.items()} == {"train": 6, "val": 2, "test": 8}
    assert {items[i].part for i in held["test"]} == {"test"}

    (tmp_path / "genes").mkdir()
    for name, count in (("A", 6), ("B", 6), ("C", 2)):
        records = "".join(f">{i}\n{'ACGT' * (i + 1)}\n" for i in range(count))
        (tmp_path / "genes" / f"{name}.fa").write_text(records)
    found = read_labelled(str(tmp_path / "genes"), "dna")
    items, notes = found.items, found.notes
    assert {item.label for item in items} == {"A", "B"} and "left out: C" in notes[-1]

    (tmp_path / "words").mkdir()
    for digit in (0, 1):
        for index in range(8):
            write_wav(tmp_path / "words" / f"{digit}_ada_{index}.wav", np.zeros(4))
    found = read_labelled(str(tmp_path / "words"), "audio")
    items, rate = found.items, found.rate
    held = assign_parts(items, val_fraction=0.3, seed=0)
    assert rate == 8000
    assert {items[i].id for i in held["test"]} == {f"{digit}_ada_{i}.wav" for digit in (0, 1) for i in range(5)}


@pytest.mark.parametrize("kind", ["text", "dna", "audio"])
def test_generated_sequences_have_all_parts(kind):
    items = read_labelled("generated", kind).items
    held = assign_parts(items, val_fraction=0.1, seed=0)
    assert all(len({items[i].label for i in found}) == len({item.label for item in items}) for found in held.values())


@pytest.mark.parametrize(("length", "data_tokens", "vocab"), [(32, 4, 16), (256, 16, 16), (9, 9, 5)])
def test_selective_copying_can_be_answered(length, data_tokens, vocab):
    tokens, labels = selective_copying(50, length, data_tokens, vocab, 0)
    assert tokens.shape == labels.shape == (50, length + data_tokens)
    for row, asked in zip(tokens, labels, strict=True):
        read = row[:length]
        assert read[read != NOISE].tolist() == asked[asked != -100].tolist(), "what stands in the noise, in its order"
        assert (row[length:] == ASK).all() and (asked[:length] == -100).all()
    assert set(labels[labels != -100].tolist()) <= set(range(2, vocab)) and tokens.max() < vocab
    places = np.nonzero(tokens[:, :length])[1]
    assert places.min() == 0 and places.max() == length - 1


@pytest.mark.parametrize("length", [8, 256])
def test_induction_heads_can_be_answered(length):
    tokens, labels = induction_heads(200, length, 16, 0)
    for row, asked in zip(tokens, labels, strict=True):
        places = np.nonzero(row == 15)[0]
        assert len(places) == 2 and places[1] == length - 1
        assert asked[-1] == row[places[0] + 1] < 15 and (asked[:-1] == -100).all()
    assert len(set(labels[:, -1].tolist())) > 10


def test_seeds_decide_what_is_generated():
    first, again, other = (selective_copying(5, 32, 4, 16, seed)[0] for seed in (1, 1, [1, 2]))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    a, b = (generated_bases(4, 60, seed)[0][1].tokens for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_readers_do_without_torch():
    names = (
        "sequences.fasta, text.jsonl, sequences.reader, text.packing, synthetic.recall, text.documents, sequences.wav"
    )
    modules = ", ".join(f"ssmlab.data.{name}" for name in names.split(", "))
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_byte_order_mark_is_no_part_of_a_chat(tmp_path):
    file = tmp_path / "marked.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "response": "b"}\n')
    assert read_chats(file)[0][1] == [("user", "a"), ("assistant", "b")]
