"""What the values of a mask mean: one rule for a whole data set, decided from all of its masks.

    a table is given     every grey value or colour stands for its class; any other value is unknown
    names are given      more than two: the numbers 0, 1 ... k - 1; 255 that is no class is not counted
    labels               numbers keep their values, each is a class of its own: 0, 1, 2, 5. Next to small numbers 255 is
                         not counted, as in Pascal VOC; `ignore` says it for other data sets
    instances            1 ... n with another n in every mask, with gaps too where n is large, or more than 50 numbers:
                         cells that were counted. All of them are foreground
    at half              two values, or true grey levels: foreground is what reaches half of the full range of its own
                         file, 128 of 255, 32768 of 65535, 1 of 1. Grey levels are JPEGs, and masks of many levels all
                         over the range with much white; where only a few files hold levels they are mistakes
    colour               needs a table; equal channels are grey, a palette of colours counts by its numbers
    alpha                a picture with transparent parts is laid over black; one of a single colour counts by its alpha
    1 bit                0 and 1, and 1 is the full range, as it is of floating-point masks of 0 and 1; other values
                         between 0 and 1 are scaled to 255
    16 bits              the full range is 65535 where a value is above 255

What was decided is noted, and `values` decides otherwise. Label 255 is counted nowhere: outside of the field of view,
and what nnU-Net's dataset.json calls "ignore".
"""

import io
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from ssmlab.data.contents import count, some
from ssmlab.data.images.decode import FORMATS, MAX_PIXELS, UnreadableImage

IGNORE = 255
MOST_CLASSES = 255
SAID = 6  # so many values of a mask are named
MOST_LABELS = 50  # more different numbers are instances
UNCOUNTED = (255, 65535)  # the numbers by which masks of labels say that a pixel is not counted
KINDS = ("auto", "labels", "instances", "grey")
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Rule:
    """How raw values become labels.

    Attributes:
        classes: names in the order of the labels.
        table: grey value or colour -> label, -1 for what is not counted; empty: at half.
        instances: whatever is not 0 is foreground.
    """

    classes: tuple[str, ...]
    table: dict = field(default_factory=dict)
    instances: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """The grey value of every class, where these are not just 0, 1 ... and not colours; else empty."""
        found = {label: value for value, label in self.table.items() if isinstance(value, int) and label >= 0}
        numbers = tuple(found[label] for label in sorted(found))
        return numbers if numbers != tuple(range(len(numbers))) and len(numbers) > 2 else ()

    def labels(self, raw: np.ndarray, full: int = 255) -> np.ndarray:
        """Labels, uint8, of grey values (...,) or colours (..., 3) uint8; unknown values become IGNORE.

        Args:
            full: the largest value that the file could hold.
        """
        if self.instances:
            return (raw > 0).astype(np.uint8)
        if not self.table:
            return (2 * raw.astype(np.int64) >= full).astype(np.uint8)
        coloured = _coloured(self.table)
        raw = packed(raw) if coloured else raw
        out = np.full(raw.shape, IGNORE, np.uint8)
        for value, label in self.table.items():
            if coloured:
                r, g, b = value if isinstance(value, tuple) else (value, value, value)
                value = r << 16 | g << 8 | b
            if label >= 0:
                out[raw == value] = label
        return out


@dataclass(frozen=True)
class Seen:
    """The values of one mask: grey ones ascending, or colours; `full` is the largest that its file could hold.

    counts: pixels of every grey value.
    """

    name: str
    values: tuple
    full: int
    counts: tuple[int, ...] = ()

    @property
    def top(self) -> float:
        """Its largest grey value, as a share of the full range."""
        return self.values[-1] / self.full

    @property
    def lossy(self) -> bool:
        return self.name.lower().endswith((".jpg", ".jpeg"))

    @property
    def marked(self) -> set:
        """Its values but 0."""
        return set(self.values) - {0}

    def between(self, white: float) -> list[int]:
        """Its values between 0 and white, a share of the full range.

        The full value differs between scanners (237 is one set's white): these are below nine tenths of it.
        """
        return [v for v in self.values if 0 != v < 0.9 * white * self.full]

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
            return grey_values(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    # As for images: damaged files make decoders raise nearly anything
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        unknown = isinstance(error, Image.UnidentifiedImageError)
        raise UnreadableImage("not a picture in a known format" if unknown else reason) from error


def grey_values(image: Image.Image) -> tuple[np.ndarray, int]:
    """The pixels of a mask as `decode_mask` returns them."""
    if image.mode == "P":
        colours = np.array(image.convert("RGB"))
        grey = (colours[..., 0] == colours[..., 1]).all() and (colours[..., 1] == colours[..., 2]).all()
        return (colours[..., 0], 255) if grey else (np.array(image), MOST_CLASSES)
    if image.mode == "1":
        return np.array(image).astype(np.uint8), 1
    if image.mode == "F":
        return scaled(np.array(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        # Without its alpha; what is drawn in one colour only, on nothing, is known by its alpha alone
        whole = image.convert("RGBA")
        pixels = np.array(whole)
        colours, alpha = pixels[..., :3], pixels[..., 3]
        if alpha.min() == 255:
            image = whole.convert("RGB")
        elif (colours == colours[0, 0]).all():
            image = Image.fromarray(alpha)
        else:
            image = Image.fromarray(np.rint(colours * (alpha[..., None] / 255)).astype(np.uint8))
    values = np.array(image)
    if values.ndim == 3:
        values = np.array(image.convert("RGB"))
        if (values[..., 0] == values[..., 1]).all() and (values[..., 1] == values[..., 2]).all():
            values = values[..., 0]
    return values, 65535 if image.mode.startswith("I") and values.max(initial=0) > 255 else 255


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
    values, counts = np.unique(raw, return_counts=True)
    return Seen(name, tuple(values.tolist()), full, tuple(counts.tolist()))


def packed(raw: np.ndarray) -> np.ndarray:
    """Colours (..., 3), or grey values, as one number a pixel."""
    if raw.shape[-1:] != (3,) or raw.ndim < 3:
        raw = np.repeat(raw[..., None], 3, -1)
    wide = raw.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def decide(
    masks: list[Seen], classes: tuple[str, ...], table: dict, *, values: str = "auto", ignore: int | str = "auto"
) -> tuple[Rule, list[str], list[str]]:
    """The rule of a data set.

    Args:
        masks: the values of every mask that could be read.
        classes: names, or empty. table: value or colour -> label, or empty.
        values: what numbers without a table and without more than two names mean: "labels", "instances", "grey" (at
            half), or "auto", which finds out.
        ignore: the number of a label that is not counted; "none"; or "auto", 255 next to small numbers.
    Returns:
        the rule, problems by file name, notes.
    """
    if table:
        return _by_table(masks, classes, table if isinstance(ignore, str) else {**table, ignore: -1})
    coloured = [mask for mask in masks if mask.coloured]
    if coloured:
        problems = [f"{m.name}: is in colour ({_say(m.values)}); say what it means with data.colours" for m in coloured]
        return Rule(classes or ("background", "foreground")), problems, []
    if len(classes) > 2:
        # The numbers 0 ... k - 1 of k names, and what is not counted
        k = len(classes)
        left = {n for n in UNCOUNTED if ignore == "auto" and n >= k} if isinstance(ignore, str) else {ignore}
        left &= {value for mask in masks for value in mask.values}
        rule, problems, _ = _by_table(masks, classes, {n: n for n in range(k)} | dict.fromkeys(left, -1))
        return rule, problems, [f"masks: {n} is not counted, it is none of the {k} classes (data.ignore)" for n in left]
    kind = values if values != "auto" else _kind(masks)
    if kind == "instances":
        most = max((len(mask.marked) for mask in masks), default=0)
        lossy = [mask.name for mask in masks if mask.lossy]
        problems = [f"{name}: JPEG changes numbers, and these are instances; save it as PNG" for name in lossy]
        note = f"masks: numbers count instances (up to {most:,} in a mask), all are foreground; "
        note += "data.values=labels makes each a class"
        return Rule(classes or ("background", "foreground"), instances=True), problems, [note]
    if kind == "grey" and masks:
        return _at_half(masks, classes or ("background", "foreground"))
    return _labels(masks, classes, ignore, sure=values != "auto")


def _by_table(masks, classes, table):
    problems = []
    coloured = _coloured(table)
    known = set(table) | {value[0] for value in table if coloured and len(set(value)) == 1}
    for mask in masks:
        unknown = [value for value in mask.values if value not in known]
        if unknown:
            problems.append(f"{mask.name}: unknown label values {_say(unknown)}; known are {_say(sorted(table))}")
    return Rule(classes, table=dict(table)), problems, []


def _kind(masks: list[Seen]) -> str:
    """What the numbers of a whole data set are: labels, instances or grey levels (two values included)."""
    filled = [mask for mask in masks if mask.marked]
    if max((mask.values[-1] for mask in filled), default=0) <= 1:
        return "labels"
    white = max(mask.top for mask in filled)
    several = [mask for mask in filled if not mask.lossy and (white < 0.5 or mask.between(white))]
    if not several or (white >= 0.5 and 2 * len(several) <= len(filled)):
        return "grey"
    # True grey levels lie all over the range. They are many, with at least a quarter of what is marked white; or few,
    # as after halving an image, with nine tenths.
    levels = {value / (white * mask.full) for mask in several for value in mask.between(white)}
    marked = bright = 0
    for mask in several:
        between = {0, *mask.between(white)}
        marked += sum(n for value, n in zip(mask.values, mask.counts, strict=True) if value)
        bright += sum(n for value, n in zip(mask.values, mask.counts, strict=True) if value not in between)
    enough = 4 * bright >= marked if len(levels) > 16 else 10 * bright >= 9 * marked
    if enough and len({int(4 * level) for level in levels}) > 2:
        return "grey"
    ends = [mask.values[-1] for mask in several if mask.marked == set(range(1, mask.values[-1] + 1))]
    counted = 10 * len(ends) >= 9 * len(several) and len(set(ends)) > 2 and max(ends) > 4
    # Ids with gaps, where cells overlap or touch the edge: nearly as many as the largest one, which hardly repeats
    dense = [mask.values[-1] for mask in several if 5 * len(mask.marked) >= 4 * mask.values[-1]]
    counted |= 10 * len(dense) >= 9 * len(several) and max(dense) > 16 and len(set(dense)) > max(3, len(dense) // 2)
    many = len({value for mask in several for value in mask.values}) > MOST_LABELS
    return "instances" if counted or many else "labels"


def _labels(masks, classes, ignore, sure):
    """Numbers that keep their values.

    Args:
        sure: the user says so; else values that only a few masks hold, where the others hold 0 and one number, are
            mistakes.
    """
    values = sorted({value for mask in masks for value in mask.values})
    if isinstance(ignore, str):
        # 255 is a class among evenly spread numbers (0, 85, 170, 255), and not counted next to small ones (0, 1, 2, 5)
        marked = [value for value in values if value > 0 and value not in UNCOUNTED]
        close = bool(marked) and marked[-1] <= 10 + 4 * len(marked)
        left = {value for value in UNCOUNTED if ignore == "auto" and close and value in values}
    else:
        left = {ignore}
    kept = [value for value in values if value not in left]
    problems = [f"{m.name}: JPEG changes numbers, and these are labels; save it as PNG" for m in masks if m.lossy]
    problems += _rare(masks, left) if not sure else []
    negative = [m for m in masks if m.values and m.values[0] < 0 and not {v for v in m.values if v < 0} <= left]
    problems += [f"{m.name}: negative label values {_say([v for v in m.values if v < 0])}" for m in negative]
    if masks and not set(kept) - {0}:
        problems.append(f"no mask marks anything: every value in all {len(masks):,} is 0")
    if len(kept) > MOST_CLASSES:
        problems.append(f"{len(kept):,} different labels in the masks, more than {MOST_CLASSES}; set data.values")
    elif classes and len(kept) > 2 and not problems:
        problems.append(f"the masks hold {len(kept)} labels ({_say(kept)}), data.classes has 2 names; name all of them")
    notes = []
    if set(kept) <= {0, 1} or len(kept) == 1:
        kept = [0, 1] if set(kept) <= {0, 1} else [0, *kept]
    else:
        having = Counter(value for mask in masks for value in mask.values)
        said = some([f"{v} in {count(having[v], 'mask')}" for v in kept], SAID)
        notes.append(f"masks: numbers are labels, {said}" + ("" if kept[0] == 0 else f"; {kept[0]} is the background"))
    notes += [f"masks: {value} is not counted (data.ignore)" for value in sorted(left & set(values))]
    if len(kept) == 2:
        names = classes or ("background", "foreground")
    else:
        names = ("background", *(f"label {value}" for value in kept[1:])) if kept[0] == 0 else None
        names = names or tuple(f"label {value}" for value in kept)
    table = {value: label for label, value in enumerate(kept)} | dict.fromkeys(left, -1)
    return Rule(names, table), problems, notes


def _rare(masks, left) -> list[str]:
    """Masks with numbers that at least three of four masks, which all hold the same single number, do not have."""
    filled = [mask for mask in masks if mask.marked - left]
    usual, _ = Counter(frozenset(mask.marked - left) for mask in filled).most_common(1)[0] if filled else ((), 0)
    odd = [mask for mask in filled if mask.marked - left - set(usual)]
    if len(usual) != 1 or 4 * len(odd) > len(filled):
        return []
    return [
        f"{mask.name}: label values {_say(mask.values)}, where most masks hold 0 and {next(iter(usual))}; mend it, or "
        "set data.values=labels if they are right"
        for mask in odd
    ]


def _at_half(masks, classes):
    rule, brightest = Rule(classes), max(masks, key=lambda mask: (mask.top, mask.full))
    white = brightest.top
    if white < 0.5:
        problems = [
            f"{mask.name}: label values {_say(mask.values)}, neither 0 and 1 nor 0 to {mask.full}; name all classes "
            "with data.classes, or say what values mean with data.colours or data.values"
            for mask in masks
            if set(mask.values) - {0, 1}
        ]
        return rule, problems, []
    soft = [mask for mask in masks if mask.between(white)]
    mistaken = [mask for mask in soft if not mask.lossy]
    filled = [mask for mask in masks if mask.marked]
    ranges = sorted({mask.full for mask in filled})
    note = "masks: foreground from " + ", ".join(f"{(full + 1) // 2} of {full}" for full in ranges)
    if soft and (2 * len(soft) > len(filled) or not mistaken):
        return rule, [], [f"{note}; {len(soft):,} of {len(masks):,} masks have soft edges"]
    problems = [
        f"{mask.name}: unknown label values {_say(mask.between(white))}, where the other masks hold 0 and "
        f"{brightest.values[-1]}; mend it, or say what numbers mean with data.values or data.colours"
        for mask in mistaken
    ]
    return rule, problems, [note]


def _coloured(table) -> bool:
    return any(isinstance(value, tuple) for value in table)


def _say(values) -> str:
    texts = ["#{:02x}{:02x}{:02x}".format(*value) if isinstance(value, tuple) else str(value) for value in values]
    return some(texts, SAID)
