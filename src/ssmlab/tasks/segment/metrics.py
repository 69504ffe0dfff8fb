"""The numbers of a segmentation: tables of images to records, with their intervals, and differences of two models."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.files import write_atomically
from ssmlab.core.record import Record
from ssmlab.core.statistics import score_interval, statistics_of
from ssmlab.core.text import csv_text, plain_cell
from ssmlab.tasks.segment.task import by_image, per_image
from ssmlab.tasks.shared.differences import difference_records, wilcoxon_records

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
        groups: of every image, such as its patient; None: every image is its own.
    """

    def __init__(
        self, ids: Sequence[str], classes: Sequence[str], counts: np.ndarray, surface: dict[str, np.ndarray],
        groups: Sequence[str] | None = None,
    ):  # fmt: skip
        self.ids, self.classes, self.counts = tuple(ids), tuple(classes), counts
        self.groups = None if groups is None else list(groups)
        self.values = per_image(counts) | surface

    def write(self, path: Path, more: Mapping[str, Sequence] | None = None) -> None:
        """CSV with the columns id, class, the counts, every metric and group; empty where a number does not exist.

        Args:
            more: further columns by name, a value an image, such as fold.
        """
        more = {**(more or {}), **({"group": self.groups} if self.groups else {})}
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
        of = dict(zip(place, (group for table in tables for group in table.groups or ()), strict=False))
        groups = [of[id_] for id_ in ids] if len(of) == len(place) else None
        counts = np.concatenate([table.counts for table in tables])[order]
        return ImageTable(ids, tables[0].classes, counts, surface, groups)

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
        groups = [plain_cell(row["group"]) for row in rows[:: len(classes)]] if "group" in rows[0] else None
        return ImageTable(ids, classes, counts, surface, groups)

    @property
    def dice(self) -> np.ndarray:
        """The mean of every image over the classes but the first (images,)."""
        return by_image(self.values["dice"])


def records_of(table: ImageTable, resamples: int, unit: str = "pixels") -> list[Record]:
    """Every number: the mean over images, by class and over all classes but the first; and in total, `total_<metric>`.

    Intervals are of 95 %, over images or whole groups of them, see `core.statistics.resampled_interval`.
    """
    units = dict.fromkeys(SHARES, "fraction") | SURFACE | {"hausdorff95": unit}
    records = []
    for metric, values in table.values.items():
        columns: dict[str | None, np.ndarray] = {None: by_image(values)}
        columns |= {name: values[:, k] for k, name in enumerate(table.classes)}
        for class_, column in columns.items():
            there = np.isfinite(column)
            if there.any():
                how: dict[str, Any] = {"resamples": resamples, "groups": some_groups(table, there)}
                how["bounds"] = (0.0, np.inf if metric == "hausdorff95" else 1.0)
                mean = score_interval(statistics_of(column[there]), **how)
                records.append(_record(metric, mean, units[metric], int(there.sum()), class_))
    shape = table.counts.shape
    for metric in SHARES:
        for k, class_ in enumerate((None, *table.classes)):

            def in_all(sums: np.ndarray, metric: str = metric, k: int = k) -> np.ndarray:
                """Of the pixels of drawn images together: the mean over classes but the first, or one class."""
                values = per_image(sums.reshape(*sums.shape[:-1], shape[1], 3))[metric]
                return by_image(values) if k == 0 else values[..., k - 1]

            flat = table.counts.reshape(1, shape[0], -1).astype(np.float64)
            found = score_interval(flat, in_all, resamples=resamples, bounds=(0.0, 1.0), groups=table.groups)
            if np.isfinite(found.value):
                records.append(_record(f"total_{metric}", found, "fraction", len(table.ids), class_))
    return records


def some_groups(table: ImageTable, chosen: np.ndarray) -> list[str] | None:
    """The groups of the images where `chosen` is true; None where there are none."""
    return None if table.groups is None else [g for g, there in zip(table.groups, chosen, strict=True) if there]


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


def dice_differences(
    jobs: Sequence[Any], resamples: int, file: str = FILE, metric: str = "dice"
) -> list[tuple[str, Record]]:
    """The difference of every two models' Dice over test images and seeds, with p-values, of Wilcoxon's test too; over
    whole groups of images where a column names them.

    Images of which a model has no Dice are left out for all.
    """
    found: dict[str, list[np.ndarray]] = {}
    tables = [(job, ImageTable.read(job.folder / file)) for job in jobs if (job.folder / file).is_file()]
    for job, table in tables:
        found.setdefault(job.model.label, []).append(table.dice)
    images = max((len(rows[0]) for rows in found.values()), default=0)
    values = {label: np.stack(rows) for label, rows in found.items() if all(len(row) == images for row in rows)}
    known = np.all([np.isfinite(rows).all(0) for rows in values.values()], axis=0) if values else np.zeros(0, bool)
    if len(values) < 2 or not known.any():
        return []
    values = {label: rows[:, known] for label, rows in values.items()}
    stacked = {label: statistics_of(rows) for label, rows in values.items()}
    groups = some_groups(tables[0][1], known)
    records = difference_records(metric, stacked, groups=groups, resamples=resamples, bounds=(-1.0, 1.0))
    return records + wilcoxon_records(metric, values, groups)
