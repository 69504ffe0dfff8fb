"""Volumes with a label, NIfTI and DICOM series, as pictures of their slices: a slice is an image of its volume's group.

Axial slices, the patient's left on the right and the front above, as radiologists look at them, whatever directions a
file is stored in. Grey values are those of a window, else the middle 99 % of the volume's.
"""

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from ssmlab.data.contents import Contents, Item, count
from ssmlab.data.files import Files
from ssmlab.data.images.decode import Window, windowed
from ssmlab.data.masks.dicom_series import find_series, read_series
from ssmlab.data.masks.volumes import Volume, is_volume, read_volumes

VIEW = "LPS"  # rows from front to back, columns from right to left
KEPT = 2  # volumes in memory: slices are asked for one after the other
TAILS = (0.5, 99.5)  # percentiles that become 0 and 255


@dataclass(frozen=True)
class SliceKey:
    """A slice: the files of its volume, its number, and of how many at equal distances."""

    files: tuple[str, ...]
    number: int
    of: int


class VolumePictures:
    """Loads a slice, or a picture where a key is the name of a file.

    Args:
        pictures: loads that. window: of volumes; None: the middle of each one's values.
    """

    def __init__(self, files: Any, pictures: Any, window: Window | None):
        self.files, self.pictures, self.window = files, pictures, window
        self._kept: dict[tuple[str, ...], tuple[Volume, Window]] = {}
        self._lock = threading.Lock()

    def __call__(self, key: Any) -> Image.Image:
        if not isinstance(key, SliceKey):
            return self.pictures(key)
        volume, window = self._volume(key.files)
        depth = len(volume.voxels)
        place = round((key.number + 0.5) * depth / key.of - 0.5)
        image = Image.fromarray(windowed(volume.voxels[place], window))
        mode = f"slice {window[0]:g}/{window[1]:g}" if self.window else "slice"
        picture = image.convert("RGB")
        picture.info = {"mode": mode, "frames": 1}
        return picture

    def _volume(self, names: tuple[str, ...]) -> tuple[Volume, Window]:
        with self._lock:
            if names in self._kept:
                return self._kept[names]
        volume = read_volumes(self.files, names[0])[0] if is_volume(names[0]) else read_series(self.files, names)
        volume = volume.turned(VIEW)
        if volume.voxels.ndim == 2:
            volume = replace(volume, voxels=volume.voxels[None])
        low, high = np.percentile(volume.voxels, TAILS)
        window = self.window or (float(low + high) / 2, max(float(high - low), 1e-6))
        with self._lock:
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[names] = volume, window
        return volume, window


def with_slices(contents: Contents, files: Files, slices: int, window: Window | None) -> Contents:
    """The same data with the slices of volumes as images.

    Args:
        slices: of every volume, at equal distances; 0: of NIfTI the middle one, and every DICOM file is an image.
    """
    items: list[Item] = []
    series_of: dict[str, tuple[str, ...]] = {}
    by_name = {str(item.key): item for item in contents.items}
    if slices:
        series, problems = find_series(files, [name for name in by_name if not is_volume(name)])
        contents.problems += problems
        series_of = {name: tuple(one.files) for one in series for name in one.files if len(one.files) > 1}
    done: set[tuple[str, ...]] = set()
    volumes = 0
    for name, item in by_name.items():
        own = (name,) if is_volume(name) else series_of.get(name)
        if own is None:
            items.append(item)
            continue
        if own in done:
            continue
        done.add(own)
        volumes += 1
        labels = {by_name[each].label for each in own}
        if len(labels) > 1:
            contents.problems.append(f"{own[0]}: slices of its series have several classes; a volume has one")
        number = slices or 1
        base = item.id if len(own) == 1 else item.id.rpartition("/")[0] or item.id
        group = item.group or base
        ids = [base] if number == 1 else [f"{base}#{i}" for i in range(number)]
        items += [replace(item, id=id_, key=SliceKey(own, i, number), group=group) for i, id_ in enumerate(ids)]
    if volumes:
        how = "the middle slice of each" if (slices or 1) == 1 else f"{slices} slices of each at equal distances"
        contents.notes.append(f"{count(volumes, 'volume')}: {how} is an image; those of one volume stay together")
        contents.items = items
        contents.load = VolumePictures(files, contents.load, window)
    return contents
