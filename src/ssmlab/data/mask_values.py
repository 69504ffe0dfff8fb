"""What the values of a mask mean: one rule for a whole data set, decided from all of its masks.

    a table is given     every grey value or colour stands for its class; any other value is unknown
    numbers              0, 1 ... k - 1 where k > 2 classes are named; also where no value of the data set is above 1
    at half              two classes otherwise: foreground is what reaches half of the full range of its own file, 128
                         of 255, 32768 of 65535, 1 of 1. Where most masks hold values in between, edges are soft and
                         that is all; where only a few do, these few are told as mistakes, but for JPEGs
    colour               needs a table; equal channels are grey, a palette of colours counts by its numbers
    alpha                a picture with transparent parts is laid over black; one of a single colour counts by its alpha
    1 bit                0 and 1, and 1 is the full range, as it is of floating-point masks of 0 and 1; other values
                         between 0 and 1 are scaled to 255
    16 bits              the full range is 65535 where a value is above 255

Label 255 is counted nowhere: outside of the field of view, and what nnU-Net's dataset.json calls "ignore".
"""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from ssmlab.data.contents import some
from ssmlab.data.decode import FORMATS, MAX_PIXELS, UnreadableImage

IGNORE = 255
MOST_CLASSES = 255
SAID = 6  # so many values of a mask are named
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Rule:
    """How raw values become labels.

    Attributes:
        classes: names in the order of the labels.
        table: grey value or colour -> label, -1 for what is not counted; empty: at half.
    """

    classes: tuple[str, ...]
    table: dict = field(default_factory=dict)

    def labels(self, raw: np.ndarray, full: int = 255) -> np.ndarray:
        """Labels, uint8, of grey values (...,) or colours (..., 3) uint8; unknown values become IGNORE.

        Args:
            full: the largest value that the file could hold.
        """
        if not self.table:
            return (2 * raw.astype(np.int64) >= full).astype(np.uint8)
        raw = packed(raw) if _coloured(self.table) else raw
        out = np.full(raw.shape, IGNORE, np.uint8)
        for value, label in self.table.items():
            if label >= 0:
                out[raw == (_number(value) if _coloured(self.table) else value)] = label
        return out


@dataclass(frozen=True)
class Seen:
    """The values of one mask: grey ones ascending, or colours; `full` is the largest that its file could hold."""

    name: str
    values: tuple
    full: int

    @property
    def top(self) -> float:
        """Its largest grey value, as a share of the full range."""
        return self.values[-1] / self.full

    @property
    def coloured(self) -> bool:
        return bool(self.values) and isinstance(self.values[0], tuple)


def decode_mask(data: bytes) -> tuple[np.ndarray, int]:
    """A picture as grey values (h, w), or as colours (h, w, 3) uint8 where its channels differ; and its full value.

    Raises:
        UnreadableImage: empty, no picture, truncated or too large.
    """
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS:,}")
            image.load()
            return _values(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    # As for images: damaged files make decoders raise nearly anything
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        unknown = isinstance(error, Image.UnidentifiedImageError)
        raise UnreadableImage("not a picture in a known format" if unknown else told) from error


def _values(image: Image.Image) -> tuple[np.ndarray, int]:
    if image.mode == "P":
        colours = np.array(image.convert("RGB"))
        grey = (colours[..., 0] == colours[..., 1]).all() and (colours[..., 1] == colours[..., 2]).all()
        return (colours[..., 0], 255) if grey else (np.array(image), MOST_CLASSES)
    if image.mode == "1":
        return np.array(image).astype(np.uint8), 1
    if image.mode == "F":
        return scaled(np.array(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = _over_black(image.convert("RGBA"))
    values = np.array(image)
    if values.ndim == 3:
        values = np.array(image.convert("RGB"))
        if (values[..., 0] == values[..., 1]).all() and (values[..., 1] == values[..., 2]).all():
            values = values[..., 0]
    return values, 65535 if image.mode.startswith("I") and values.max(initial=0) > 255 else 255


def _over_black(image: Image.Image) -> Image.Image:
    """A picture without its alpha. What is drawn in one colour only, on nothing, is told by alpha alone."""
    pixels = np.array(image)
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if alpha.min() == 255:
        return image.convert("RGB")
    if (colours == colours[0, 0]).all():
        return Image.fromarray(alpha)
    return Image.fromarray(np.rint(colours * (alpha[..., None] / 255)).astype(np.uint8))


def scaled(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Floating-point values as whole numbers: as they are where they are whole, else 0 to 1 becomes 0 to 255."""
    whole = np.rint(values)
    if (whole == values).all() and np.abs(values).max(initial=0) < 2**31:
        return whole.astype(np.int32), 1 if whole.min() >= 0 and whole.max() <= 1 else 255
    if values.min() >= 0 and values.max() <= 1:
        return np.rint(values * 255).astype(np.uint8), 255
    raise UnreadableImage("floating-point labels that are neither whole numbers nor within 0 to 1")


def seen(name: str, raw: np.ndarray, full: int, coloured: bool = False) -> Seen:
    """The values of a mask; `coloured` says that the last axis holds red, green and blue."""
    if coloured:
        numbers = np.unique(packed(raw))
        return Seen(name, tuple((int(n) >> 16, int(n) >> 8 & 255, int(n) & 255) for n in numbers[:1000]), full)
    return Seen(name, tuple(int(value) for value in np.unique(raw)), full)


def packed(raw: np.ndarray) -> np.ndarray:
    """Colours (..., 3), or grey values, as one number a pixel."""
    if raw.shape[-1:] != (3,) or raw.ndim < 3:
        raw = np.repeat(raw[..., None], 3, -1)
    wide = raw.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def decide(masks: list[Seen], classes: tuple[str, ...], table: dict) -> tuple[Rule, list[str], list[str]]:
    """The rule of a data set.

    Args:
        masks: the values of every mask that could be read.
        classes: names, or empty. table: value or colour -> label, or empty.
    Returns:
        the rule, problems by file name, notes.
    """
    if table:
        return _by_table(masks, classes, table)
    coloured = [mask for mask in masks if mask.coloured]
    if coloured:
        told = [f"{m.name}: is in colour ({_say(m.values)}); say what it means with data.colours" for m in coloured]
        return Rule(classes or ("background", "foreground")), told, []
    if len(classes) > 2:
        return _by_table(masks, classes, {number: number for number in range(len(classes))})
    classes = classes or ("background", "foreground")
    if max((mask.values[-1] for mask in masks if mask.values), default=0) <= 1:
        rule, problems, _ = _by_table(masks, classes, {0: 0, 1: 1})
        if masks and all(set(mask.values) <= {0} for mask in masks):
            problems = [f"no mask marks anything: every value in all {len(masks):,} is 0"]
        return rule, problems, []
    return _at_half(masks, classes)


def _by_table(masks, classes, table):
    problems = []
    coloured = _coloured(table)
    known = set(table) | {value[0] for value in table if coloured and len(set(value)) == 1}
    for mask in masks:
        unknown = [value for value in mask.values if value not in known]
        if unknown:
            problems.append(f"{mask.name}: unknown label values {_say(unknown)}; known are {_say(sorted(table))}")
    return Rule(classes, table=dict(table)), problems, []


def _at_half(masks, classes):
    rule, brightest = Rule(classes), max(masks, key=lambda mask: (mask.top, mask.full))
    white = brightest.top
    if white < 0.5:
        problems = [
            f"{mask.name}: label values {_say(mask.values)}, neither 0 and 1 nor 0 to {mask.full}; name all classes "
            "with data.classes, or say what values mean with data.colours"
            for mask in masks
            if set(mask.values) - {0, 1}
        ]
        return rule, problems, []
    # The full value differs between scanners (237 is one set's white): what lies between is below nine tenths of it.
    between = {mask.name: [v for v in mask.values if 0 != v < 0.9 * white * mask.full] for mask in masks}
    soft = [mask for mask in masks if between[mask.name]]
    mistaken = [mask for mask in soft if not mask.name.lower().endswith((".jpg", ".jpeg"))]
    filled = [mask for mask in masks if mask.values[-1] > 0]
    ranges = sorted({mask.full for mask in filled})
    note = "masks: foreground from " + ", ".join(f"{(full + 1) // 2} of {full}" for full in ranges)
    if soft and (2 * len(soft) > len(filled) or not mistaken):
        return rule, [], [f"{note}; {len(soft):,} of {len(masks):,} masks have soft edges"]
    problems = [
        f"{mask.name}: unknown label values {_say(between[mask.name])}, where the other masks hold 0 and "
        f"{brightest.values[-1]}"
        for mask in mistaken
    ]
    return rule, problems, [note]


def _coloured(table) -> bool:
    return any(isinstance(value, tuple) for value in table)


def _number(value) -> int:
    r, g, b = value if isinstance(value, tuple) else (value, value, value)
    return r << 16 | g << 8 | b


def _say(values) -> str:
    texts = ["#{:02x}{:02x}{:02x}".format(*value) if isinstance(value, tuple) else str(value) for value in values]
    return some(texts, SAID)
