"""Images and masks read from their files: looked at once all together, then served and kept while memory lasts."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.files import Files
from ssmlab.data.images.decode import Progress, UnreadableImage, decode, for_each_image
from ssmlab.data.images.medmnist import machine_memory
from ssmlab.data.masks.pairs import Case
from ssmlab.data.masks.stacks import open_stack, pages, read_stack
from ssmlab.data.masks.values import IGNORE, MOST_CLASSES, Rule, Seen, decode_mask, grey_values, scaled, seen
from ssmlab.data.masks.volumes import Volume, is_volume, read_volumes, turned_sizes

KEPT_SHARE = 0.25  # of the machine's memory
NEAR = 0.1  # voxels: what two headers of one grid may differ by, since they are rounded


@dataclass(frozen=True)
class Sample:
    """An image (c, *spatial), its labels (*spatial) uint8, the distance of its pixels.

    Pictures are uint8. Volumes are int16 or float32 and keep their values, also where those of one file fit 8 bits: the
    scale of intensities is the data set's, whatever type a file happens to have.
    """

    image: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]


@dataclass
class Checked:
    """What was seen of a case. `values` is None where its mask cannot be read."""

    case: Case
    problems: list[str] = field(default_factory=list)
    values: Seen | None = None
    size: tuple[int, ...] = ()
    channels: int = 0
    spacing: tuple[float, ...] = ()
    directions: str = ""
    pages: int = 0  # of a stack in a TIFF
    digest: str = ""
    mode: str = ""  # of a picture, see `decode`; "" of volumes and stacks
    frames: int = 1
    unreadable: bool = False
    dark: bool = False  # a picture of 16 bits that uses less than a sixteenth of the range

    @property
    def id(self) -> str:
        return self.case.id

    def turn(self, directions: str) -> None:
        """Count the axes in the order that they have when the volume is turned so."""
        self.size = turned_sizes(self.size, self.directions, directions)
        self.spacing = turned_sizes(self.spacing, self.directions, directions)


class ReadImage(NamedTuple):
    """An image (c, *spatial) and its spacing.

    volume: that of the first channel, which says where it lies. pages: of a stack. picture: what it was decoded from.
    """

    image: np.ndarray
    spacing: tuple[float, ...]
    volume: Volume | None = None
    pages: int = 0
    picture: Image.Image | None = None


class ReadMask(NamedTuple):
    """Raw values (*spatial), or colours (h, w, 3); the largest value that the file could hold; a volume's place."""

    raw: np.ndarray
    full: int
    volume: Volume | None = None
    coloured: bool = False


class MaskStore:
    """Reads cases. Pictures are RGB by the rule of ssmlab.data.images.decode; files of one case are grey channels.

    Attributes:
        rule: what values mean, and `directions` towards which the axes of volumes rise; both are decided after `check`.
    """

    def __init__(self, files: Files):
        self.files = files
        self.rule: Rule | None = None
        self.directions = ""
        self._kept: dict[str, Sample] = {}
        self._left = int(KEPT_SHARE * (machine_memory() or 4 << 30))
        self._lock = threading.Lock()

    def __deepcopy__(self, memo) -> "MaskStore":
        return self  # it only reads; a copy would hold every image twice

    def check(self, cases: list[Case], progress: Progress | None = None) -> list[Checked]:
        """Look at every case once, on a few threads."""
        found = [Checked(case) for case in cases]
        for_each_image(partial(_look, self.files), found, lambda i, _: None, progress)
        return found

    def sample(self, case: Case) -> Sample:
        """A case; raises DataError where a file has changed since it was checked."""
        kept = self._kept.get(case.id)
        if kept is not None:
            return kept
        try:
            image, spacing, volume, *_ = read_image(self.files, case, self.directions)
            towards = volume.directions if volume else ""
            raw, full, *_ = read_masks(self.files, (case.mask, *case.more), towards)
            view = read_mask(self.files, case.view, towards).raw if case.view else None
        except UnreadableImage as error:
            raise DataError("an image cannot be read", [f"{case.id}: cannot be read ({error})"]) from error
        assert self.rule is not None
        labels = self.rule.labels(raw, full)
        if view is not None:
            view = view.max(-1) if view.ndim > labels.ndim else view
            top = int(view.max())  # what reaches half of it is inside; 0 and 1 count as they are
            labels[view < (1 if top <= 1 else (top + 1) // 2)] = IGNORE
        sample = Sample(image, labels, spacing)
        with self._lock:
            size = image.nbytes + labels.nbytes
            if size <= self._left and case.id not in self._kept:
                self._kept[case.id] = sample
                self._left -= size
        return sample


def read_image(files, case: Case, directions: str = "") -> ReadImage:
    """Read the files of a case.

    Args:
        directions: towards which the axes of a volume shall rise; "": as they are stored.
    Raises:
        UnreadableImage: with the file's name where there are several.
    """
    channels: list[np.ndarray] = []
    spacing: tuple[float, ...] = ()
    first, count, picture = None, 0, None
    for name in case.images:
        try:
            if is_volume(name):
                volume, *more = (one.turned(directions) for one in read_volumes(files, name, case.channels))
                channels += [_compact(one.voxels)[None] for one in (volume, *more)]
                first = first or volume
                spacing = first.spacing
                apart = first.distance(volume) if volume.voxels.shape == first.voxels.shape else 0.0
                if apart > NEAR:
                    raise UnreadableImage(f"lies elsewhere than {case.images[0]}, by up to {apart:.3g} voxels")
                continue
            data = files.read(name)
            stack = open_stack(data)
            if stack is None:
                picture = decode(data)
                pixels = np.asarray(picture if len(case.images) == 1 else picture.convert("L"))
                channels.append(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])
                spacing = (1.0, 1.0)
            else:
                channels.append(_compact(read_stack(stack)))
                count, spacing = channels[-1].shape[1], (1.0, 1.0, 1.0)
        except UnreadableImage as error:
            raise UnreadableImage(f"{name}: {error}" if len(case.images) > 1 else str(error)) from error
    if len({channel.shape[1:] for channel in channels}) > 1:
        shapes = " and ".join(_size(channel.shape[1:]) for channel in channels)
        raise UnreadableImage(f"its channels have different sizes, {shapes}")
    return ReadImage(np.ascontiguousarray(np.concatenate(channels)), spacing, first, count, picture)


def read_mask(files, name: str, directions: str = "") -> ReadMask:
    """Read a mask, turned as `read_image` turns its image."""
    if not is_volume(name):
        data = files.read(name)
        stack = open_stack(data)
        if stack is None:
            raw, full = decode_mask(data)
            return ReadMask(raw, full, coloured=raw.ndim == 3)
        found = [grey_values(page) for page in pages(stack)]
        if any(raw.ndim == 3 for raw, _ in found):
            raise UnreadableImage("its pages are in colour; a stack of masks holds numbers")
        return ReadMask(np.stack([raw for raw, _ in found]), max(full for _, full in found))
    volume = read_volumes(files, name)[0].turned(directions)
    if volume.voxels.dtype.kind == "f":
        return ReadMask(*scaled(volume.voxels), volume)
    if volume.voxels.dtype.kind == "b":
        return ReadMask(volume.voxels.astype(np.uint8), 1, volume)
    return ReadMask(volume.voxels, MOST_CLASSES, volume)


def read_masks(files, names: Sequence[str], directions: str = "") -> ReadMask:
    """The masks of one image, one for each object, as one: the largest value of each pixel."""
    first, *others = (read_mask(files, name, directions) for name in names)
    raw, full = first.raw, first.full
    for name, other in zip(names[1:], others, strict=True):
        if other.raw.shape != raw.shape:
            raise UnreadableImage(
                f"{name} is {_size(other.raw.shape)}, {names[0]} of the same image {_size(raw.shape)}"
            )
        raw, full = np.maximum(raw, other.raw), max(full, other.full)
    return first._replace(raw=raw, full=full)


def _look(files, checked: Checked) -> None:
    case, place = checked.case, None
    try:
        image, checked.spacing, place, checked.pages, picture = read_image(files, case)
        checked.size, checked.channels = image.shape[1:], image.shape[0]
        checked.directions = place.directions if place else ""
        if picture is not None:
            checked.mode, checked.frames = picture.info["mode"], picture.info["frames"]
            checked.dark = checked.mode.startswith("I") and image.max() < 16
        checked.digest = hashlib.sha256(str((image.shape, image.dtype)).encode() + image.tobytes()).hexdigest()
    except UnreadableImage as error:
        checked.unreadable = True
        checked.problems.append(f"{case.id}: cannot be read ({error}); replace the file, or take it out of the data")
    for name in (case.mask, case.view):
        if name is None:
            continue
        try:
            names = (name, *case.more) if name == case.mask else (name,)
            raw, full, grid, coloured = read_masks(files, names, checked.directions)
        except UnreadableImage as error:
            checked.unreadable = True
            checked.problems.append(f"{name}: cannot be read ({error}); replace the file, or take it out of the data")
            continue
        size = raw.shape[:2] if coloured else raw.shape
        if checked.size and size != checked.size:
            checked.problems.append(f"{name}: is {_size(size)}, its image {case.id} is {_size(checked.size)}")
        elif place and grid and place.distance(grid) > NEAR:
            checked.problems.append(
                f"{name}: lies elsewhere than its image {case.id}, by up to {place.distance(grid):.3g} voxels; give it "
                "the image's spacing, origin and directions"
            )
        if name == case.mask:
            checked.values = seen(name, raw, full, coloured)


def _compact(voxels: np.ndarray) -> np.ndarray:
    """Whole numbers as int16 where they fit, else float32; never bytes, which are pictures."""
    if voxels.dtype == np.float32:
        return voxels
    limits = np.iinfo(np.int16)
    fits = limits.min <= voxels.min() and voxels.max() <= limits.max and voxels.dtype.kind != "f"
    return voxels.astype(np.int16 if fits else np.float32)


def _size(shape) -> str:
    return " x ".join(str(axis) for axis in reversed(shape))


def unlike(checked: list[Checked]) -> list[str]:
    """Images whose number of dimensions or channels is another than that of most."""
    problems = []
    for what, of in (("dimensions", lambda c: len(c.size)), ("channels", lambda c: c.channels)):
        numbers = [of(c) for c in checked if not c.problems]
        usual = max(set(numbers), key=numbers.count, default=None)
        problems += [
            f"{c.case.id}: has {of(c)} {what}, the other images {usual}"
            for c in checked
            if not c.problems and of(c) != usual
        ]
    return problems
