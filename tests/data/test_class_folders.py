import os
import unicodedata
import zipfile

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data import open_images

COUNTS = {"train/cat": 20, "train/dog": 30, "test/cat": 4, "test/dog": 6}


def problems(path, **options):
    with pytest.raises(DataError) as caught:
        open_images(path, **options)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_parts_classes_and_validation(make, tmp_path):
    data = open_images(make.tree(tmp_path / "pets", COUNTS))
    assert (data.name, data.format, data.classes) == ("pets", "class_folders", ("cat", "dog"))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 45, "val": 5, "test": 10}
    assert np.bincount(data.val.labels).tolist() == [2, 3]
    assert data.val.labels.dtype == np.int64
    assert data.test.ids[0] == "test/cat/0.png"
    assert data.val.ids[0].startswith("train/")
    assert set(data.train.ids).isdisjoint(data.val.ids)
    assert "10% of train (5 of 50 images), stratified, seed 0" in data.notes[0]
    assert data.train.groups is None
    assert data.problems == []


@pytest.mark.parametrize(
    "names", [("Training", "Validation", "Testing"), ("TRAIN", "valid", "Test"), ("train", "val", "testing")]
)
def test_names_of_the_parts(make, tmp_path, names):
    train, val, test = names
    data = open_images(make.tree(tmp_path, {f"{p}/{c}": 3 for p in (train, val, test) for c in "ab"}))
    assert [len(split) for split in data.splits.values()] == [6, 6, 6]
    assert data.notes == []


def test_pictures_are_those_of_the_files(make, tmp_path):
    data = open_images(make.tree(tmp_path, COUNTS))
    assert np.array_equal(np.asarray(data.test.image(0)), np.asarray(make.draw(51)))
    array = data.test.array(8)
    assert array.shape == (10, 8, 8, 3)
    assert array.dtype == np.uint8
    whole = open_images(make.tree(tmp_path / "square", COUNTS)).test.array(10)
    assert np.array_equal(whole[0], np.asarray(make.draw(51).crop((1, 0, 11, 10))))


def test_without_parts_a_fifth_is_the_test_whatever_the_seed(make, tmp_path):
    root = make.tree(tmp_path, {"cat": 50, "dog": 30})
    data, other = open_images(root), open_images(root, seed=1, val_fraction=0.3)
    assert [len(split) for split in data.splits.values()] == [58, 6, 16]
    assert np.bincount(data.test.labels).tolist() == [10, 6]
    assert data.test.ids == other.test.ids
    assert data.val.ids != other.val.ids
    assert [note.split(":")[0] for note in data.notes] == [
        "no test part was published",
        "no val part was published",
    ]


@pytest.mark.parametrize("top", ["", "pets-main/", "a/b/"])
@pytest.mark.parametrize("counts", [COUNTS, {"cat": 20, "dog": 10}])
def test_zip_equals_folder(make, tmp_path, top, counts):
    root = make.tree(tmp_path / "pets", counts)
    folder = open_images(root)
    packed = open_images(make.pack(root, tmp_path / "pets.zip", top, reverse=True))
    assert packed.format == "zip_folders"
    assert packed.name == "pets"
    assert packed.split_hash == folder.split_hash
    assert packed.notes == folder.notes
    assert packed.train.ids == folder.train.ids
    assert np.array_equal(packed.val.array(8), folder.val.array(8))


def test_an_unpacked_top_folder_is_passed_through(make, tmp_path):
    make.tree(tmp_path / "a" / "b", COUNTS)
    assert open_images(tmp_path).train.ids[0].startswith("train/")


def test_a_folder_with_one_zip_and_text_beside(make, tmp_path):
    root = make.tree(tmp_path / "pets", COUNTS)
    home = tmp_path / "home"
    home.mkdir()
    make.pack(root, home / "download")  # the format is found from the content
    (home / "SOURCE.md").write_text("from somewhere")
    with zipfile.ZipFile(home / "letter.docx", "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    data = open_images(home)
    assert data.format == "zip_folders"
    assert data.split_hash == open_images(root).split_hash
    make.pack(root, home / "second.zip")
    with pytest.raises(DataError, match="several data sets"):
        open_images(home)


def test_hidden_and_system_files_are_ignored(make, tmp_path):
    root = make.tree(tmp_path / "pets", COUNTS)
    before = open_images(root).split_hash
    for name in (
        "Thumbs.db",
        "train/cat/.hidden.png",
        "train/.DS_Store",
        ".git/x.png",
        "__MACOSX/train/cat/._0.png",
    ):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(b"x")
    data = open_images(root)
    assert data.split_hash == before
    assert data.notes[0] == "left out: 5 hidden or system files (.git/, Thumbs.db, __MACOSX/ and 2 more)"
    assert len(data.notes) == 2
    assert open_images(make.pack(root, tmp_path / "p.zip")).split_hash == before


def test_other_files_are_noted_and_pictures_known_by_content(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    (root / "train" / "cat" / "notes.txt").write_text("a cat")
    (root / "train" / "cat" / "photo").write_bytes(make.encode(make.draw(900)))
    (root / "train" / "cat" / "webp.bin").write_bytes(make.encode(make.draw(901), "WEBP"))
    (root / "loose.png").write_bytes(b"x")
    (root / "readme.txt").write_text("x")
    data = open_images(root)
    assert sum(len(split) for split in data.splits.values()) == 62
    assert data.notes[:2] == [
        "left out: 1 image outside of class folders (loose.png)",
        "left out: 1 file of another kind (train/cat/notes.txt)",
    ]


def test_folders_below_a_class_belong_to_it(make, tmp_path):
    data = open_images(make.tree(tmp_path, {"train/a/p1": 3, "train/a/p2": 3, "train/b": 4, "test/a": 1, "test/b": 1}))
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.val) == 10


def test_everything_wrong_is_told_at_once(make, tmp_path):
    counts = {"train/cat": 3, "train/dog": 3, "train/owl": 0, "test/cat": 2, "test/yak": 2, "val/cat": 0}
    root = make.tree(tmp_path, counts)
    (root / "train/cat/0.png").write_bytes(make.encode(make.draw(0))[:100])
    (root / "test/yak/1.png").write_bytes(b"")
    found = problems(root)
    expected = (
        "train/owl/: no images",
        "val/: has no images",
        "val/cat/: no images",
        "'owl': no images in train (none",
    )
    expected += ("'yak': no images in train (2 in test)", "train/cat/0.png: cannot", "test/yak/1.png: cannot")
    for start in expected:
        assert sum(start in problem for problem in found) == 1, start
    assert len(found) == len(expected)
    assert len(open_images(root, strict=False).problems) == len(expected) - 2


def test_unreadable_images_of_all_parts_are_told_by_the_first_array(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    bad = ["train/cat/3.png", "train/dog/7.png", "test/dog/1.png"]
    for name in bad:
        (root / name).write_bytes((root / name).read_bytes()[:90])
    data = open_images(root)
    with pytest.raises(DataError) as caught:
        data.train.array(8)
    assert sorted(problem.split(":")[0] for problem in caught.value.problems) == sorted(bad)
    assert caught.value.exit_code == 2
    with pytest.raises(DataError, match=r"test/dog/1\.png"):
        data.test.image(data.test.ids.index("test/dog/1.png"))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train/a": 1, "train/b": 1}, "test: no images can be spared"),
        ({"test/a": 2, "test/b": 2}, "train: the part is empty"),
        ({"train/a": 2, "test/a": 2}, "only one class, 'a'"),
        ({"a": 5}, "only one class, 'a'"),
        ({"train": 5, "test": 2}, "outside of class folders"),
        ({"train/a": 2, "Training/a": 2, "test/a": 1}, "both mean the train part"),
        ({"one/train/a": 2, "one/test/a": 1, "two/train/a": 2}, "one/, two/: each has parts of its own"),
        ({"one/Training/a": 2, "one/Testing/a": 1, "two/x": 2}, "one/: has parts of its own"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1}, "val: no images can be spared"),
    ],
)
def test_each_structural_problem(make, tmp_path, counts, expected):
    assert any(expected in problem for problem in problems(make.tree(tmp_path, counts)))


def test_a_missing_test_is_taken_from_train(make, tmp_path):
    data = open_images(make.tree(tmp_path / "a", {"train/a": 20, "train/b": 10}))
    assert [len(split) for split in data.splits.values()] == [21, 3, 6]
    assert data.notes[0].startswith("no test part was published: 20% of train (6 of 30 images)")
    data = open_images(make.tree(tmp_path / "b", {"train/a": 20, "train/b": 10, "val/a": 1, "val/b": 1}))
    assert [len(split) for split in data.splits.values()] == [24, 2, 6]
    assert any("if val is meant to be the test, rename it" in note for note in data.notes)


def test_a_class_without_test_images_is_a_note(make, tmp_path):
    data = open_images(make.tree(tmp_path, {"train/a": 4, "train/b": 4, "test/a": 2}))
    assert any("'b' has no test images" in note for note in data.notes)


def test_no_data_set_says_what_is_accepted(make, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    make.tree(tmp_path / "pets", COUNTS)
    for path, expected in (
        (
            tmp_path / "pets" / "train" / "cat",
            "no data set in a known format, found 0.png, 1.png, 10.png and 17 more",
        ),
        (tmp_path / "a.txt", "not a data set in a known format"),
        (tmp_path / "pet", "no such file or folder; did you mean 'pets'"),
        ("", "no data are named"),
    ):
        with pytest.raises(DataError, match=expected):
            open_images(path)
    with pytest.raises(DataError, match="val_fraction"):
        open_images(val_fraction=0)


def test_the_order_of_the_file_system_does_not_matter(make, tmp_path, monkeypatch):
    root = make.tree(tmp_path, COUNTS)
    first = open_images(root)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    again = open_images(root)
    assert again.split_hash == first.split_hash
    assert again.val.ids == first.val.ids


def test_names_are_normalised(make, tmp_path):
    """macOS stores é as two characters; the id, and so the split, is that of every other machine."""
    name = unicodedata.normalize("NFD", "café")
    data = open_images(make.tree(tmp_path, {f"train/{name}": 3, "train/b": 3, f"test/{name}": 1, "test/b": 1}))
    assert data.classes == ("b", "café")
    assert len(data.test.array(4)) == 2


def test_names_that_are_no_text_can_be_printed(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    try:
        os.rename(root / "train/cat/0.png", os.fsencode(root / "train/cat") + b"/\xff.png")
    except OSError:
        pytest.skip("this file system stores text names only")
    data = open_images(root)
    assert any("\\xff.png" in name for split in data.splits.values() for name in split.ids)
    assert len(data.train.array(4)) == 45
    "".join(data.train.ids).encode()


def test_links_are_followed_but_not_in_circles(make, tmp_path):
    root = make.tree(tmp_path / "real", COUNTS)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(root / "train")
    (linked / "test").symlink_to(root / "test")
    before = open_images(root).split_hash
    assert open_images(linked).split_hash == before
    (root / "train" / "cat" / "loop").symlink_to(root)
    assert open_images(root).split_hash == before
    (root / "test" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"test/cat/gone\.png: cannot be read \(No such file"):
        open_images(root).test.array(4)


def test_a_folder_that_cannot_be_listed_is_a_problem(make, tmp_path, monkeypatch):
    root, scandir = make.tree(tmp_path, COUNTS), os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert sum("cannot be listed (Permission denied)" in problem for problem in problems(root)) == 2
