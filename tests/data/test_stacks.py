"""Files of several pages or frames: TIFF stacks are volumes, what else has frames is reported."""

import io

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data import check_images, open_images
from ssmlab.data.masks.reader import open_masks
from ssmlab.data.masks.stacks import open_stack


def save(path, pages, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=rest, **how)


def stacks(root, count=6, kind=np.uint8, pages=4, shape=(12, 14)):
    made = {}
    for i in range(count):
        rng = np.random.default_rng(i)
        made[f"images/{i}.tif"] = rng.integers(0, np.iinfo(kind).max, (pages, *shape)).astype(kind)
        save(root / "images" / f"{i}.tif", made[f"images/{i}.tif"])
        save(root / "masks" / f"{i}.tif", (made[f"images/{i}.tif"] > np.iinfo(kind).max // 2).astype(np.uint8) * 255)
    return made


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_stacks_are_volumes(tmp_path, kind):
    made = stacks(tmp_path, kind=kind)
    data = open_masks(tmp_path)
    assert data.dimensions == 3 and data.channels == 1 and not data.measured
    assert data.sizes == [(4, 4, 4), (12, 12, 12), (14, 14, 14)]
    assert (
        "6 TIFF stacks read as volumes of 4 pages; how far slices and pixels lie apart is not known" in data.notes[-1]
    )
    for split in (data.train, data.val, data.test):
        for i, id_ in enumerate(split.ids):
            sample = split.sample(i)
            np.testing.assert_array_equal(sample.image[0], made[id_])
            np.testing.assert_array_equal(sample.labels, made[id_] > np.iinfo(kind).max // 2)
            assert sample.image.dtype != np.uint8, "the values of volumes are not scaled as those of pictures are"


def test_a_stack_without_a_stack_of_masks(tmp_path):
    stacks(tmp_path)
    Image.fromarray(np.zeros((12, 14), np.uint8)).save(tmp_path / "masks" / "2.tif")
    save(tmp_path / "images" / "3.tif", [np.zeros((12, 14, 3), np.uint8)] * 4)
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path)
    assert "masks/2.tif: is 14 x 12, its image images/2.tif is 14 x 12 x 4" in caught.value.problems
    assert "images/3.tif: has 3 channels, the other images 1" in caught.value.problems


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ("ImageJ=1.53t\nimages=4\nchannels=2\nslices=2\n", "its 4 pages are 2 channels"),
        ("ImageJ=1.53t\nimages=4\nframes=4\n", "its 4 pages are 4 moments"),
        ('<OME><Image><Pixels SizeC="4" SizeT="1" SizeX="14"/></Image></OME>', "its 4 pages are 4 channels"),
    ],
)
def test_pages_that_are_no_slices_are_refused(tmp_path, described, said):
    stacks(tmp_path)
    save(tmp_path / "images" / "1.tif", [np.zeros((12, 14), np.uint8)] * 4, description=described)
    with pytest.raises(DataError, match=f"1.tif: cannot be read \\({said}"):
        open_masks(tmp_path)


def test_a_smaller_second_page_is_a_preview(tmp_path):
    content = io.BytesIO()
    pages = [Image.new("L", (8, 8)), Image.new("L", (4, 4))]
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    assert open_stack(content.getvalue()) is None
    content = io.BytesIO()
    pages[0].save(content, "TIFF")
    assert open_stack(content.getvalue()) is None and open_stack(b"II") is None


@pytest.mark.parametrize("form", ["tif", "gif", "webp", "png"])
def test_frames_of_pictures_are_reported(tmp_path, form):
    for label in ("a", "b"):
        for i in range(5):
            rng = np.random.default_rng(i + 10 * (label == "b"))
            pages = rng.integers(0, 256, (3, 9, 9), dtype=np.uint8)
            save(tmp_path / label / f"{i}.{form}", pages if i < 2 else pages[:1])
    report = check_images(open_images(tmp_path))
    found = [note for note in report.notes if "frames or pages" in note]
    assert len(found) == 1
    assert found[0].startswith("converted: 4 images of several frames or pages, only the first taken (a/0.")
