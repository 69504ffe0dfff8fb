"""Tiles of whole slides: where there is tissue, in the folders of their classes, with the slide as group."""

import struct

import numpy as np
import pytest

pytest.importorskip("openslide")

from ssmlab.core.errors import DataError
from ssmlab.data import open_images
from ssmlab.data.images.slides import find_slides, write_tiles


def tiled_tiff(path, pixels, side=64):
    """A TIFF of uncompressed RGB tiles, which is what OpenSlide takes for a slide."""
    height, width, _ = pixels.shape
    tiles = [
        pixels[y : y + side, x : x + side].tobytes() for y in range(0, height, side) for x in range(0, width, side)
    ]
    size = side * side * 3
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, None), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
        (284, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side), (324, 4, len(tiles), None), (325, 4, len(tiles), None),
    ]  # fmt: skip
    after = 8 + 2 + 12 * len(entries) + 4
    extra = {258: struct.pack("<3H", 8, 8, 8)}
    begin = after + 6 + 8 * len(tiles)
    extra[324] = struct.pack(f"<{len(tiles)}I", *(begin + i * size for i in range(len(tiles))))
    extra[325] = struct.pack(f"<{len(tiles)}I", *[size] * len(tiles))
    content, place = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(entries)), after
    for tag, kind, count, value in entries:
        if value is None:
            value, place = place, place + len(extra[tag])
        content += struct.pack("<HHII", tag, kind, count, value)
    content += struct.pack("<I", 0) + b"".join(extra.values()) + b"".join(tiles)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def slide(seed):
    random = np.random.default_rng(seed)
    pixels = np.full((256, 256, 3), 245, np.uint8)
    pixels[64:192, 64:192] = random.integers(0, 120, (128, 128, 3)) + np.array([100, 20, 80])
    return pixels


def test_tiles_of_tissue(tmp_path):
    for label in ("benign", "malignant"):
        for i in range(3):
            tiled_tiff(tmp_path / "slides" / label / f"{label}{i}.tif", slide(i))
    (tmp_path / "slides" / "benign" / "broken.svs").write_bytes(b"nothing")
    found = find_slides([tmp_path / "slides"])
    assert len(found) == 7
    written, problems = write_tiles(found, tmp_path / "out", size=64, mpp=0.0, tissue=0.5)
    assert written == 6 * 4 and len(problems) == 1 and "broken.svs: cannot be read" in problems[0]
    data = open_images(tmp_path / "out", group="slide")
    assert data.classes == ("benign", "malignant") and data.train.image(0).size == (64, 64)
    assert sum(len(set(split.groups)) for split in data.splits.values()) == 6
    first = data.train.ids.index(next(id_ for id_ in data.train.ids if id_.endswith("_64_64.png")))
    number = int(data.train.groups[first][-1])
    assert np.array_equal(np.asarray(data.train.image(first)), slide(number)[64:128, 64:128])


def test_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        find_slides([tmp_path / "none"])
    with pytest.raises(DataError, match="no whole slides"):
        find_slides([tmp_path])
    tiled_tiff(tmp_path / "a.tif", slide(0))
    _, problems = write_tiles([(tmp_path / "a.tif", "")], tmp_path / "out", size=64, mpp=0.5, tissue=0.5)
    assert "give --mpp 0" in problems[0]
