"""MedSegBench's arrays as images with masks; pictures and masks that are left out when asked."""

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data import check_images, open_images
from ssmlab.data.kind_of_data import kind_of_data
from ssmlab.data.masks.reader import open_masks


def arrays(**changes):
    random = np.random.default_rng(0)
    found = {}
    for part, n in (("train", 12), ("val", 3), ("test", 4)):
        found[f"{part}_images"] = random.integers(0, 255, (n, 16, 16, 3), np.uint8)
        found[f"{part}_label"] = (random.random((n, 16, 16)) > 0.6).astype(np.uint8)
    return found | changes


def test_its_parts_and_masks(tmp_path):
    given = arrays()
    np.savez(tmp_path / "x_16.npz", **given)
    data = open_masks(tmp_path / "x_16.npz")
    assert [len(data.train), len(data.val), len(data.test)] == [12, 3, 4] and data.format == "medsegbench"
    assert data.train.ids[5] == "train/images/5.png"
    sample = data.test.sample(2)
    assert np.array_equal(sample.image, given["test_images"][2].transpose(2, 0, 1))
    assert np.array_equal(sample.labels, given["test_label"][2])
    assert kind_of_data(str(tmp_path / "x_16.npz")) == ("segment", "mask")


def test_what_does_not_fit(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays(val_label=np.zeros((3, 8, 8), np.uint8)))
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path / "x.npz")
    assert "val_images: uint8 (3, 16, 16, 3), labels (3, 8, 8)" in caught.value.problems[0]


def test_unreadable_images_are_left_out_on_request(make, tmp_path):
    root = make.tree(tmp_path / "c", {"cat": 12, "dog": 12})
    (root / "cat" / "3.png").write_bytes(b"no picture")
    whole = open_images(root)
    with pytest.raises(DataError):
        check_images(whole)
    data = open_images(root, skip_unreadable=True)
    assert sum(map(len, data.splits.values())) == 23
    (said,) = [warning for warning in data.warnings if "skip_unreadable" in warning]
    assert "1 image that cannot be read: cat/3.png (" in said


def test_masks_likewise(make, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(10):
            pixels = np.zeros((8, 8), np.uint8)
            pixels[:4] = 255
            (tmp_path / folder / f"{i}.png").write_bytes(make.encode(Image.fromarray(pixels)))
    (tmp_path / "masks" / "4.png").write_bytes(b"")
    with pytest.raises(DataError):
        open_masks(tmp_path)
    data = open_masks(tmp_path, skip_unreadable=True)
    assert sum(map(len, (data.train, data.val, data.test))) == 9
    assert any("skip_unreadable: masks/4.png" in note for note in data.notes)
