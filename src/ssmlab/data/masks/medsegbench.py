"""MedSegBench (Kus & Aydin 2024, doi 10.1038/s41597-024-04159-2): {train,val,test}_{images,label} in one .npz.

Images are uint8 (n, h, w) or (n, h, w, 3), labels whole numbers (n, h, w), 0 the background. The arrays are served as
PNG files of folders of images and masks, so that all else is as of any such data.
"""

import io
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.contents import PARTS
from ssmlab.data.files import ZipFiles
from ssmlab.data.images.medmnist import read_array
from ssmlab.data.masks.pairs import Case, MaskContents

LABELS = ("label", "masks")  # what the arrays of masks are called, the first as published; "labels" are of MedMNIST


class ArrayFiles:
    """Arrays with the interface of FolderFiles: `train/images/7.png` is row 7 of train_images."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray]):
        self.path, self.arrays = path, arrays
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self.files = {
            f"{part}/{what}/{i}.png": i
            for (part, _, what) in (name.partition("_") for name in arrays)
            for i in range(len(arrays[f"{part}_{what}"]))
        }
        self.folders = {name.rpartition("/")[0] for name in self.files}

    def read(self, name: str) -> bytes:
        part, what, _ = name.split("/")
        pixels = self.arrays[f"{part}_{what}"][self.files[name]]
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
        return buffer.getvalue()

    def head(self, name: str, size: int = 16) -> bytes:
        return self.read(name)[:size]


def label_arrays(path: Path) -> list[str]:
    """What the arrays of masks of such a file are called; none of another one."""
    if not (path.is_file() and path.suffix.lower() == ".npz" and is_zipfile(path)):
        return []
    names = {name.removesuffix(".npy") for name in ZipFiles(path).files}
    return [label for label in LABELS if {"train_images", f"train_{label}"} <= names]


def read_medsegbench(path: Path) -> tuple[MaskContents, ArrayFiles] | None:
    """The cases of such a file; None for another one.

    Raises:
        DataError: arrays are missing, damaged or do not fit each other.
    """
    found = label_arrays(path)
    if not found:
        return None
    problems: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    for part in PARTS:
        images, labels = (read_array(path, f"{part}_{what}", problems) for what in ("images", found[0]))
        if images is None or labels is None:
            continue
        labels = labels[..., 0] if labels.ndim == 4 and labels.shape[-1] == 1 else labels
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[:3] != labels.shape:
            problems.append(
                f"{part}_images: {images.dtype} {images.shape}, labels {labels.shape}; expected uint8 (n, h, w[, 3]) "
                "and labels (n, h, w)"
            )
        elif labels.dtype.kind not in "iub" or labels.min(initial=0) < 0 or labels.max(initial=0) > 254:
            problems.append(f"{part}_{found[0]}: {labels.dtype}; expected whole numbers from 0 to 254")
        else:
            arrays |= {f"{part}_images": images, f"{part}_masks": labels.astype(np.uint8)}
    if problems:
        raise DataError(f"{path}: {len(problems)} problems in the data", problems)
    served = ArrayFiles(path, arrays)
    cases = [
        Case(name, name.partition("/")[0], (name,), name.replace("/images/", "/masks/"))
        for name in served.files
        if "/images/" in name
    ]
    return MaskContents(name=path.stem, format="medsegbench", cases=cases), served
