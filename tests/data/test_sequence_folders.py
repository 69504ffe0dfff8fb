"""Texts, sounds and genes in folders and zips, in every form of text: the same data, and what is left out by name."""

import json
import os

import pytest
from trees import agree, checked, fill, loaded, write

from ssmlab.core.errors import DataError
from ssmlab.data.kind_of_data import kind_of_data
from ssmlab.data.sequences.check import check_sequences
from ssmlab.data.sequences.reader import open_labelled, read_labelled
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


def records(count, first=0):
    return b"".join(
        b">s%d.1 a gene\n%s\n" % (i, bytes(b"ACGT"[(i * k + k // 3) % 4] for k in range(1, 40)))
        for i in range(first, first + count)
    )


@pytest.mark.parametrize("by", ["id", "accession"])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_of_the_records_of_a_fasta_file(tmp_path, by, split, ending):
    """One FASTA file and what every record is, as databases give them."""
    write(tmp_path, "sequences.fasta", content=records(41))
    rows = [[by, "label", "family", *(["split"] if split else [])]]
    for i in range(40):
        part = ["train", "test"][i % 5 == 0]
        rows.append([f"s{i}.1", ["promoter", "other"][i % 2], f"f{i // 4}", *([part] if split else [])])
    joined = "\n".join((", "[0] if ending == "csv" else "\t").join(row) for row in rows)
    write(tmp_path, f"labels.{ending}", content=joined.encode())
    assert kind_of_data(str(tmp_path)) == ("classify_sequence", "dna")
    classes, counts, said = agree(tmp_path, "dna")
    assert (classes, sum(counts.values())) == (["other", "promoter"], 40)
    assert not split or counts["test"] == 8
    assert "left out: 1 sequence in no table of labels (sequences.fasta:s40.1)" in said
    assert "a file is a class" not in said
    data = open_labelled(str(tmp_path), "dna", val_fraction=0.2, seed=0, group="family", labels="label")
    assert not split or data.held["test"] == [i for i, item in enumerate(data.items) if item.part == "test"]
    sides = [{data.items[i].group for i in positions} for positions in data.held.values()]
    assert split or (sum(map(len, sides)) == 10 and set.union(*sides) == {f"f{i}" for i in range(10)})


def test_a_table_of_records_and_fasta_files_of_parts_or_classes(tmp_path):
    for part, first, n in (("train", 0, 30), ("test", 30, 12)):
        write(tmp_path / "parts", f"{part}.fa", content=records(n, first))
    lines = [f"s{i}.1,{'ab'[i % 2]}" for i in range(42)]
    write(tmp_path / "parts", "truth.csv", content="\n".join(["seq_id,class", *lines]).encode())
    classes, counts, _ = agree(tmp_path / "parts", "dna")
    assert (classes, counts["test"], sum(counts.values())) == (["a", "b"], 12, 42)
    for name, first in (("x", 0), ("y", 20)):
        write(tmp_path / "classes", f"{name}.fa", content=records(20, first))
    write(tmp_path / "classes", "truth.csv", content="\n".join(["seq_id,class", *lines[:40]]).encode())
    (problem,) = checked(tmp_path / "classes")["problems"]
    assert "say different classes; data.labels=table takes the table's, data.labels=folders the others" in problem
    assert loaded(tmp_path / "classes", "dna", labels="folders")["classes"] == ["x", "y"]
    assert loaded(tmp_path / "classes", "dna", labels="table")["classes"] == ["a", "b"]
    lines[3] = "s99.1,a"
    write(tmp_path / "parts", "truth.csv", content="\n".join(["seq_id,class", *lines]).encode())
    assert "s99.1: is missing (truth.csv, line 5)" in checked(tmp_path / "parts")["problems"][0]


def test_a_table_of_fasta_files_with_a_record_each(tmp_path):
    for i in range(16):
        write(tmp_path, f"g{i}.fa", content=records(1, i))
    lines = [f"g{i}.fa,{'ab'[i % 2]}" for i in range(16)]
    write(tmp_path, "truth.csv", content="\n".join(["file,label", *lines]).encode())
    assert loaded(tmp_path, "dna", labels="table")["classes"] == ["a", "b"]


@pytest.mark.parametrize("kind", ["text", "audio"])
def test_groups_of_sequences_in_class_folders(tmp_path, kind):
    """Who spoke is in a table, the class is the folder: whole speakers stay on one side."""
    ending = "txt" if kind == "text" else "wav"
    fill(tmp_path, ["yes", "no"], 12, ending)
    lines = [f"{label}/{i}.{ending},{i // 3}" for label in ("yes", "no") for i in range(12)]
    write(tmp_path, "groups.csv", content="\n".join(["file,speaker", *lines]).encode())
    data = open_labelled(str(tmp_path), kind, val_fraction=0.2, seed=0, group="speaker")
    sides = [{data.items[i].group for i in positions} for positions in data.held.values()]
    assert data.classes == ("no", "yes") and sum(map(len, sides)) == 4 == len(set.union(*sides))
    write(tmp_path, "groups.csv", content="\n".join(["file,speaker", *lines[1:]]).encode())
    with pytest.raises(DataError, match="1 of 24 have no speaker"):
        open_labelled(str(tmp_path), kind, val_fraction=0.2, seed=0, group="speaker")
