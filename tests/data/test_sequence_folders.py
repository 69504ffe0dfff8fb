"""Texts, sounds and genes in folders and zips, in every form of text: the same data, and what is left out by name."""

import json
import os

import pytest
from trees import agree, checked, fill, loaded, write

from ssmlab.core.errors import DataError
from ssmlab.data.kind_of_data import kind_of_data
from ssmlab.data.sequences.check import check_sequences
from ssmlab.data.sequences.reader import read_labelled
from ssmlab.data.sequences.unlabelled import Reader
from ssmlab.data.text.documents import find_files, left_out, read_texts


def genes(root):
    for label, letter in (("enhancer", "C"), ("promoter", "G")):
        for part, count in (("train", 8), ("test", 4)):
            records = "".join(f">{label}{i}\n{'ACGT' * i}{letter * 9}\n" for i in range(1, count + 1))
            write(root, f"{part}/{label}.fa", content=records.encode())
    return root


def texts(root):
    fill(root, ["train/neg", "train/pos"], 8, "txt")
    return fill(root, ["test/neg", "test/pos", "train/unsup"], 3, "txt")


def sounds(root):
    fill(root, ["train/yes", "train/no"], 8, "wav")
    return fill(root, ["test/yes", "test/no"], 3, "wav")


@pytest.mark.parametrize("top", ["", "data/"])
@pytest.mark.parametrize(("kind", "of"), [("text", texts), ("audio", sounds), ("dna", genes)])
def test_a_zip_holds_what_its_folder_holds(make, tmp_path, kind, of, top):
    folder = of(tmp_path / "data")
    packed = make.pack(folder, tmp_path / "packed.zip", top)
    assert kind_of_data(str(packed)) == kind_of_data(str(folder)) == ("classify_sequence", kind)
    classes, counts, said = agree(packed, kind)
    assert (classes, counts) == agree(folder, kind)[:2]
    assert checked(packed)["split_hash"] == checked(folder)["split_hash"], "the ids are those of the folder"
    assert ("unsup" in said) == (kind == "text")


def test_language_models_read_zips_too(make, tmp_path):
    folder = write(tmp_path / "books", "a.txt", "b/c.txt", "b/README.md")
    packed = make.pack(folder, tmp_path / "books.zip", "books/")
    assert (
        read_texts(packed) == read_texts(folder) == [("a.txt", "the text of a.txt"), ("b/c.txt", "the text of b/c.txt")]
    )
    assert left_out(packed, "text") == ["left out: 1 text about the data (books/b/README.md)"]
    reader = Reader(kind="text", encode=lambda text: list(text.encode()), length=9)
    found, problems = reader.read([packed], lambda: b"")
    assert [d.id for d in found] == [f"{packed}/books/a.txt", f"{packed}/books/b/c.txt"] and not problems
    write(tmp_path, "torn.zip", content=packed.read_bytes()[:-90])
    with pytest.raises(DataError, match=r"torn\.zip: the zip archive cannot be opened .*; copy it again"):
        read_texts(tmp_path / "torn.zip")


@pytest.mark.parametrize("ending", ["md", "text"])
def test_classes_of_other_texts(tmp_path, ending):
    for label in ("neg", "pos"):
        for i in range(9):
            write(tmp_path, f"{label}/{i}.{ending}", content=f"# {label} {i}".encode())
    write(tmp_path, "README.md", "neg/notes.json")
    assert kind_of_data(str(tmp_path)) == ("classify_sequence", "text")
    classes, counts, said = agree(tmp_path, "text")
    assert (classes, sum(counts.values())) == (["neg", "pos"], 18)
    assert "1 text about the data (README.md)" in said
    assert f"left out: 1 file that is no .{ending} (neg/notes.json)" in said


def test_of_several_forms_of_text_one_is_read_and_the_others_are_named(tmp_path):
    fill(tmp_path, ["neg", "pos"], 6, "txt")
    write(tmp_path, "neg/a.md", "pos/b.jsonl", "pos/c.csv", "d.tsv", content=b"x")
    _, counts, said = agree(tmp_path, "text")
    assert sum(counts.values()) == 12
    assert "left out: 4 files that are no .txt (d.tsv, neg/a.md, pos/b.jsonl and 1 more)" in said
    assert left_out(tmp_path, "text") == [
        "left out: 4 files that are no .txt (d.tsv, neg/a.md, pos/b.jsonl and 1 more)"
    ]


def test_lines_of_json_in_class_folders_are_texts(tmp_path):
    for label in ("neg", "pos"):
        rows = "\n".join(json.dumps({"text": f"{label} {i}"}) for i in range(9))
        write(tmp_path, f"{label}/all.jsonl", content=rows.encode())
    assert kind_of_data(str(tmp_path)) == ("classify_sequence", "text")
    classes, counts, _ = agree(tmp_path, "text")
    assert (classes, sum(counts.values())) == (["neg", "pos"], 18)
    items = read_labelled(str(tmp_path), "text").items
    assert (items[0].id, items[0].label, items[0].content) == ("neg/all.jsonl:1", "neg", "neg 0")


def test_another_encoding_of_class_folders(tmp_path):
    for label in ("neg", "pos"):
        for i in range(9):
            write(tmp_path, f"{label}/{i}.txt", content=f"caf\u00e9 {label} {i}".encode("latin-1"))
    with pytest.raises(DataError, match="18 of the files cannot be used"):
        loaded(tmp_path, "text")
    run = loaded(tmp_path, "text", encoding="latin-1")
    assert checked(tmp_path, "--encoding", "latin1")["split_hash"] == run["split_hash"]
    reader = Reader(kind="text", encode=lambda text: list(text.encode()), length=99, encoding="latin-1")
    found, _ = reader.read([tmp_path / "neg" / "0.txt"], lambda: b"")
    assert bytes(found[0].tokens.tolist()).decode() == "caf\u00e9 neg 0"
    with pytest.raises(DataError):
        check_sequences(str(tmp_path), "text", "classify_sequence")


def test_what_is_no_file_is_a_problem_of_texts_too(tmp_path):
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "b.txt")
    with pytest.raises(DataError) as caught:
        find_files(tmp_path, "text", "texts")
    assert caught.value.problems == [f"{tmp_path}/b.txt: is no file but a device or a pipe; remove it"]
    _, problems = Reader(kind="text", encode=list, length=9).read([tmp_path], lambda: b"")
    assert problems == caught.value.problems
    (tmp_path / "b.txt").unlink()
    (tmp_path / "c.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        read_texts(tmp_path)
    assert caught.value.problems == ["c.txt: cannot be read (No such file or directory)"]


def test_tables_are_not_classified_with_their_commas(tmp_path):
    write(tmp_path, "a.csv", content=b"text,label\nfine,1\n")
    write(tmp_path, "b.jsonl", content=b'{"text": "ab"}\n{"text": "cd"}\n')
    reader = Reader(kind="text", encode=lambda text: list(text.encode()), length=9)
    found, problems = reader.read([tmp_path / "a.csv", tmp_path / "b.jsonl"], lambda: b"")
    assert [bytes(d.tokens.tolist()) for d in found] == [b"ab", b"cd"] and found[1].id.endswith("b.jsonl:2")
    assert len(problems) == 1 and "a table is no text" in problems[0]
