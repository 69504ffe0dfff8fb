"""Files that are damaged, odd or malicious: a line for each and exit code 2, or a conversion that is told."""

import gzip
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from ssmlab.cli.main import main
from ssmlab.core.errors import DataError
from ssmlab.data import check_images, open_images

DIGITS = "classification/digits_resnet18_vs_hybrid"
COUNTS = {f"{part}/{name}": n for part, n in (("train", 8), ("test", 2)) for name in ("cat", "dog")}


def png(width, height, channels=3, depth=8, content=None):
    """A PNG by hand: its header may promise too much, and Pillow writes none of 16 bits a channel."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    if content is None:
        values = np.random.default_rng(0).integers(0, 1 << depth, (height, width * channels))
        content = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


class Calls:
    def __reduce__(self):
        return os.system, ("touch was_here",)


def ssmlab(*arguments):
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Both commands refuse the data with exit code 2 and the same lines, and no run is begun; returns the lines."""
    monkeypatch.chdir(tmp_path)

    def check(path):
        assert ssmlab("data", "check", path, "--json") == 2
        capsys.readouterr()
        assert ssmlab("run", DIGITS, "--smoke", f"data.path={path}") == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error and not (tmp_path / "runs").exists() and not (tmp_path / "was_here").exists()
        assert error.startswith("ssmlab: ")
        return [line.strip() for line in error.splitlines()[1:]] or [error.strip()]

    return check


def test_all_damaged_pictures_are_told_at_once_before_training(make, tmp_path, refused):
    root = make.tree(tmp_path / "pets", COUNTS)
    jpeg = make.encode(make.draw(1, (64, 64)), "JPEG")
    damaged = {
        "train/cat/cut.jpg": (jpeg[: len(jpeg) // 2], "image file is truncated"),
        "train/cat/bomb.png": (png(30_000, 30_000, content=b""), "pixels"),
        "train/dog/bomb.ppm": (b"P6 60000 60000 255\n", "pixels"),
        "train/dog/empty.png": (b"", "the file is empty"),
        "test/cat/script.png": (b"#!/bin/sh\ntouch was_here\n", "not a picture in a known format"),
        "test/dog/pickle.jpg": (pickle.dumps(Calls()), "not a picture in a known format"),
        "test/dog/postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture in a known format"),
    }
    for name, (content, _) in damaged.items():
        (root / name).write_bytes(content)
    lines = refused(root)
    assert len(lines) == len(damaged)
    for name, (_, reason) in damaged.items():
        (line,) = [line for line in lines if line.startswith(f"{name}: cannot be read (")]
        assert reason in line, line
        assert line.endswith("; replace the file, or take it out of the data")


def test_an_empty_class_and_a_class_that_is_only_tested(make, tmp_path, refused):
    root = make.tree(tmp_path / "pets", COUNTS | {"train/owl": 0, "test/yak": 1})
    lines = refused(root)
    assert sorted(line.split(";")[0] for line in lines) == [
        "class 'owl': no images in train (none anywhere)",
        "class 'yak': no images in train (1 in test)",
        "train/owl/: no images in this class folder",
    ]


def test_labels_out_of_range(make, tmp_path, refused):
    labels = (np.arange(40) % 2)[:, None]
    labels[7] = -3
    (line,) = refused(make.medmnist(tmp_path / "a.npz", train_labels=labels))
    assert line.startswith("train_labels: 1 unknown labels (-3 in row 7)")
    labels[7] = 255
    (line,) = refused(make.medmnist(tmp_path / "b.npz", train_labels=labels))
    assert line.startswith("253 classes have no images anywhere (2, 3, 4 and 250 more); mend the label")
    rows = [{"Image Name": f"{i}.png", "Majority Vote Label": "HP", "Partition": "train"} for i in range(4)]
    rows[2]["Majority Vote Label"] = "7"
    lines = refused(make.mhist(tmp_path / "mhist", rows))
    assert lines[0].startswith("annotations.csv, line 4: 2.png has the unknown label '7'; expected HP or SSA")


def test_archives_that_grow(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("ssmlab.data.files.BOMB_BYTES", 1 << 24)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/0.png", bytes(1 << 25))
    (line,) = refused(tmp_path / "bomb.zip")
    assert "are no archive of data; it is not opened" in line
    monkeypatch.setattr("ssmlab.data.images.cifar.BOMB_BYTES", 1 << 22)
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        info.size = 1 << 24
        archive.addfile(info, gzip.io.BytesIO(bytes(1 << 24)))
    (line,) = refused(tmp_path / "bomb.tar.gz")
    assert "more than 4,194,304 bytes unpacked" in line


def test_pickles_by_every_door(make, tmp_path, refused):
    """As CIFAR's batch, inside an .npz, and as the path itself."""
    root = tmp_path / "cifar"
    root.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (root / name).write_bytes(pickle.dumps({"data": Calls()}, 2))
    lines = refused(root)
    assert sum("refused: asks for posix.system" in line or "refused: asks for nt.system" in line for line in lines) == 3
    assert sum("missing in" in line for line in lines) == 4
    images = np.empty(40, object)
    images[:] = Calls()
    (line, *_) = refused(make.medmnist(tmp_path / "a.npz", train_images=images))
    assert line.startswith("train_images: holds pickled Python objects, which are never loaded")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Calls()))
    assert "not a data set in a known format" in refused(tmp_path / "a.pkl")[0]


def test_odd_pictures_are_converted_and_that_is_told(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8))
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (9, 9)).astype(np.uint16))
    odd = {
        "cmyk.jpg": make.encode(make.draw(50).convert("CMYK"), "JPEG"),
        "palette.gif": make.encode(make.draw(51).quantize(16), "GIF"),
        "bit.png": make.encode(grey.convert("1")),
        "grey.png": make.encode(grey),
        "alpha.png": make.encode(make.draw(52).convert("RGBA")),
        "key.png": make.encode(grey, transparency=7),
        "deep.png": make.encode(deep),
        "deep_rgb.png": png(9, 9, 3, 16),
        "deep_alpha.png": png(9, 9, 4, 16),
        "lab.tif": make.encode(make.draw(53).convert("LAB"), "TIFF"),
    }
    for name, content in odd.items():
        (root / "train" / "cat" / name).write_bytes(content)
    report = check_images(open_images(root))
    converted = {note.split(" (")[0]: note for note in report.notes if note.startswith("converted: ")}
    at = "train/cat/"
    assert converted == {
        f"converted: {start}": f"converted: {start} ({', '.join(at + name for name in names[:3])}{more})"
        for start, names, more in (
            ("1 image from CMYK to RGB", ["cmyk.jpg"], ""),
            ("1 image with a palette to RGB", ["palette.gif"], ""),
            ("1 image of 1 bit to black and white", ["bit.png"], ""),
            ("2 images of grey values to RGB", ["grey.png", "key.png"], ""),
            ("3 images with transparency, laid over white", ["alpha.png", "deep_alpha.png", "key.png"], ""),
            ("3 images of 16 bits a channel, the high byte taken", ["deep.png", "deep_alpha.png", "deep_rgb.png"], ""),
            ("1 image from LAB to RGB", ["lab.tif"], ""),
        )
    }


def test_sets_of_grey_images_only_need_no_note(make, tmp_path):
    data = open_images(make.medmnist(tmp_path / "a.npz"))
    assert check_images(data).notes == data.notes


def test_sixteen_bits_of_colour_give_the_high_byte(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    (root / "test" / "cat" / "0.png").write_bytes(png(9, 9, 3, 16))
    stored = np.random.default_rng(0).integers(0, 1 << 16, (9, 27)).reshape(9, 9, 3)
    assert np.array_equal(np.asarray(open_images(root).test.image(0)), stored >> 8)


def test_a_picture_of_one_pixel_is_enlarged_and_warned_of(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    (root / "train/cat/0.png").write_bytes(make.encode(Image.new("RGB", (1, 1), (9, 8, 7))))
    (root / "train/cat/1.png").write_bytes(make.encode(Image.new("L", (500, 1), 3)))
    data = open_images(root)
    (warning,) = [w for w in check_images(data).warnings if "less than 4 pixels" in w]
    assert warning.startswith("2 images with a side of less than 4 pixels (train/cat/0.png, train/cat/1.png)")
    split = next(split for split in data.splits.values() if "train/cat/0.png" in split.ids)
    picture = split.array(8)[split.ids.index("train/cat/0.png")]
    assert np.array_equal(picture, np.full((8, 8, 3), (9, 8, 7), np.uint8))


def test_sizes_and_modes_may_be_mixed(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    for i, (mode, size) in enumerate(
        [("L", (5, 40)), ("RGBA", (40, 5)), ("1", (7, 7)), ("P", (33, 17)), ("CMYK", (8, 9))]
    ):
        (root / f"train/dog/{i}.png").write_bytes(make.encode(make.draw(i, size).convert(mode), "TIFF"))
    array = open_images(root).train.array(16)
    assert array.shape == (14, 16, 16, 3) and array.dtype == np.uint8


def test_images_that_do_not_fit_into_memory(make, tmp_path, monkeypatch):
    monkeypatch.setattr("ssmlab.data.images.reader.machine_memory", lambda: 10_000)
    data = open_images(make.tree(tmp_path, COUNTS))
    assert data.test.array(8).shape == (4, 8, 8, 3)
    with pytest.raises(
        DataError, match=r"^4 images of 512 x 512 need 3 MiB of memory, .*data\.limit.*data\.image_size"
    ):
        data.test.array(512)
    few = data.train.take([3, 1])
    assert few.ids == [data.train.ids[3], data.train.ids[1]] and few.array(8).shape == (2, 8, 8, 3)
