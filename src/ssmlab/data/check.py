"""Decode every image of a data set once: sizes, balance, what cannot be read, what is in two parts."""

import hashlib
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.contents import JOINT, count, some
from ssmlab.data.images.decode import Progress, for_each_image
from ssmlab.data.images.fitting import about_fit
from ssmlab.data.images.reader import ImageData, unreadable
from ssmlab.data.leaks import Keys, leaks
from ssmlab.data.near import near_copies, thumbnail

GREY = "of grey values to RGB"
LEAST_SIDE = 4


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `check_images` found.

    Attributes:
        counts: part -> images. balance: part -> class -> images.
        sizes: "width" and "height" -> (smallest, median, largest) in pixels, of the images that could be
            read.
        unreadable: id -> reason.
        duplicates: groups of images with equal decoded pixels in more than one part, each image as (part,
            id).
        label_conflicts: groups with equal pixels and different classes, each image as (class, part, id).
        copies: how much of val and test is in an earlier part, see ssmlab.data.leaks.
        problems: to be mended before training, by file name with the fix; what `open_images` found included.
        warnings: to be known: those of `open_images`, duplicates, label conflicts, 16-bit images that use little of
            their range, images of hardly any pixels.
        notes: how the parts were made, what was left out, and which images were converted.
        shapes: what becomes of images that are not square, in a sentence; "" where all are.
    """

    name: str
    format: str
    path: str
    classes: tuple[str, ...]
    split_hash: str
    counts: dict[str, int]
    balance: dict[str, dict[str, int]]
    sizes: dict[str, tuple[int, float, int]]
    unreadable: dict[str, str]
    duplicates: list[list[tuple[str, str]]]
    label_conflicts: list[list[tuple[str, str, str]]]
    copies: dict[str, dict[str, int]]
    problems: list[str]
    warnings: list[str]
    notes: list[str]
    shapes: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {"ok": self.ok, "task": "classify", **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of one decoded image."""

    part: str
    id: str
    label: str
    size: tuple[int, int]
    mode: str
    frames: int
    digest: bytes
    dark: bool
    thumb: bytes


def check_images(
    data: ImageData, *, strict: bool = True, progress: Progress | None = None, fit: str = "crop"
) -> CheckReport:
    """Decode all images of `data`, so that truncated files are found before training.

    Equal images in two parts or with two labels are warnings, not problems: published sets have them.

    Args:
        strict: False returns the problems in the report instead of raising them.
        progress: called as progress(done, total) over all parts.
        fit: how pictures become square (see `fit_square`); `shapes` says what that costs.
    Raises:
        DataError: (strict) with every problem, by file name and with the fix.
    """
    seen, failures = _look(data, progress)
    equal: dict[bytes, list[_Seen]] = {}
    for one in seen:
        equal.setdefault(one.digest, []).append(one)
    several = [group for group in equal.values() if len(group) > 1]
    conflicts = [[(o.label, o.part, o.id) for o in group] for group in several if len({o.label for o in group}) > 1]
    duplicates = [[(o.part, o.id) for o in group] for group in several if len({o.part for o in group}) > 1]
    axes = {"width": sorted(one.size[0] for one in seen), "height": sorted(one.size[1] for one in seen)}
    numbers = {
        part: split.labels.sum(0) if data.several else np.bincount(split.labels, minlength=len(data.classes))
        for part, split in data.splits.items()
    }
    report = CheckReport(
        name=data.name,
        format=data.format,
        path=data.path,
        classes=data.classes,
        split_hash=data.split_hash,
        counts={part: len(split) for part, split in data.splits.items()},
        balance={part: dict(zip(data.classes, found.tolist(), strict=True)) for part, found in numbers.items()},
        sizes={axis: (found[0], float(median(found)), found[-1]) for axis, found in axes.items() if found},
        unreadable=failures,
        duplicates=duplicates,
        label_conflicts=conflicts,
        copies=leaks(((one.part, one.id, Keys(one.digest, one.digest)) for one in seen), "images")[0],
        problems=data.problems + [unreadable(*failure) for failure in failures.items()],
        warnings=data.warnings + _warnings(seen, duplicates, conflicts),
        notes=data.notes + conversions(seen) + near_copies(seen),
        shapes=about_fit([(one.id, one.size) for one in seen], fit),
    )
    if strict and report.problems:
        raise DataError(f"{data.path}: {count(len(report.problems), 'problem')} in the data", report.problems)
    return report


def _look(data, progress):
    places = [(split, i) for split in data.splits.values() for i in range(len(split))]
    seen: list[_Seen | None] = [None] * len(places)

    def load(place):
        split, i = place
        return split._load(split._keys[i])

    def visit(n, image):
        split, i = places[n]
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"%dx%d" % image.size)
        dark = image.info["mode"].startswith("I") and max(high for _, high in image.getextrema()) < 16
        own = split.labels[i]
        label = JOINT.join(np.array(data.classes)[own > 0]) if data.several else data.classes[own]
        mode, frames = image.info["mode"], image.info.get("frames", 1)
        seen[n] = _Seen(
            split.name, split.ids[i], label, image.size, mode, frames, digest.digest(), dark, thumbnail(image)
        )

    failures = for_each_image(load, places, visit, progress)
    reasons = {places[n][0].ids[places[n][1]]: reason for n, reason in failures}
    return [one for one in seen if one is not None], reasons


def conversions(seen) -> list[str]:
    """What the rule of ssmlab.data.images.decode did, apart from grey values where all images are grey.

    Args:
        seen: of every picture, an object with `id`, `mode` and `frames`.
    """
    done: dict[str, list[str]] = {}
    windows: dict[str, list[str]] = {}  # or ranges of bits, of DICOM
    for one in seen:
        if one.frames > 1:
            done.setdefault("of several frames or pages, only the first taken", []).append(one.id)
        kind, _, alpha = one.mode.removesuffix(";16").partition("+")
        if kind.startswith("DICOM"):
            windows.setdefault(kind, []).append(one.id)
            continue
        if kind in ("RGBA", "RGBa", "LA", "La", "PA") or alpha:
            done.setdefault("with transparency, laid over white", []).append(one.id)
        if kind.startswith("I") or one.mode.endswith(";16"):
            done.setdefault("of 16 bits a channel, the high byte taken", []).append(one.id)
        elif kind in ("L", "LA", "La"):
            done.setdefault(GREY, []).append(one.id)
        elif kind in ("P", "PA"):
            done.setdefault("with a palette to RGB", []).append(one.id)
        elif kind == "1":
            done.setdefault("of 1 bit to black and white", []).append(one.id)
        elif not kind.startswith("RGB"):
            done.setdefault(f"from {kind} to RGB", []).append(one.id)
    if len(windows) <= 3:
        done |= {f"of {kind} to 8 bits": ids for kind, ids in windows.items()}
    else:
        many = f"of DICOM to 8 bits by {len(windows):,} different windows or ranges"
        done[many] = [id for ids in windows.values() for id in ids]
    if sum(kind.startswith("DICOM CT") for kind in windows) > 1:
        done[next(reversed(done)) + ", so that one Hounsfield unit has several greys"] = done.popitem()[1]
    if len(done.get(GREY, ())) == len(seen):
        done.pop(GREY, None)
    return [
        f"converted: {count(len(ids), 'image')} {conversion} ({some(sorted(ids))})" for conversion, ids in done.items()
    ]


def _warnings(seen, duplicates, conflicts):
    warnings = []
    if duplicates:
        first = " = ".join(f"{part}: {name}" for part, name in duplicates[0][:3])
        found = count(len(duplicates), "image")
        warnings.append(f"{found} in more than one part, which flatters validation or test ({first})")
    if conflicts:
        first = " = ".join(f"{label}: {name}" for label, _, name in conflicts[0][:3])
        warnings.append(f"{count(len(conflicts), 'image')} with more than one label ({first})")
    tiny = [one.id for one in seen if min(one.size) < LEAST_SIDE]
    if tiny:
        found = f"{count(len(tiny), 'image')} with a side of less than {LEAST_SIDE} pixels ({some(tiny)})"
        warnings.append(f"{found}, enlarged there is nothing to see; look whether they are pictures at all")
    dark = [one.id for one in seen if one.dark]
    if dark:
        found = f"{count(len(dark), 'image')} of 16 bits below a sixteenth of the range ({some(dark)})"
        warnings.append(f"{found}, nearly black after conversion; scale the values to 0..65535")
    return warnings
