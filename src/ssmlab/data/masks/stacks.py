"""TIFF files of several pages, which are the slices of a volume."""

import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ssmlab.data.images.decode import MAX_PIXELS, UnreadableImage, decode_reason

LITTLE, BIG = b"II", b"MM"
MOST_VOXELS = 1 << 30
_DESCRIPTION = 270  # the tag in which microscopes' programs write what their pages are
# what ImageJ (channels=3, frames=5) and OME (SizeC="3") call pages that are no slices
_PLAIN = {"channels": "channels", "SizeC": "channels", "frames": "moments", "SizeT": "moments"}
_OTHER_AXES = re.compile(r'\b(?:(channels|frames)=(\d+)|(SizeC|SizeT)="(\d+)")')


def open_stack(data: bytes) -> Image.Image | None:
    """An opened TIFF whose two or more pages have one size and one kind of pixel; None for everything else.

    Raises:
        UnreadableImage: the pages are channels or moments, not slices; or they are too many.
    """
    if data[:2] not in (LITTLE, BIG):
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
        count = getattr(image, "n_frames", 1)
        kinds = set()
        for page in range(count if count > 1 else 0):
            image.seek(page)
            kinds.add((image.size, image.mode))
        if len(kinds) != 1:
            return None
        image.seek(0)
        described = str(getattr(image, "tag_v2", {}).get(_DESCRIPTION, ""))
    # As for pictures: damaged files make decoders raise nearly anything. What reads them as a picture reports it.
    except Exception:
        return None
    for match in _OTHER_AXES.finditer(described):
        name, number = match[1] or match[3], int(match[2] or match[4])
        if number > 1 and not (name == "SizeC" and image.mode.startswith("RGB")):
            raise UnreadableImage(
                f"its {count} pages are {number} {_PLAIN[name]}, not slices alone; save each as a file"
            )
    if image.width * image.height > MAX_PIXELS or count * image.width * image.height > MOST_VOXELS:
        raise UnreadableImage(f"{count} pages of {image.width} x {image.height}, more than {MOST_VOXELS:,} voxels")
    return image


def pages(stack: Image.Image) -> Iterator[Image.Image]:
    """Every page of an opened stack."""
    for page in range(getattr(stack, "n_frames", 1)):
        try:
            stack.seek(page)
            stack.load()
        except Exception as error:  # as above
            raise UnreadableImage(f"page {page + 1}: {decode_reason(error)}") from error
        yield stack


def read_stack(stack: Image.Image) -> np.ndarray:
    """Voxels (c, slices, rows, columns) as they are stored: one channel of grey values, or three of colours.

    Raises:
        UnreadableImage: a page is damaged, or its floating-point values are not finite.
    """
    found = []
    for page in pages(stack):
        grey = page.mode in ("L", "F") or page.mode.startswith("I")
        values = np.asarray(page if grey else page.convert("L" if page.mode in ("1", "LA", "La") else "RGB"))
        found.append(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))
    voxels = np.stack(found, 1)
    if not np.isfinite(voxels).all():
        raise UnreadableImage("some voxels are not finite")
    return voxels
