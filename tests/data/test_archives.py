import pickle
import zipfile

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data import files as files_module
from ssmlab.data import open_images
from ssmlab.data.files import FolderFiles, ZipFiles

COUNTS = {"train/cat": 20, "train/dog": 30, "test/cat": 4, "test/dog": 6}


def test_archives_that_lie_are_refused(make, tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png"):
            archive.writestr(name, bytes(1 << 20))
    monkeypatch.setattr(files_module, "BOMB_BYTES", 1 << 20)
    with pytest.raises(DataError, match="no archive of data"):
        open_images(bomb)
    monkeypatch.setattr(files_module, "BOMB_BYTES", 1 << 30)
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DataError) as caught:
        open_images(bomb).train.array(4)
    assert sum("1,048,576 bytes are more than the limit of 1,000" in p for p in caught.value.problems) == 4
    monkeypatch.setattr(files_module, "MAX_FILES", 3)
    with pytest.raises(DataError, match="more than the limit of 3"):
        open_images(bomb)
    make.tree(tmp_path / "many", {"a": 4})
    with pytest.raises(DataError, match="more than 3 files"):
        open_images(tmp_path / "many")


def test_damaged_archives_and_members_are_named(make, tmp_path):
    root = make.tree(tmp_path / "pets", COUNTS)
    path = make.pack(root, tmp_path / "pets.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train/cat/5.png")
    data[info.header_offset + 60 : info.header_offset + 80] = bytes(20)
    (tmp_path / "damaged.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"train/cat/5\.png: cannot be read \(cannot be taken out of the archive"):
        open_images(tmp_path / "damaged.zip").train.array(4)
    (tmp_path / "half.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"half\.zip: the zip archive cannot be opened"):
        open_images(tmp_path / "half.zip")


def test_windows_archives_have_backslashes(make, tmp_path):
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(["train/a/0", "train/a/1", "train/b/0", "train/b/1", "test/a/0", "test/b/0"]):
            info = zipfile.ZipInfo(name)
            info.filename = name.replace("/", "\\") + ".png"
            archive.writestr(info, make.encode(make.draw(number)))
    assert open_images(path).test.ids == ["test/a/0.png", "test/b/0.png"]


def test_splits_survive_pickling_and_forking(make, tmp_path):
    root = make.tree(tmp_path / "pets", COUNTS)
    data = open_images(make.pack(root, tmp_path / "pets.zip"))
    copy = pickle.loads(pickle.dumps(data.test))
    assert np.array_equal(copy.array(4), data.test.array(4))
    data.test._load.files._process = -1  # as it is in a forked child
    handle = data.test._load.files._zip
    assert data.test.image(0).size == (12, 10)
    assert data.test._load.files._zip is not handle
    for each in (copy, data.test):  # splits refer to each other, and garbage is finalised in any order
        each._load.files._zip.close()


def test_files_list_what_a_folder_and_a_zip_have(make, tmp_path):
    root = make.tree(tmp_path / "pets", COUNTS)
    folder, archive = FolderFiles(root), ZipFiles(make.pack(root, tmp_path / "pets.zip"))
    assert list(folder.files) == list(archive.files)
    assert folder.folders == archive.folders
    assert all(folder.read(name) == archive.read(name) for name in folder.files)
    assert folder.head("train/cat/0.png", 4) == archive.head("train/cat/0.png", 4) == b"\x89PNG"
