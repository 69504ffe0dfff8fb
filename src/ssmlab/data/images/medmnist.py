"""MedMNIST (Yang et al. 2023, doi 10.1038/s41597-022-01721-8): {train,val,test}_{images,labels} in one .npz.

Images are uint8 (n, h, w), (n, h, w, 1) or (n, h, w, 3), labels integers (n, 1) or (n,) from 0; or 0 and 1 for each of
several labels, (n, k), as ChestMNIST has them. Ids are
"train/0", "train/1" and so on, by array and row, also where validation is taken from train. The file holds no
names of classes: a text file `classes.txt` next to it, one name a line, gives them; else they are "0", "1" and
so on.
"""

import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ssmlab.data.contents import JOINT, PARTS, Contents, Format, Item
from ssmlab.data.files import ZipFiles, check_archive
from ssmlab.data.tables import add_groups, tables_in

MAX_CLASSES = 10_000
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ArrayPictures:
    """Loads a picture by its part and row."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    def __call__(self, key: tuple[str, int]) -> Image.Image:
        part, row = key
        pixels = self.arrays[part][row]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 and pixels.ndim == 3 else pixels)
        image.info["mode"] = image.mode
        return image.convert("RGB")


def is_medmnist(names) -> bool:
    """Whether an archive with these member names is one."""
    return any(name in names for name in ("train_images.npy", "test_images.npy"))


def read_medmnist(path: Path, group: str | None) -> Contents:
    """Read all arrays; problems: arrays missing, damaged or of another shape, labels that are no classes."""
    problems: list[str] = []
    arrays = _read_arrays(path, problems)
    images, labels = {}, {}
    for part in PARTS:
        pair = arrays.get(f"{part}_images"), arrays.get(f"{part}_labels")
        if pair[0] is not None and pair[1] is not None and _check_pair(part, *pair, problems):
            images[part], labels[part] = pair[0], pair[1].astype(np.int64)
    widths = {values.shape[1] if values.ndim == 2 else 1 for values in labels.values()}
    several = max(widths, default=1) > 1
    if len(widths) > 1:
        problems.append(f"labels of the parts have {' and '.join(map(str, sorted(widths)))} columns; make them equal")
        labels = {}
    if not several:
        labels = {part: values.reshape(-1) for part, values in labels.items()}
    top = max((int(values.max()) + 1 for values in labels.values() if len(values)), default=0)
    top = max(widths) if several else top
    classes = tuple(str(i) for i in range(top))
    if (path.parent / "classes.txt").is_file():
        lines = (path.parent / "classes.txt").read_text(encoding="utf-8-sig", errors="replace").split("\n")
        names = tuple(line.strip() for line in lines if line.strip())
        if len(names) == top and len(set(names)) == top:
            classes = names
        else:
            problems.append(
                f"classes.txt: {len(names)} names for {top} classes; write one different name a line, or delete it"
            )
    items = [
        Item(f"{part}/{i}", JOINT.join(np.array(classes)[row > 0]) if several else classes[row], part, (part, i))
        for part, values in labels.items()
        for i, row in enumerate(values)
    ]
    if group is not None and items:
        items, more = add_groups(items, group, tables_in(path.parent), f"next to {path.name}")
        problems += more
    return Contents(
        name=path.stem,
        format="medmnist",
        classes=classes,
        items=items,
        load=ArrayPictures(images),
        problems=problems,
        incomplete=any(f"{part}_labels" in arrays and part not in images for part in PARTS),
        several=several,
    )


def _read_arrays(path, problems):
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check_archive(path, list(infos.values()))
        memory, size = machine_memory(), sum(info.file_size for info in infos.values())
        if memory is not None and size > memory:
            problems.append(f"{path.name}: needs {size >> 20:,} MiB of memory, this machine has {memory >> 20:,}")
            return arrays
        for part in PARTS:
            for name in (f"{part}_images", f"{part}_labels"):
                if name in infos:
                    arrays[name] = _read_array(archive, infos[name], name, problems)
                elif part != "val" or "val_images" in infos or "val_labels" in infos:
                    problems.append(f"{name}: missing in {path.name}; add the array")
    return arrays


def _read_array(archive, info, name, problems):
    """One .npy member, or None. The header's size is compared with the member's before memory is taken."""
    try:
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            problems.append(f"{name}: holds pickled Python objects, which are never loaded; save plain numbers")
            return None
        if dtype.itemsize * int(np.prod(shape, dtype=object)) > info.file_size:
            problems.append(f"{name}: announces {shape} {dtype}, more than the file holds; copy the file again")
            return None
        with archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    # A damaged member raises BadZipFile, zlib.error, ValueError, KeyError, EOFError, MemoryError ...
    except Exception as error:
        problems.append(f"{name}: cannot be read ({error}); copy the file again")
        return None


def read_array(path: Path, name: str, problems: list[str]) -> np.ndarray | None:
    """An array of an .npz; None where it is not there, or with a problem where it cannot be read."""
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check_archive(path, list(infos.values()))
        return _read_array(archive, infos[name], name, problems) if name in infos else None


def _check_pair(part, images, labels, problems):
    """Whether images and labels of one part can be used."""
    before, number = len(problems), len(images) if images.ndim else 0
    good = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    if not good or 0 in images.shape[1:]:
        problems.append(f"{part}_images: shape {images.shape}; expected (n, h, w), (n, h, w, 1) or (n, h, w, 3)")
    if images.dtype != np.uint8:
        problems.append(f"{part}_images: {images.dtype} pixels; expected uint8, 0 to 255")
    several = labels.ndim == 2 and labels.shape[1] > 1
    if labels.ndim > 2 or labels.ndim == 0 or 0 in labels.shape[1:]:
        problems.append(
            f"{part}_labels: shape {labels.shape}; expected (n, 1), one class an image, or (n, k), 0 or 1 for k labels"
        )
    elif labels.dtype.kind not in "iu":
        problems.append(f"{part}_labels: {labels.dtype}; expected whole numbers")
    elif len(labels) != number:
        problems.append(f"{part}_labels: {len(labels):,} for {number:,} images; make them as many")
    elif several and not ((labels == 0) | (labels == 1)).all():
        wrong = labels[(labels != 0) & (labels != 1)][0]
        problems.append(f"{part}_labels: {wrong} among labels of {labels.shape[1]} columns; each is 0 or 1")
    elif not several:
        rows = np.flatnonzero((labels.reshape(-1) < 0) | (labels.reshape(-1) >= MAX_CLASSES))
        if len(rows):
            value = labels.reshape(-1)[rows[0]]
            wrong = f"{len(rows):,} unknown labels ({value} in row {rows[0]})"
            problems.append(f"{part}_labels: {wrong}; classes count from 0")
    return len(problems) == before


def machine_memory() -> int | None:
    """Bytes of this machine's memory, or None where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read(files, group: str | None, labels: str) -> Contents | None:
    """The contents of files that are an archive; None where they are not."""
    return read_medmnist(files.path, group) if isinstance(files, ZipFiles) and is_medmnist(files.files) else None


FORMAT = Format(read, "a MedMNIST .npz")
