"""Which files are found as pairs, and what is said where they are not."""

import gzip
import zipfile

import pytest
from pair_files import folder, pairs, read, write

from ssmlab.core.errors import DataError
from ssmlab.data.kind_of_data import kind_of_data

SIZES = {"train": 60, "val": 10, "test": 10}


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        (("train", "val", "test"), ("en", "fr")),
        (("train", "val", "test"), ("src", "tgt")),
        (("TRAIN", "VALID", "TEST"), ("EN", "FR")),
        (("train", "dev", "test2016"), ("en", "fr")),
        (("train", "val", "test_2016_flickr"), ("en", "fr")),
        (("train.fr-en", "dev.fr-en", "tst2010.fr-en"), ("en", "fr")),
        (("IWSLT17.TED.train", "IWSLT17.TED.dev2010.en-fr", "IWSLT17.TED.tst2010.en-fr"), ("en", "fr")),
        (("train", "val", "test"), ("en.txt", "fr.txt")),
        (("train", "val", "test"), ("eng", "fra")),
        (("data/train", "data/valid", "data/testing"), ("en", "fr")),
        (("train/text", "val/text", "test/text"), ("en", "fr")),
    ],
)
def test_folders_of_aligned_files_in_the_usual_spellings(tmp_path, names, tags):
    source, target = (tag.partition(".")[0] for tag in tags)
    data = read(folder(tmp_path / "d", names=names, tags=tags), source=source, target=target)
    assert read(tmp_path / "d", source=source).split_hash == data.split_hash
    assert data.format == "aligned" and data.counts == SIZES and data.divided == ()
    assert data.parts["train"].sources[0].startswith("The") and data.parts["val"].targets[0].startswith("Le")
    assert kind_of_data(str(tmp_path / "d")) == ("translate", "pairs")


def test_europarl_names_say_the_languages_and_the_direction_can_be_said(tmp_path):
    folder(tmp_path, (50,), ("europarl-v7.fr-en",))
    data = read(tmp_path / "europarl-v7.fr-en")
    assert (data.source, data.target) == ("fr", "en") and data.parts["train"].sources[0].startswith("Le")
    assert any("from fr to en" in note for note in data.notes)
    data = read(tmp_path / "europarl-v7.fr-en", source="en", target="fr")
    assert data.parts["train"].sources[0].startswith("The") and data.divided == ("val", "test")
    assert read(tmp_path, source="en", target="fr").split_hash == data.split_hash
    assert read(tmp_path / "europarl-v7.fr-en.en").parts["train"].sources[0].startswith("The")


def test_regions_and_words_of_any_kind_are_languages_once_they_are_said(tmp_path):
    data = read(folder(tmp_path / "a", tags=("en_GB", "fr-FR")), source="en_GB", target="fr-FR")
    assert data.counts == SIZES
    assert read(folder(tmp_path / "b", tags=("typos", "clean")), source="typos", target="clean").counts == SIZES
    (tmp_path / "a" / "val.fr-FR").unlink()
    with pytest.raises(DataError, match="val.en_GB without val.fr-FR"):
        read(tmp_path / "a", source="en_GB", target="fr-FR")


def test_two_files_that_are_named_alone_are_divided_whatever_their_name(tmp_path):
    root = folder(tmp_path, (10, 10, 50))
    assert read(root / "test").counts == {"train": 40, "val": 5, "test": 5}
    assert read(root / "test.fr").parts["val"].sources[0].startswith("Le")
    for path in (root / "test", root / "test.en"):
        assert kind_of_data(str(path)) == ("translate", "pairs")
    (root / "test.fr").unlink()
    assert kind_of_data(str(root / "test.en"))[0] != "translate"


def test_one_language_that_is_said_finds_the_other(tmp_path):
    folder(tmp_path)
    assert read(tmp_path, target="en").source == "fr"
    assert read(tmp_path, source="fr").parts["train"].sources[0].startswith("Le")


def test_folders_named_after_languages(tmp_path):
    for tag, lines in zip(("en", "fr"), pairs(80), strict=True):
        write(tmp_path / tag / "train.txt", lines[:60])
        write(tmp_path / tag / "val.txt", lines[60:70])
        write(tmp_path / tag / "test.txt", lines[70:])
    assert read(tmp_path, source="en", target="fr").counts == SIZES
    assert kind_of_data(str(tmp_path))[0] != "translate"  # they may be classes


def test_two_files_of_any_names(tmp_path):
    english, french = pairs(60)
    write(tmp_path / "left.txt", english), write(tmp_path / "x" / "right", french)
    data = read(tmp_path / "left.txt", target_path=str(tmp_path / "x" / "right"))
    assert data.counts == {"train": 48, "val": 6, "test": 6} and (data.source, data.target) == ("source", "target")
    with pytest.raises(DataError, match=r"left.txt: its lines hold no tabs .* name the target's with target_path"):
        read(tmp_path / "left.txt")


def test_tables_have_any_number_of_columns_and_no_quoting(tmp_path):
    english, french = pairs(60)
    english[3], french[5] = '"The dog sees', 'Le chat "voit'
    rows = [f"{i}\t{f}\t{e}\tCC-BY 2.0" for i, (e, f) in enumerate(zip(english, french, strict=True))]
    data = read(write(tmp_path / "pairs.txt", [*rows[:30], "", *rows[30:]]), source_column=3, target_column=2)
    held = [pair for part in data.parts.values() for pair in part]
    assert data.format == "table" and sorted(held) == sorted(zip(english, french, strict=True))
    with pytest.raises(DataError, match="fewer than 5 columns with tabs between in line 1, 2, 3 and 57 more"):
        read(tmp_path / "pairs.txt", target_column=5)


def test_a_header_names_the_columns(tmp_path):
    rows = [f"{i}\t{f}\t{e}" for i, (e, f) in enumerate(zip(*pairs(60), strict=True))]
    data = read(write(tmp_path / "pairs.tsv", ["id\tFR\ten", *rows]), source="en", target="fr")
    assert data.read == {"train": 60} and data.parts["val"].sources[0].startswith("The")
    rows = ["\t".join(pair) for pair in zip(*pairs(60), strict=True)]
    for head in ("source\ttarget", "en\tfr", "English\tFrench", "src\tFrench"):
        found = read(write(tmp_path / "more.tsv", [head, *rows]))
        assert found.read == {"train": 60} and "the first line names the columns" in found.notes[0], head
    for pair in ("no\tno", "No smoking\tfr", "dog\tfr"):  # sentences
        assert read(write(tmp_path / "more.tsv", [pair, *rows])).read == {"train": 61}, pair
    with pytest.raises(DataError, match="none.tsv: holds no pairs"):
        read(write(tmp_path / "none.tsv", ["source\ttarget", " "]))


def test_a_folder_of_tables(tmp_path):
    rows = ["\t".join(pair) for pair in zip(*pairs(80), strict=True)]
    for name, some in (("train.tsv", rows[:60]), ("dev.tsv", rows[60:70]), ("test.tsv", rows[70:])):
        write(tmp_path / name, some)
    write(tmp_path / "README.txt", ["these are pairs"])
    assert read(tmp_path).counts == SIZES
    assert kind_of_data(str(tmp_path)) == ("translate", "pairs")


def test_packed_files(tmp_path):
    root = folder(tmp_path / "d")
    wanted = read(root).split_hash
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in sorted(root.iterdir()):
            archive.write(path, f"d/{path.name}")
    assert read(tmp_path / "d.zip").split_hash == wanted
    for path in sorted(root.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read(root).split_hash == wanted


def test_a_file_next_to_its_packed_form_is_read_once(tmp_path):
    root = folder(tmp_path / "d")
    (
        (root / "train.en.gz").write_bytes(gzip.compress(b"old\n")),
        (root / "train.fr.gz").write_bytes(gzip.compress(b"x\n")),
    )
    assert read(root).read == SIZES
    rows = ["\t".join(pair) for pair in zip(*pairs(50), strict=True)]
    write(tmp_path / "t" / "p.tsv", rows), (tmp_path / "t" / "p.tsv.gz").write_bytes(gzip.compress(b"a\tb\n"))
    assert read(tmp_path / "t").read == {"train": 50}


def test_languages_of_files_that_name_none_can_be_said(tmp_path):
    data = read(folder(tmp_path, tags=("src", "tgt")), source="en", target="fr")
    assert data.counts == SIZES and (data.source, data.target) == ("en", "fr")
    with pytest.raises(DataError, match="no sentence pairs in it"):
        read(folder(tmp_path / "x", tags=("en", "fr")), source="it", target="es")


def test_several_files_train_together_and_several_tests_are_asked_about(tmp_path):
    names = ("news.train", "web.train", "val", "test_2016_flickr", "test_2017_mscoco")
    folder(tmp_path, (30, 30, 10, 10, 20), names)
    with pytest.raises(DataError, match=r"test_2016_flickr, test_2017_mscoco could be the test part; say .* data.test"):
        read(tmp_path)
    data = read(tmp_path, test="test_2017_mscoco")
    assert data.counts == {"train": 60, "val": 10, "test": 20}
    assert any("news.train, web.train together" in note for note in data.notes)
    with pytest.raises(DataError, match="no files test_2016_fliker for data.test; did you mean test_2016_flickr"):
        read(tmp_path, test="test_2016_fliker")
    assert read(tmp_path, test="test_2016_flickr", train="web.train").counts["train"] == 30


def test_files_without_a_part_are_the_training_part_next_to_others(tmp_path):
    folder(tmp_path, (60, 10, 10), ("europarl-v7.fr-en", "newstest2013", "newstest2014"))
    data = read(tmp_path, source="en", target="fr", val="newstest2013", test="newstest2014")
    assert data.counts == SIZES


def test_more_than_two_languages_are_asked_about(tmp_path):
    folder(tmp_path)
    write(tmp_path / "train.de", ["Der Hund"] * 60)
    with pytest.raises(DataError, match="holds de, en, fr; say which two with data.source and data.target"):
        read(tmp_path)
    assert read(tmp_path, source="en", target="fr").counts == SIZES
    assert kind_of_data(str(tmp_path)) == ("translate", "pairs")


def test_a_missing_file_is_named(tmp_path):
    root = folder(tmp_path)
    (root / "val.fr").unlink()
    with pytest.raises(DataError, match=r"val.en without val.fr; both files are needed"):
        read(root)
    (root / "val.en").unlink()
    assert read(root).divided == ("val",)
    for name in ("train.fr", "test.fr"):
        (root / name).unlink()
    with pytest.raises(DataError, match=r"without test.fr, train.en without train.fr"):
        read(root, source="en", target="fr")
    with pytest.raises(DataError, match="no such file or folder; expected .*; did you mean train.en"):
        read(root / "trian.en")
    with pytest.raises(DataError, match=r"train.fr: no such file; expected the file whose lines belong to those of"):
        read(root / "train.en", target_path=str(root / "train.fr"))
    with pytest.raises(DataError, match="no path; expected two files"):
        read("")


def test_a_test_of_another_pair_of_languages_is_left_out(tmp_path):
    root = folder(tmp_path)
    write(root / "test_2017.en", ["The dog"] * 5)
    data = read(root, source="en", target="fr")
    assert data.counts == SIZES and any("test_2017.en without test_2017.fr" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("spam.txt", ["ham\tsee you at noon", "spam\twin a prize now"] * 20),
        ("labels.txt", [f"img{i}.png\t{i % 3}" for i in range(40)]),
        ("story.txt", ["Once upon a time", "there was a dog."] * 20),
    ],
)
def test_other_texts_are_no_pairs(tmp_path, name, lines):
    assert kind_of_data(str(write(tmp_path / name, lines)))[0] != "translate"


def test_an_empty_folder_and_a_folder_of_other_things(tmp_path):
    with pytest.raises(DataError, match="no sentence pairs in it; expected two files"):
        read(tmp_path)
    write(tmp_path / "notes.txt", ["hello"])
    with pytest.raises(DataError, match="no sentence pairs in it; expected two files"):
        read(tmp_path, source="en", target="fr")
