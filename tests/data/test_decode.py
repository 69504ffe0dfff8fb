import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ssmlab.data.images import decode as module
from ssmlab.data.images.decode import UnreadableImage, decode, fit_square, for_each_image, to_rgb


def corner(image):
    return image.getpixel((0, 0))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(make, mode):
    image = Image.fromarray(np.full((3, 5), 40000, np.uint16)) if mode == "I;16" else Image.new(mode, (5, 3))
    picture = decode(make.encode(image, "JPEG" if mode in ("CMYK", "YCbCr") else "TIFF"))
    assert picture.mode == "RGB"
    assert picture.size == (5, 3)


def test_cmyk_keeps_the_colour(make):
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    r, g, b = corner(decode(make.encode(red, "JPEG", quality=95)))
    assert r > 240
    assert g < 15
    assert b < 15


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 0), (256, 1), (40000, 156), (65535, 255)])
def test_sixteen_bits_give_the_high_byte(make, value, expected):
    deep = Image.fromarray(np.full((2, 2), value, np.uint16))
    for format in ("PNG", "TIFF"):
        assert corner(decode(make.encode(deep, format))) == (expected,) * 3
    big_endian = b"P5 1 1 65535\n" + struct.pack(">H", value)
    assert corner(decode(big_endian)) == (expected,) * 3
    assert corner(to_rgb(Image.fromarray(np.full((2, 2), value, np.int32)))) == (expected,) * 3


def test_values_without_a_range_are_refused(make):
    for pixels in (
        np.full((2, 2), 0.5, np.float32),
        np.full((2, 2), 70000, np.int32),
        np.full((2, 2), -1, np.int32),
    ):
        with pytest.raises(UnreadableImage, match="8"):
            decode(make.encode(Image.fromarray(pixels), "TIFF"))


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))])
def test_transparency_lies_over_white(make, mode, colour):
    assert corner(decode(make.encode(Image.new(mode, (2, 2), colour)))) == (255, 255, 255)
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert corner(decode(make.encode(half))) == (127, 127, 127)


def test_a_transparent_colour_lies_over_white(make):
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 9)
    palette = grey.convert("P")
    for image in (grey, palette):
        picture = decode(make.encode(image, transparency=7))
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        assert picture.getpixel((1, 0)) == (9, 9, 9)


def test_exif_orientation_is_applied(make):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    picture = decode(make.encode(image, "PNG", exif=exif))
    assert picture.size == (2, 4)
    assert picture.getpixel((1, 0)) == (255, 255, 255)


def test_damaged_exif_is_passed_over(make):
    data = make.encode(make.draw(0), "JPEG", exif=b"Exif\0\0garbage!")
    images = []
    assert for_each_image(decode, [data], lambda i, image: images.append(image.size)) == []
    assert images == [(12, 10)]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncated_files_are_found(make, format):
    data = make.encode(make.draw(1, (64, 64)), format)
    assert decode(data).size == (64, 64)
    with pytest.raises(UnreadableImage):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty"), (b"hello", "not a picture"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a")]
)
def test_what_is_no_picture_says_so(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)


@pytest.mark.parametrize("side", [9500, 30000])  # where Pillow warns, and where it refuses by itself
def test_decompression_bombs_are_one_problem_each(make, side):
    header = make.encode(Image.new("1", (1, 1)))
    at = header.index(b"IHDR") + 4
    body = struct.pack(">II", side, side) + header[at + 8 : at + 13]
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + body))
    bomb = header[:at] + body + crc + header[at + 17 :]
    failures = for_each_image(decode, [bomb, make.encode(make.draw(0))], lambda i, image: None)
    assert [i for i, _ in failures] == [0]
    assert "pixels" in failures[0][1]


def test_the_limit_is_ours_too(make, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(UnreadableImage, match="12 x 10 pixels"):
        decode(make.encode(make.draw(0)))


@pytest.mark.parametrize("size", [5, 10, 20])
def test_fit_square_resizes_the_short_side_and_keeps_the_middle(make, size):
    wide = make.draw(3, (30, 10))
    whole = np.asarray(wide.resize((3 * size, size), Image.Resampling.BILINEAR))
    expected = whole[:, size : 2 * size]
    assert np.array_equal(np.asarray(fit_square(wide, size)), expected)
    turned = wide.transpose(Image.Transpose.TRANSPOSE)
    found = np.asarray(fit_square(turned, size)).astype(int)
    assert np.abs(found - expected.swapaxes(0, 1)).max() <= 1  # which axis Pillow rounds first depends on its version


def test_fit_square_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (64, 32)))
    assert 100 < np.asarray(fit_square(stripes, 8)).mean() < 155
    assert np.asarray(fit_square(stripes, 8)).std() < 5


def test_every_image_is_visited_once_and_progress_ends_at_the_total(make):
    datas = [make.encode(make.draw(i)) for i in range(50)]
    datas[7] = datas[33] = b"x"
    seen, steps = [], []
    failures = for_each_image(
        decode, datas, lambda i, image: seen.append(i), lambda done, total: steps.append((done, total))
    )
    assert sorted(seen) == [i for i in range(50) if i not in (7, 33)]
    assert [i for i, _ in failures] == [7, 33]
    assert steps[-1] == (50, 50)
    assert steps == sorted(steps)


def test_a_fault_of_the_visitor_is_not_swallowed(make):
    with pytest.raises(ZeroDivisionError):
        for_each_image(decode, [make.encode(make.draw(0))], lambda i, image: 1 / 0)


def test_the_first_frame_is_taken():
    buffer = io.BytesIO()
    Image.new("L", (2, 2), 10).save(buffer, "GIF", save_all=True, append_images=[Image.new("L", (2, 2), 200)])
    assert corner(decode(buffer.getvalue())) == (10, 10, 10)
