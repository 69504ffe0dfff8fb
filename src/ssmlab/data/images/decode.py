"""Bytes to an 8-bit RGB picture, by one rule for every file format.

    grey, 1 bit, palette, YCbCr, CMYK   converted to RGB
    alpha or a transparent colour       laid over white (the background of slides, scans and figures)
    16 bits a channel                   the high byte, value // 256: the full range 0..65535 becomes 0..255; of grey
                                        values the window that is asked for
    32-bit integers                     read as 16-bit values; refused outside 0..65535, as floats are
    EXIF orientation                    applied; a damaged EXIF block is passed over
    several frames or pages             the first one of GIF, WebP, PNG and TIFF, which the check of the data reports
    DICOM                               by the file's window, else the range of its bits (ssmlab.data.images.dicom)

Only the decoders named in `FORMATS` are tried, whatever the file is called: none of them starts another
program.
"""

import io
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from ssmlab.data.images.dicom import is_dicom, read_dicom

T = TypeVar("T")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")  # of a JPEG (MPO) further frames are previews and maps of light
# the first bytes of ISO media files of still pictures, after their length: iPhones' HEIC, and AVIF
MODERN = frozenset(b"ftyp" + brand for brand in (b"heic", b"heix", b"heif", b"mif1", b"hevc", b"avif", b"avis"))
MAX_PIXELS = 89_478_485  # Pillow's own limit (a quarter of a GiB as 24-bit RGB): larger pictures are refused

Window = tuple[float, float]
"""Centre and width of the values that become 0..255, as of DICOM."""
Progress = Callable[[int, int], None]
"""Called as progress(done, total) from the calling thread."""


class UnreadableImage(Exception):
    """One picture that cannot be decoded; the text is the reason."""


def decode(data: bytes, window: Window | None = None) -> Image.Image:
    """Decode one picture completely, so that a truncated file is found.

    Args:
        window: for grey values of more than 8 bits; pictures of 8 bits have none.
    Returns:
        an RGB picture; `picture.info["mode"]` is Pillow's name of the mode that the file had, with "+alpha" where
            it had a transparent colour, and "RGB;16" for three channels of 16 bits, which Pillow reads as 8;
            `picture.info["frames"]` is the number of its frames or pages.
    Raises:
        UnreadableImage: empty, no picture, truncated, too large, or of an unsupported kind.
    """
    if not data:
        raise UnreadableImage("the file is empty")
    if data[4:12] in MODERN:
        raise UnreadableImage("HEIC or AVIF, a format that is not read; convert it to JPEG or PNG")
    if is_dicom(data[:132]):
        try:
            image, mode, frames = read_dicom(data, window)
        except ValueError as error:
            raise UnreadableImage(str(error)) from None
        picture = to_rgb(image)
        picture.info = {"mode": mode, "frames": frames}
        return picture
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImage(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS:,}")
            # how the pixels are stored, "RGB;16B" for one: the decoder's last argument, or the first of several
            stored = image.tile[0][3] if image.tile else ""
            deep = ";16" in str(stored[0] if isinstance(stored, tuple) and stored else stored)
            frames = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
            image.load()
            mode = image.mode + ("+alpha" if "transparency" in image.info else "")
            mode += ";16" if deep and mode.startswith("RGB") else ""
            try:
                upright = ImageOps.exif_transpose(image)
            except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
                upright = image  # viewers show such a picture as it is stored, and so do we
            picture = to_rgb(upright, window)
            mode = f"{mode} {window[0]:g}/{window[1]:g}" if window and mode.startswith(("I", "F")) else mode
    except UnreadableImage:
        raise
    # Damaged files make decoders raise nearly anything: struct.error, SyntaxError, IndexError, zlib.error
    except Exception as error:
        raise UnreadableImage(decode_reason(error)) from error
    picture.info = {"mode": mode, "frames": frames}
    return picture


def windowed(values: np.ndarray, window: Window) -> np.ndarray:
    """Values as uint8: from centre - width / 2, which becomes 0, to centre + width / 2, which becomes 255."""
    centre, width = window
    return np.clip(np.rint(255 * ((values.astype(np.float64) - centre) / width + 0.5)), 0, 255).astype(np.uint8)


def to_rgb(image: Image.Image, window: Window | None = None) -> Image.Image:
    """A Pillow picture as RGB, by the rule above. Without a window floats and values out of range are no picture."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if window is not None:
            return Image.fromarray(windowed(values, window)).convert("RGB")
        if image.mode == "F":
            raise UnreadableImage(
                "floating-point pixels have no agreed range; save it with 8 or 16 bits, or give data.window"
            )
        if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise UnreadableImage(f"values {values.min()}..{values.max()} do not fit 16 bits; save it with 8 or 16")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def decode_reason(error: Exception) -> str:
    """Why a decoder has failed, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in a known format"
    return " ".join(str(error).split()) or type(error).__name__


FITS = ("crop", "pad", "stretch")


def fit_square(image: Image.Image, size: int, fit: str = "crop") -> Image.Image:
    """A picture as a square of `size` pixels (bilinear, antialiased when it shrinks).

    Args:
        fit: "crop": short side to `size`, then the middle square; "pad": long side to `size`, in the middle of black;
            "stretch": both sides, whatever the shape.
    """
    if fit not in FITS:
        raise ValueError(f"fit={fit!r}: expected {', '.join(FITS)}")
    width, height = image.size
    if width == height == size:
        return image
    if fit == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if fit == "pad":
        wide, high = (max(1, round(size * side / max(width, height))) for side in (width, height))
        square = Image.new(image.mode, (size, size))
        small = image.resize((wide, high), Image.Resampling.BILINEAR)
        square.paste(small, ((size - wide) // 2, (size - high) // 2))
        return square
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def for_each_image(
    load: Callable[[Any], T],
    keys: Sequence,
    visit: Callable[[int, T], None],
    progress: Progress | None = None,
) -> list[tuple[int, str]]:
    """Call `visit(i, load(keys[i]))` for every key, on a few threads (Pillow releases the GIL).

    Returns:
        (i, reason) of the pictures that could not be read, in order; visit was not called for them.
    """
    failures: list[tuple[int, str]] = []
    chunks = [range(start, min(start + 16, len(keys))) for start in range(0, len(keys), 16)]

    def work(chunk):
        for i in chunk:
            try:
                image = load(keys[i])
            except UnreadableImage as error:
                failures.append((i, str(error)))
            else:
                visit(i, image)
        return len(chunk)

    done = 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(max_workers=min(8, cores))
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata: noise over a whole data set, except for the size limit
            warnings.filterwarnings("ignore", module="PIL")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for future in as_completed([pool.submit(work, chunk) for chunk in chunks]):
                done += future.result()
                if progress is not None:
                    progress(done, len(keys))
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(failures)
