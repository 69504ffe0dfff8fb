"""The numbers of a segmentation: tables of images to records, with their intervals, and differences of two models."""

import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.files import write_atomically
from ssmlab.core.record import Record
from ssmlab.core.statistics import ratio_difference, ratio_interval
from ssmlab.core.text import csv_text, plain_cell
from ssmlab.tasks.segment.task import by_image, in_total, per_image

FILE = "images.csv"  # of the test part, in a model's folder
SHARES = ("dice", "iou", "precision", "recall")
COUNTS = ("true_positives", "false_positives", "false_negatives")
SURFACE = {"surface_dice": "fraction", "hausdorff95": "pixels"}


class ImageTable:
    """Numbers of every image and class.

    Args:
        ids, classes: in the order of the rows and columns.
        counts: (images, classes, 3), overlaps.
        surface: by metric (images, classes), nan where there is nothing to compare; or empty.
    """

    def __init__(self, ids: Sequence[str], classes: Sequence[str], counts: np.ndarray, surface: dict[str, np.ndarray]):
        self.ids, self.classes, self.counts = tuple(ids), tuple(classes), counts
        self.values = per_image(counts) | surface

    def write(self, path: Path, more: Mapping[str, Sequence] | None = None) -> None:
        """CSV with the columns id, class, the counts and every metric; empty where a number does not exist.

        Args:
            more: further columns by name, a value an image, such as group and fold.
        """
        more = more or {}
        rows: list[list] = [["id", "class", *COUNTS, *self.values, *more]]
        for i, id_ in enumerate(self.ids):
            own = [values[i] for values in more.values()]
            for k, name in enumerate(self.classes):
                numbers = [values[i, k] for values in self.values.values()]
                shown = ["" if not np.isfinite(number) else f"{number:.6g}" for number in numbers]
                rows.append([id_, name, *(int(count) for count in self.counts[i, k]), *shown, *own])
        write_atomically(path, csv_text(rows))

    @staticmethod
    def joined(tables: Sequence["ImageTable"], ids: Sequence[str]) -> "ImageTable":
        """The images of several tables, each of them in one, in the order of `ids`."""
        place = {id_: i for i, id_ in enumerate(id_ for table in tables for id_ in table.ids)}
        order = [place[id_] for id_ in ids]
        surface = {
            name: np.concatenate([table.values[name] for table in tables])[order]
            for name in SURFACE
            if all(name in table.values for table in tables)
        }
        return ImageTable(ids, tables[0].classes, np.concatenate([table.counts for table in tables])[order], surface)

    @staticmethod
    def read(path: Path) -> "ImageTable":
        """What `write` wrote."""
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        ids, classes = (list(dict.fromkeys(plain_cell(row[name]) for row in rows)) for name in ("id", "class"))
        shape = (len(ids), len(classes))
        counts = np.array([[int(row[name]) for name in COUNTS] for row in rows]).reshape(*shape, 3)
        surface = {
            name: np.array([float(row[name] or "nan") for row in rows]).reshape(shape)
            for name in SURFACE
            if name in rows[0]
        }
        return ImageTable(ids, classes, counts, surface)

    @property
    def dice(self) -> np.ndarray:
        """The mean of every image over the classes but the first (images,)."""
        return by_image(self.values["dice"])


def records_of(table: ImageTable, resamples: int, unit: str = "pixels") -> list[Record]:
    """Every number: the mean over images, by class and over all classes but the first; and in total, `total_<metric>`.

    Intervals are 95 % percentile intervals of a bootstrap over images.
    """
    units = dict.fromkeys(SHARES, "fraction") | SURFACE | {"hausdorff95": unit}
    records = []
    for metric, values in table.values.items():
        columns: dict[str | None, np.ndarray] = {None: by_image(values)}
        columns |= {name: values[:, k] for k, name in enumerate(table.classes)}
        for class_, column in columns.items():
            known = column[np.isfinite(column)]
            if len(known):
                mean = ratio_interval(known, np.ones(len(known)), resamples=resamples)
                records.append(_record(metric, mean, units[metric], len(known), class_))
    for metric in SHARES:
        total = in_total(table.counts)[metric]
        spreads = _total_spreads(table.counts, metric, resamples)
        known = total[1:][np.isfinite(total[1:])]
        whole = float(known.mean()) if len(known) else float("nan")
        for class_, value, spread in zip((None, *table.classes), (whole, *total), spreads, strict=True):
            if np.isfinite(value):
                records.append(_record(f"total_{metric}", (value, *spread), "fraction", len(table.ids), class_))
    return records


def constant_record(table: ImageTable) -> list[Record]:
    """Dice without any learning, as `constant_dice`: one class but the first everywhere, whichever reaches the most.

    Of an image, a class with the share s of the counted pixels has 2 s / (1 + s) then, every other class that is there
    has 0, and their mean is the image's, as `by_image` takes it; the number is the mean over images. Drawing pixels by
    the classes' frequencies reaches less (about s). A prediction of the first class alone has Dice 0. What is known of
    places, such as that lesions lie in the middle, is not counted as chance.
    """
    sizes = table.counts[..., 0] + table.counts[..., 2].astype(np.float64)  # pixels of every image and class
    known = sizes.sum(1) > 0
    shares, there = sizes[known] / sizes[known].sum(1, keepdims=True), sizes[known] > 0
    found = {}
    for k, name in enumerate(table.classes[1:], start=1):
        counted = there[:, 1:].sum(1) + ~there[:, k]  # where the class is not there, marking it is wrong
        found[name] = float(np.mean(2 * shares[:, k] / (1 + shares[:, k]) / counted)) if len(shares) else 0.0
    if not found:
        return []
    best = max(found, key=lambda name: found[name])
    return [Record(metric="constant_dice", value=found[best], unit="fraction", n=len(shares), class_=best)]


def _record(metric: str, interval: Sequence[float], unit: str, n: int, class_: str | None) -> Record:
    value, low, high = interval
    return Record(metric=metric, value=float(value), unit=unit, n=n, spread=(float(low), float(high)), class_=class_)


def _total_spreads(counts: np.ndarray, metric: str, resamples: int) -> list[tuple[float, float]]:
    """Of the mean over classes and of every class: images are drawn with replacement, their pixels counted together."""
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=resamples)
    drawn = np.einsum("ri,ikc->rkc", weights, counts.astype(np.float64))
    values = per_image(drawn)[metric]
    columns = [by_image(values), *values.T]
    found = []
    for column in columns:
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
        found.append((float(low), float(high)))
    return found


def dice_differences(
    jobs: Sequence[Any], resamples: int, file: str = FILE, metric: str = "dice_difference"
) -> list[tuple[str, Record]]:
    """The difference of every two models' Dice with its paired interval over test images and seeds."""
    found: dict[str, list[np.ndarray]] = {}
    for job in jobs:
        if (job.folder / file).is_file():
            found.setdefault(job.model.label, []).append(ImageTable.read(job.folder / file).dice)
    differences = []
    for first, second in combinations(found, 2):
        a, b = np.stack(found[first]), np.stack(found[second])
        if a.shape != b.shape:
            continue
        known = np.isfinite(a).all(0) & np.isfinite(b).all(0)
        if known.any():
            interval = ratio_difference(b[:, known], a[:, known], np.ones(known.sum()), resamples=resamples)
            differences.append((f"{second} - {first}", _record(metric, interval, "fraction", int(known.sum()), None)))
    return differences
