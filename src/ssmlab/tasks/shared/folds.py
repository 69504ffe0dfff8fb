"""A cross-validation in a run: its trainings, what each of them sees, and the numbers of all of them as one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json, write_atomically
from ssmlab.core.record import Record, read_records
from ssmlab.data.folds import FILE, Fold, splits_text
from ssmlab.tasks.shared.calibration import KEY
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.recipe import REPEAT

PUBLISHED = "published_test"  # the split of records of a test part that no fold has seen
SUMS = (
    "train_seconds",
    "test_seconds",
    "tta_seconds",
    "pretraining_seconds",
)  # all folds together; of other numbers the mean


def fold_jobs(job: Job, data: Any) -> list[Job]:
    """The trainings that a model with one seed is made of: itself, or one a fold, in folders of its folder."""
    if not getattr(data, "folds", ()):
        return [job]
    return [Job(job.model, job.seed, job.folder / f"fold{f.number}", f.number, job.run) for f in folds_for(job, data)]


def view_of(job: Job, data: Any) -> Any:
    """The data as a training sees them: of a fold its parts."""
    if job.fold is None:
        return data
    return data.of_fold(next(fold for fold in folds_for(job, data) if fold.number == job.fold))


def fold_parts(pool: Any, fold: Fold) -> dict[str, Any]:
    """The parts of one fold of a pool, which has `take`; test is what it holds out."""
    return {"train": pool.take(fold.train), "val": pool.take(fold.val), "test": pool.take(fold.held_out)}


def untouched(data: Any, name: str) -> Any:
    """A part that models which a run has finished may be tested on.

    Raises:
        UserError: a cross-validation has learned from it.
    """
    if not data.folds:
        return getattr(data, name)
    if name != "test" or data.apart is None:
        raise UserError(
            f"the folds have learned from every image of the {name} part, so that it measures nothing; the run's "
            "records hold what was predicted out of the folds, or give other data"
        )
    return data.apart


def folds_for(job: Job, data: Any) -> Any:
    """The folds of a job's repeat."""
    return data.folds[job.seed // REPEAT if len(data.folds) > 1 else 0]


def write_splits(data: Any, folder: Path) -> None:
    """Write the folds of a run as nnU-Net does, so that another program or run can take the same."""
    if getattr(data, "folds", ()) and not (folder / FILE).is_file():
        names = getattr(data, "names", data.train.ids)
        write_atomically(folder / FILE, splits_text([fold for repeat in data.folds for fold in repeat], names))


def number_of_folds(job: Job, data: Any) -> list[int]:
    """The fold of every item of the pool."""
    found = np.zeros(len(data.train.ids), np.int64)
    for fold in folds_for(job, data):
        found[list(fold.held_out)] = fold.number
    return found.tolist()


def fold_means(
    jobs: Sequence[Job], data: Any, values: Sequence[np.ndarray]
) -> tuple[dict[str, np.ndarray], float, float]:
    """What `differences.fold_records` takes: scores of every fold and repeat by model, the mean over seeds, and how
    many items folds hold out and train on, the means of both.

    Args:
        values: of every job, a number for each item of the pool; nan where it has none.
    """
    found: dict[str, dict[tuple[int, int], list[float]]] = {}
    for job, own in zip(jobs, values, strict=True):
        repeat = job.seed // REPEAT if len(data.folds) > 1 else 0
        of_model = found.setdefault(job.model.label, {})
        for fold in folds_for(job, data):
            part = own[list(fold.held_out)]
            mean = float(part[np.isfinite(part)].mean()) if np.isfinite(part).any() else np.nan
            of_model.setdefault((repeat, fold.number), []).append(mean)
    scores = {label: np.array([np.mean(each) for _, each in sorted(own.items())]) for label, own in found.items()}
    known = np.all([np.isfinite(each) for each in scores.values()], axis=0)
    every = [fold for repeat in data.folds for fold in repeat]
    tested, trained = (float(np.mean([len(getattr(f, part)) for f in every])) for part in ("held_out", "train"))
    return {label: each[known] for label, each in scores.items()}, tested, trained


def pooled_records(folds: Sequence[Job]) -> dict[str | None, list[Record]]:
    """What the folds measured themselves, as records of the model: by part, without those of the pooled test part.

    Costs and curves are means over folds, times of training and testing their sums; each fold's own test numbers have
    the part `fold<number>`.
    """
    records: dict[str | None, list[Record]] = {"train": [], "val": [], None: []}
    together: dict[tuple, list[Record]] = {}
    for job in folds:
        for record in read_records(job.folder / "records.jsonl"):
            if record.split == "test":
                if record.step is None and record.metric != "confusion":
                    records.setdefault(f"fold{job.fold}", []).append(_plain(record))
            else:
                together.setdefault((record.split, record.metric, record.class_, record.step), []).append(record)
    for (split, metric, _, step), same in together.items():
        if len(same) < len(folds) and step is not None:
            continue  # a fold that stopped early has no such step
        values = [record.value for record in same if record.value is not None]
        if values:
            value = float(sum(values) if metric in SUMS else np.mean(values))
            records.setdefault(split, []).append(replace(_plain(same[0]), value=value, spread=None))
    return records


def _plain(record: Record) -> Record:
    """A record without the circumstances, which its run stamps on it again."""
    return Record(
        metric=record.metric, value=record.value, unit=record.unit, n=record.n, spread=record.spread,
        class_=record.class_, step=record.step,
    )  # fmt: skip


def calibrated_by_fold(logits: np.ndarray, held: list[tuple[list[int], Path]]) -> tuple[np.ndarray, Record]:
    """Out-of-fold logits, each divided by the temperature of the fold that made it, which its own validation part said;
    and the geometric mean of these as a record.

    Args:
        held: the rows of every fold, and its model's folder.
    """
    divided, temperatures = logits.astype(np.float64), []
    for rows, folder in held:
        temperatures.append(float(read_json(folder / "preprocess.json")[KEY]["temperature"]))
        divided[rows] /= temperatures[-1]
    mean = float(np.exp(np.mean(np.log(temperatures))))
    return divided, Record(metric="temperature", value=mean, n=len(logits))


def has_weights(folders: Sequence[Path]) -> bool:
    """Whether all folds have weights of their own, which adapters that stay apart do not."""
    return all((folder / "model.safetensors").is_file() for folder in folders)
