import io
import zipfile

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data import files as files_module
from ssmlab.data import open_images
from ssmlab.data.images import medmnist as module


def problems(path, **options):
    with pytest.raises(DataError) as caught:
        open_images(path, **options)
    return caught.value.problems


@pytest.mark.parametrize("shape", [(6, 6), (6, 5, 1), (6, 6, 3)])
def test_grey_and_colour(make, tmp_path, shape):
    path = make.medmnist(tmp_path / "x.npz", shape=shape)
    data = open_images(path)
    assert (data.name, data.format, data.classes) == ("x", "medmnist", ("0", "1"))
    assert [len(split) for split in data.splits.values()] == [40, 10, 10]
    assert data.train.labels.tolist() == [0, 1] * 20
    assert data.val.ids[:2] == ["val/0", "val/1"]
    pixels = np.asarray(data.test.image(3))
    expected = np.load(path)["test_images"][3].reshape(*shape[:2], -1)
    assert pixels.shape == (*shape[:2], 3)
    assert (pixels == expected).all()
    assert data.notes == []


def test_the_folder_and_other_names_are_the_same(make, tmp_path):
    (tmp_path / "a").mkdir()
    path = make.medmnist(tmp_path / "a" / "x.npz")
    (tmp_path / "a" / "SOURCE.md").write_text("from the web")
    expected = open_images(path).split_hash
    assert open_images(tmp_path / "a").split_hash == expected
    path.rename(tmp_path / "a" / "download.zip")
    assert open_images(tmp_path / "a").format == "medmnist"


def test_flat_labels_and_no_validation(make, tmp_path):
    flat = {f"{part}_labels": np.arange(n, dtype=np.int64) % 2 for part, n in (("train", 40), ("test", 10))}
    data = open_images(make.medmnist(tmp_path / "x.npz", val_images=None, val_labels=None, **flat))
    assert [len(split) for split in data.splits.values()] == [36, 4, 10]
    assert all(name.startswith("train/") for name in data.val.ids)
    assert "10% of train (4 of 40 images)" in data.notes[0]


def test_class_names_beside_the_file(make, tmp_path):
    path = make.medmnist(tmp_path / "x.npz")
    (tmp_path / "classes.txt").write_text("normal\npneumonia\n")
    assert open_images(path).classes == ("normal", "pneumonia")
    (tmp_path / "classes.txt").write_text("normal\n")
    assert problems(path) == ["classes.txt: 1 names for 2 classes; write one different name a line, or delete it"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"test_images": None}, "test_images: missing in x.npz; add the array"),
        ({"train_labels": None}, "train_labels: missing in x.npz"),
        ({"val_labels": None}, "val_labels: missing in x.npz"),
        ({"train_images": np.zeros((40, 6, 6), np.float32)}, "train_images: float32 pixels; expected uint8"),
        ({"train_images": np.zeros((40, 6, 6, 6), np.uint8)}, "train_images: shape (40, 6, 6, 6); expected"),
        ({"train_images": np.uint8(3)}, "train_images: shape (); expected"),
        ({"train_labels": np.uint8(3)}, "train_labels: shape (); expected"),
        ({"train_images": np.zeros((40, 0, 6), np.uint8)}, "train_images: shape (40, 0, 6); expected"),
        ({"train_labels": np.zeros((40, 14), np.uint8)}, "labels of the parts have 1 and 14 columns"),
        ({"train_labels": np.zeros((40, 1))}, "train_labels: float64; expected whole numbers"),
        ({"train_labels": np.zeros((39, 1), np.uint8)}, "train_labels: 39 for 40 images"),
        ({"test_labels": np.full((10, 1), -1)}, "test_labels: 10 unknown labels (-1 in row 0)"),
        ({"test_labels": np.full((10, 1), 2**40)}, "test_labels: 10 unknown labels (1099511627776 in row 0)"),
        ({"test_labels": np.full((10, 1), 2)}, "class '2': no images in train (10 in test)"),
        (
            {"test_images": np.zeros((0, 6, 6), np.uint8), "test_labels": np.zeros((0, 1), int)},
            "test: the part is empty",
        ),
        (
            {"train_images": np.array([[None]])},
            "train_images: holds pickled Python objects, which are never loaded",
        ),
    ],
)
def test_each_problem(make, tmp_path, changes, expected):
    assert any(expected in problem for problem in problems(make.medmnist(tmp_path / "x.npz", **changes)))


def test_problems_are_told_together(make, tmp_path):
    path = make.medmnist(
        tmp_path / "x.npz", test_images=None, train_labels=np.zeros((39, 1), np.uint8), val_labels=None
    )
    assert len([problem for problem in problems(path) if problem.startswith(("test_", "train_", "val_"))]) == 3


def test_a_pickle_is_never_loaded(make, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    trap = np.empty(40, object)
    trap[:] = [Trap()] * 40
    assert "train_labels: holds pickled" in problems(make.medmnist(tmp_path / "x.npz", train_labels=trap))[0]


def rewrite(path, name, data):
    """Replace one member of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()} | {name: data}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def test_headers_that_lie_take_no_memory(make, tmp_path):
    path = make.medmnist(tmp_path / "x.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)})
    rewrite(path, "train_images.npy", header.getvalue() + bytes(100))
    assert "train_images: announces (1000000000000, 28, 28) uint8, more than the file holds" in problems(path)[0]


def test_damaged_arrays_and_archives(make, tmp_path):
    path = make.medmnist(tmp_path / "x.npz")
    rewrite(path, "val_images.npy", b"not an array")
    assert "val_images: cannot be read (" in problems(path)[0]
    make.medmnist(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"x\.npz: the zip archive cannot be opened"):
        open_images(tmp_path)


def test_absurd_sizes_are_refused_before_reading(make, tmp_path, monkeypatch):
    zeros = {f"{part}_images": np.zeros((1000, 28, 28), np.uint8) for part in ("train", "val", "test")}
    path = make.medmnist(tmp_path / "x.npz")
    np.savez_compressed(path, **zeros)
    monkeypatch.setattr(module, "machine_memory", lambda: 1 << 20)
    assert "x.npz: needs 2 MiB of memory, this machine has 1" in problems(path)[0]
    monkeypatch.setattr(files_module, "BOMB_BYTES", 1 << 20)
    with pytest.raises(DataError, match="no archive of data"):
        open_images(path)


def test_memory_is_known_here():
    assert module.machine_memory() is None or module.machine_memory() > 1 << 28


def test_groups(make, tmp_path):
    path = make.medmnist(tmp_path / "x.npz", (40, 0, 10), val_images=None, val_labels=None)
    rows = [f"train/{i},p{i // 4}" for i in range(40)] + [f"test/{i},q{i}" for i in range(10)]
    (tmp_path / "groups.csv").write_text("\n".join(["file,patient", *rows]))
    data = open_images(path, group="patient")
    assert set(data.train.groups).isdisjoint(data.val.groups)
    assert len(data.val) == 4
    (tmp_path / "groups.csv").write_text("\n".join(["file,patient", *rows]).replace("q3", "p3"))
    assert problems(path, group="patient")[0].startswith("group 'p3' is in train (train/12, train/13")
