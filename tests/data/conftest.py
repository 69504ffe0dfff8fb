"""Tiny data sets of every format, drawn anew for each test."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MHIST_COLUMNS = (
    "Image Name",
    "Majority Vote Label",
    "Number of Annotators who Selected SSA (Out of 7)",
    "Partition",
)


def draw(number: int, size=(12, 10)) -> Image.Image:
    """A picture of its own for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


class Makers:
    """What the tests build data sets with."""

    draw = staticmethod(draw)
    encode = staticmethod(encode)

    @staticmethod
    def tree(root: Path, counts: dict[str, int]) -> Path:
        """`counts`: folder -> number of PNG pictures, named 0.png, 1.png ..., all different."""
        number = 0
        for folder, n in counts.items():
            (root / folder).mkdir(parents=True)
            for i in range(n):
                number += 1
                (root / folder / f"{i}.png").write_bytes(encode(draw(number)))
        return root

    @staticmethod
    def pack(folder: Path, target: Path, top: str = "", reverse: bool = False) -> Path:
        """Zip a folder, members below `top`."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*"), reverse=reverse):
                archive.write(path, top + path.relative_to(folder).as_posix())
        return target

    @staticmethod
    def mhist(root: Path, rows: list[dict] | None = None, columns=MHIST_COLUMNS) -> Path:
        """annotations.csv with these rows (default: 20 of each label and part) and a picture for each."""
        if rows is None:
            rows = [
                {
                    "Image Name": f"MHIST_{part}_{label}_{i:02d}.png",
                    "Majority Vote Label": label,
                    "Partition": part,
                }
                for part in ("train", "test")
                for label in ("SSA", "HP")
                for i in range(20)
            ]
        (root / "images").mkdir(parents=True)
        with open(root / "annotations.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="3")
            writer.writeheader()
            writer.writerows(rows)
        for number, row in enumerate(rows):
            (root / "images" / row["Image Name"]).write_bytes(encode(draw(number)))
        return root

    @staticmethod
    def medmnist(path: Path, counts=(40, 10, 10), shape=(6, 6), classes: int = 2, **changes) -> Path:
        """An .npz like MedMNIST's; `changes` replace arrays, None leaves one out."""
        rng = np.random.default_rng(0)
        arrays = {}
        for part, n in zip(("train", "val", "test"), counts, strict=True):
            arrays[f"{part}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
            arrays[f"{part}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
        arrays |= changes
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return path


@pytest.fixture
def make():
    return Makers
