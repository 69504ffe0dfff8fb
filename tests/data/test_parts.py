"""One decision from files to part, class and group: what names mean, and that nobody decides it a second time."""

import ast
import zipfile

import pytest

from sources import FILES, ROOT, nodes
from ssmlab.data import names
from ssmlab.data.files import FolderFiles, ZipFiles
from ssmlab.data.parts import parts_of, sort_files

# Who sorts files: readers of class folders, of pairs, of files without classes, of what a command is given
CALLERS = {
    *("data/images/formats.py", "data/images/imagenet.py", "data/sequences/reader.py", "data/masks/pairs.py"),
    *("data/masks/nnunet.py", "data/text/documents.py", "data/kind_of_data.py"),
}
TRAIN, OTHERS = {"train", "training", "Training", "Tr"}, {"testing", "Testing", "valid", "dev", "Ts"}


def test_one_function_sorts_and_all_readers_call_it():
    called = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "sort_files"
    }
    assert called - {"data/parts.py"} == CALLERS


def test_no_other_table_of_parts():
    """No literal holds a spelling of train together with one of another part that we do not use ourselves."""
    for path in FILES:
        file = path.relative_to(ROOT).as_posix()
        for node in nodes(path):
            if not isinstance(node, ast.Dict | ast.Set | ast.List | ast.Tuple):
                continue
            values = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert file == "data/names.py" or not (values & TRAIN and values & OTHERS), (file, node.lineno)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("train", ("train", "")),
        ("Train-Masks", ("train", "masks")),
        ("imagesTr", ("train", "images")),
        ("labelsTs", ("test", "labels")),
        ("TEST SET", ("test", "set")),
        ("trainset", ("train", "")),
        ("trainannot", ("train", "annot")),
        ("val2017", ("val", "")),
        ("seg_pred", (None, "seg_pred")),
        ("train_test_split", (None, "train_test_split")),
        ("constraint", (None, "constraint")),
        ("contest", (None, "contest")),
        ("Ground Truth", (None, "ground_truth")),
        ("SegmentationClass", (None, "segmentationclass")),
    ],
)
def test_what_a_folder_s_name_says(name, meaning):
    assert names.folder_meaning(name) == meaning


def test_parts_among_siblings():
    assert names.parts_among(["20news-bydate-train", "20news-bydate-test", "docs"]) == {
        "20news-bydate-train": "train",
        "20news-bydate-test": "test",
    }
    assert names.parts_among(["bullet_train", "tram", "test_tube"]) == {}
    libri = {"train-clean-100": "train", "dev-clean": "val", "test-clean": "test", "test-other": "test"}
    assert names.parts_among(libri) == libri


def test_numbers_at_the_end_of_names():
    assert [n for n in ("fold1", "Fold_2", "fold-3", "cv 4", "folder1", "fold", "5fold") if names.is_fold(n)] == [
        "fold1", "Fold_2", "fold-3", "cv 4",
    ]  # fmt: skip
    assert [n for n in ("batch_2", "part3", "a_part_1", "images_001", "class1", "grade 2") if names.is_portion(n)] == [
        "batch_2", "part3", "a_part_1", "images_001",
    ]  # fmt: skip
    assert [n for n in ("2019", "2019-05-01", "1234567", "3019") if names.is_date(n)] == ["2019", "2019-05-01"]


def test_a_file_is_named_to_its_last_suffix():
    assert names.stem_of("a/human.promoter.fa") == "human.promoter"
    assert names.stem_of("human.promoter.v2.fa.gz") == "human.promoter.v2"
    assert names.stem_of("x.y.png") == "x.y"


def test_parts_of_files_that_are_no_class():
    told = parts_of(["a/train.txt", "a/test.txt", "test/x.txt", "wiki.valid.txt", "wiki.train.txt", "wiki.test.txt"])
    assert told == ["train", "test", "test", "val", "train", "test"]
    assert parts_of(["Train.txt", "Test.txt", "Tram.txt"]) == [None] * 3, "three articles of an encyclopedia"
    assert parts_of(["train_images/a.png", "masks/test/b.png"], folders_only=True) == ["train", "test"]


def test_a_zip_is_sorted_as_its_folder(tmp_path):
    folder = tmp_path / "pets"
    for name in ("train/cat/1.txt", "train/dog/2.txt", "test/cat/3.txt", "@eaDir/x.txt", "train/dog/.DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(tmp_path).as_posix())
    one = sort_files(FolderFiles(folder), "text")
    packed = sort_files(ZipFiles(tmp_path / "pets.zip"), "text")
    assert packed.prefix == "pets/" and [e.name.removeprefix("pets/") for e in packed.examples] == [
        e.name for e in one.examples
    ]
    assert [(e.part, e.label) for e in one.examples] == [("test", "cat"), ("train", "cat"), ("train", "dog")]
    assert one.notes == packed.notes == ["left out: 2 hidden or system files (@eaDir/, train/dog/.DS_Store)"]
