import pytest

from ssmlab.core.errors import DataError
from ssmlab.data import open_images

NAME, LABEL, VOTES, PART = (
    "Image Name",
    "Majority Vote Label",
    "Number of Annotators who Selected SSA (Out of 7)",
    "Partition",
)


def rows(*triples, **columns):
    return [
        {NAME: name, LABEL: label, PART: part} | {key: values[i] for key, values in columns.items()}
        for i, (name, label, part) in enumerate(triples)
    ]


def problems(path, **options):
    with pytest.raises(DataError) as caught:
        open_images(path, **options)
    return caught.value.problems


def test_as_published(make, tmp_path):
    data = open_images(make.mhist(tmp_path / "mhist"))
    assert (data.name, data.format, data.classes) == ("mhist", "mhist", ("HP", "SSA"))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 36, "val": 4, "test": 40}
    assert data.val.labels.tolist().count(1) == 2
    assert data.test.ids[0] == "MHIST_test_SSA_00.png"
    assert data.test.labels[0] == 1
    assert data.test.array(8).shape == (40, 8, 8, 3)
    assert open_images(tmp_path / "mhist" / "annotations.csv").split_hash == data.split_hash


def test_packed_and_nested_sets_equal_the_folder(make, tmp_path):
    root = make.mhist(tmp_path / "top" / "mhist")
    expected = open_images(root).split_hash
    assert open_images(tmp_path / "top").split_hash == expected
    assert open_images(make.pack(root, tmp_path / "all.zip", "mhist/")).split_hash == expected
    for top in ("images/", ""):  # as it is downloaded: the table beside images.zip
        home = tmp_path / f"home{top.rstrip('/')}"
        home.mkdir()
        (home / "annotations.csv").write_bytes((root / "annotations.csv").read_bytes())
        make.pack(root / "images", home / "images.zip", top)
        data = open_images(home)
        assert data.split_hash == expected
        assert len(data.train.array(4)) == 36


def test_any_name_and_excels_encoding_will_do(make, tmp_path):
    root = make.mhist(tmp_path)
    text = (root / "annotations.csv").read_text().replace(",", ";")
    (root / "annotations.csv").unlink()
    (root / "labels.csv").write_text(text, encoding="utf-8-sig")
    assert len(open_images(root).test) == 40
    (root / "more.csv").write_text(text)
    with pytest.raises(DataError, match=r"several tables of annotations \(labels\.csv, more\.csv\)"):
        open_images(root)


def test_everything_wrong_is_told_at_once(make, tmp_path):
    root = make.mhist(
        tmp_path,
        rows(
            *[
                (f"{label}_{part}{i}.png", label, part)
                for label in ("HP", "SSA")
                for part in ("train", "test")
                for i in range(4)
            ],
            ("typo.png", "SAA", "train"),
            ("none.png", "", "train"),
            ("part.png", "HP", "valid"),
            ("HP_train0.png", "HP", "train"),
            ("gone.png", "HP", "train"),
        ),
    )
    (root / "images" / "gone.png").unlink()
    (root / "images" / "SSA_test1.png").write_bytes(b"\xff\xd8\xff")
    (root / "images" / "extra.png").write_bytes(b"x")
    found = problems(root)
    for expected in (
        "line 18: typo.png has the unknown label 'SAA'; expected HP or SSA; did you mean 'SSA'?",
        "annotations.csv, line 19: none.png has the unknown label ''; expected HP or SSA",
        "annotations.csv, line 20: part.png has the unknown partition 'valid'; expected train or test",
        "annotations.csv, line 21: HP_train0.png is already in line 2; keep one of the two",
        "gone.png: missing in images/ (annotations.csv, line 22); add the file or delete the row",
        "SSA_test1.png: cannot be read (",
    ):
        assert any(expected in problem for problem in found), expected
    assert len(found) == 6
    notes = open_images(root, strict=False).notes
    assert "left out: 1 image that is not in annotations.csv (extra.png)" in notes


@pytest.mark.parametrize("column", [NAME, LABEL, PART])
def test_missing_columns(make, tmp_path, column):
    root = make.mhist(tmp_path)
    text = (root / "annotations.csv").read_text()
    (root / "annotations.csv").write_text(text.replace(column, column.lower()))
    (problem, *_) = problems(root)
    assert problem.startswith(f"annotations.csv: no column {column!r} among")
    assert f"did you mean {column.lower()!r}" in problem


def test_the_votes_are_not_needed(make, tmp_path):
    data = open_images(make.mhist(tmp_path, columns=(NAME, LABEL, PART)))
    assert "has no column" in data.notes[0]


def test_missing_images_are_one_problem_when_all_are(make, tmp_path):
    root = make.mhist(tmp_path)
    (root / "images").rename(root / "pictures")
    assert problems(root)[0] == "images/: the folder is missing; put the images there, next to annotations.csv"
    (root / "images").mkdir()
    assert "MHIST_train_SSA_00.png and 79 others of annotations.csv: none is in images/" in problems(root)[0]


def test_empty_partitions(make, tmp_path):
    for part, other in (("train", "test"), ("test", "train")):
        root = make.mhist(tmp_path / part, rows(*[(f"{c}{i}.png", c, part) for c in ("HP", "SSA") for i in range(3)]))
        assert f"{other}: the part is empty or missing; add images" in problems(root)


def test_own_labels(make, tmp_path):
    triples = [(f"{c}{p}{i}.png", c, p) for c in ("normal", "tumour") for p in ("train", "test") for i in range(5)]
    assert open_images(make.mhist(tmp_path / "own", rows(*triples))).classes == ("normal", "tumour")
    wrong = make.mhist(tmp_path / "typo", rows(*triples, ("x.png", "norml", "train")))
    assert "unknown label 'norml'; expected normal or tumour; did you mean 'normal'?" in problems(wrong)[0]
    only_test = make.mhist(tmp_path / "test", rows(*triples, ("x.png", "rare", "test"), ("y.png", "rare", "test")))
    assert problems(only_test) == ["class 'rare': no images in train (2 in test); add some, or remove the class"]


def test_a_group_column(make, tmp_path):
    triples = [(f"{c}{p}{i:02d}.png", c, p) for c in ("HP", "SSA") for p in ("train", "test") for i in range(24)]
    patients = [f"{part}{i % 24 // 3}" for i, (_, _, part) in enumerate(triples)]
    columns = (NAME, LABEL, VOTES, PART, "Patient")
    root = make.mhist(tmp_path / "good", rows(*triples, Patient=patients), columns)
    data = open_images(root, group="Patient")
    assert len(data.val) >= 3
    assert set(data.val.groups).isdisjoint(data.train.groups)
    assert "images of one group stay together" in data.notes[-1]
    assert problems(root, group="patient")[0].endswith("did you mean 'Patient'?")

    patients[0], patients[1] = "test7", ""
    root = make.mhist(tmp_path / "bad", rows(*triples, Patient=patients), columns)
    found = problems(root, group="Patient")
    assert len(found) == 2
    assert found[0] == "annotations.csv, line 3: HPtrain01.png has no Patient; fill it in"
    assert found[1].startswith("group 'test7' is in train (HPtrain00.png), test (HPtest21.png, HPtest22.png")
    assert len(open_images(root).train) > 0  # without the option, nobody asks


def test_a_table_that_is_no_text(make, tmp_path):
    root = make.mhist(tmp_path)
    with open(root / "annotations.csv", "ab") as file:
        file.write(b"\xff\xfe,HP,3,train\n")
    assert "annotations.csv: not UTF-8 at byte" in problems(root)[0]


def test_a_table_that_cannot_be_read(make, tmp_path):
    """The header can be read, the whole cannot: the checksum in the archive is wrong."""
    root = make.mhist(tmp_path / "mhist")
    with open(root / "annotations.csv", "a") as file:
        file.write("\n" * 9000)
    path = make.pack(root, tmp_path / "mhist.zip")
    data = bytearray(path.read_bytes())
    at = data.index(b"annotations.csv", data.index(b"PK\x01\x02")) - 46  # its entry in the central directory
    data[at + 16 : at + 20] = bytes(4)  # another checksum
    path.write_bytes(data)
    (problem,) = problems(path)
    assert problem.startswith("annotations.csv: cannot be read (")
    assert "Bad CRC" in problem
