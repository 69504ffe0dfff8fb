"""Read a run's folder, whole or half-finished, into one value that tables, plots and the page are made from."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ssmlab.core.checksums import FILE as CHECKSUMS
from ssmlab.core.checksums import damages
from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json
from ssmlab.core.formats import plural
from ssmlab.core.record import Record, read_records
from ssmlab.core.text import plain_cell
from ssmlab.reports.primary_metric import PrimaryMetric, primary_metric
from ssmlab.reports.task_report import ReportOf, TaskReport

# (model, metric, class) -> seed -> record
Finals = dict[tuple[str, str, str | None], dict[int | None, Record]]
SEED_SUFFIX = re.compile(r"_seed(\d+)$")
_DIFFERENCE = "_difference"


@dataclass(frozen=True)
class Predictions:
    """What one model predicted of the test part.

    Args:
        ids, labels, predicted: one entry an image; `classes` in the order of the probability columns.
        probabilities: (images, classes), or None where the file has none.
        groups: of every image, such as its patient; None where there are none.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: np.ndarray | None
    groups: tuple[str, ...] | None = None

    @property
    def correct(self) -> np.ndarray:
        return np.array([label == predicted for label, predicted in zip(self.labels, self.predicted, strict=True)])


@dataclass(frozen=True)
class Sample:
    """A test image of the report: its file, and per model the predicted class and its probability."""

    file: Path
    id: str
    label: str
    predictions: dict[str, tuple[str, float | None]]


@dataclass
class Run:
    """Everything in runs/<name>/ that a report needs.

    Args:
        task: what reports know of its task.
        info: run.json; `labels` the models in the order of the recipe, `titles` what people call them.
        predictions: label -> seed -> Predictions. With one seed, the key may be None.
        problems: what is missing or unreadable, one sentence each.
        others: runs that the page sets next to this one.
    """

    folder: Path
    task: TaskReport
    info: dict
    records: list[Record]
    labels: list[str]
    titles: dict[str, str]
    predictions: dict[str, dict[int | None, Predictions]]
    samples: list[Sample]
    recipe: str | None
    problems: list[str] = field(default_factory=list)
    others: list["Run"] = field(default_factory=list)

    @cached_property
    def finals(self) -> "Finals":
        return final_records(self.records)

    def final(self, label: str, metric: str, class_: str | None = None) -> float | None:
        """A model's final test or cost number, the mean where there are several seeds; None if not measured."""
        found = self.finals.get((label, metric, class_))
        return float(np.mean([record.value for record in found.values()])) if found else None

    @property
    def name(self) -> str:
        return str(self.info.get("name") or self.folder.name)

    @property
    def data(self) -> dict:
        return self.info["data"] if isinstance(self.info.get("data"), dict) else {}

    @property
    def test_groups(self) -> int | None:
        """How many groups, such as patients, the test part has; None where its items are independent."""
        counts = self.data.get("groups")
        found = counts.get("test") if isinstance(counts, dict) else None
        return found if isinstance(found, int) else None

    @property
    def tested(self) -> str:
        """ "45 test images of 9 groups (patient)", with what is known; of folds "45 images out of fold"."""
        n = next((r.n for r in self.records if r.metric == self.primary_metric.metric and r.split == "test" and r.n), 0)
        counted = f"{n:,} " if n else ""
        groups = f" of {self.test_groups:,} groups ({self.data.get('group')})" if self.test_groups else ""
        return (
            f"{counted}{self.items[1]}{groups} out of fold" if self.folds else f"{counted}test {self.items[1]}{groups}"
        )

    @property
    def folds(self) -> int:
        """Of a cross-validation; 0 without one."""
        found = self.data.get("folds")
        return int(found.get("number") or 0) if isinstance(found, dict) else 0

    @property
    def seeds(self) -> list[int]:
        seeds = self.info.get("seeds") or sorted({r.seed for r in self.records if r.seed is not None})
        return list(seeds) if isinstance(seeds, (list, tuple)) else [seeds]

    @property
    def items(self) -> tuple[str, str]:
        """What its test part counts: "image", "images"."""
        return self.task.items

    @cached_property
    def primary_metric(self) -> PrimaryMetric:
        return primary_metric(self.records, self.task.primary)

    @property
    def finished(self) -> bool:
        return bool(self.info.get("finished"))

    @property
    def classes(self) -> list[str]:
        listed = self.data.get("classes")
        if isinstance(listed, (list, tuple)) and listed:
            return [str(name) for name in listed]
        for record_class in ("support", "recall"):
            names = [r.class_ for r in self.records if r.metric == record_class and r.class_]
            if names:
                return [n for n in dict.fromkeys(names) if n not in ("macro", "weighted")]
        return []


def load_run(folder: Path, report_of: ReportOf, *, whole: bool = True) -> Run:
    """Read a run's folder.

    Args:
        report_of: finds what reports know of a task by its name, as `tasks.table.report_of` does.
        whole: predictions and samples too, which are large.
    Raises:
        UserError: it is no run's folder, nothing was measured yet, or run.json or records.jsonl is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; a run makes one under runs/")
    try:
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        info = None
    except ValueError as error:
        raise UserError(f"{folder / 'run.json'} is damaged: {error}") from None
    if not isinstance(info, dict | None):
        kind = type(info).__name__
        raise UserError(f"{folder / 'run.json'} is damaged: it must hold an object, got a {kind}")
    path = folder / "records.jsonl"
    if info is None and not path.is_file():
        raise UserError(f"{folder} is not the folder of a run: it has neither run.json nor records.jsonl")
    records = read_records(path) if path.is_file() else []
    if not records:
        damaged = next(iter(damaged_files(folder, lambda name: False)), "no records")
        raise UserError(f"nothing was measured in {folder} yet ({damaged}); continue it with `ssmlab run --resume`")
    problems = [] if info is not None else ["run.json is missing; names and data are unknown."]
    info = info or {}
    if whole:
        problems += [f"{what}." for what in damaged_files(folder, lambda name: not name.endswith(".safetensors"))]
        if path.is_file() and not path.read_bytes().endswith(b"\n"):
            problems.append(f"{path} ends in half a record, which is left out.")
    labels, titles = _labels(info, records)
    predictions = _read_all_predictions(folder, info, labels, problems) if whole else {}
    samples = _read_samples(folder / "samples", problems) if whole else []
    recipe = folder / "recipe.toml"
    return Run(
        folder=folder,
        task=report_of(info.get("task") or next((record.task for record in records if record.task), None)),
        info=info,
        records=records,
        labels=labels,
        titles=titles,
        predictions=predictions,
        samples=samples,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None,
        problems=problems,
    )


def load_runs(folder: Path, report_of: ReportOf, others: Sequence[Path] = ()) -> Run:
    """Read a run's folder, and those of others that are set next to it.

    Raises:
        UserError: a folder is no run's, what is in it is damaged, or the task's page has no place for other runs.
    """
    run = load_run(folder, report_of)
    apart = {path.resolve(): path for path in others if path.resolve() != Path(folder).resolve()}
    run.others = [load_run(path, report_of, whole=False) for path in apart.values()]
    if run.others and not all(each.task.several and each.task is run.task for each in (run, *run.others)):
        raise UserError("a page of several runs is made of runs of translation models alone; give one run")
    return run


def damaged_files(folder: Path, hashed: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Which files of a run are not what was written, and how; runs of versions without checksums have none.

    Args:
        hashed: of which files, by name, the content is compared and not the size alone.
    """
    unfinished = {"recipe.toml"}  # all else is written again when such a run goes on
    try:
        finished = not (folder / "run.json").is_file() or bool(read_json(folder / "run.json").get("finished"))
    except (ValueError, AttributeError):
        finished = True  # it is damaged, or missing, and then has a checksum if the run was finished
    found = damages(folder, lambda name: finished or name in unfinished, hashed)
    for model in sorted(path.parent for path in folder.glob(f"models/*/{CHECKSUMS}")):
        found += damages(model, hashed=hashed)
    return found


def model_labels(records: list[Record]) -> list[str]:
    """The models of some records in the order of their first appearance."""
    return list(dict.fromkeys(r.model for r in records if r.model is not None and not r.metric.endswith(_DIFFERENCE)))


def final_records(records: list[Record]) -> Finals:
    """The final test and cost numbers by (model, metric, class) and seed; of repeated ones the last counts."""
    found: Finals = {}
    for record in records:
        if record.model is not None and record.step is None and record.split in (None, "test"):
            found.setdefault((record.model, record.metric, record.class_), {})[record.seed] = record
    return found


def _models(info: dict) -> list[dict]:
    return [model for model in info.get("models") or [] if isinstance(model, dict)]


def _labels(info: dict, records: list[Record]) -> tuple[list[str], dict[str, str]]:
    titles: dict[str, str] = {}
    for model in _models(info):
        label = str(model.get("label") or model.get("name"))
        titles.setdefault(label, str(model.get("title") or label))
    for label in model_labels(records):
        titles.setdefault(label, label)
    # Two variants of one network share its title; then only the labels tell them apart.
    shared = [title for title in titles.values() if list(titles.values()).count(title) > 1]
    return list(titles), {label: (label if title in shared else title) for label, title in titles.items()}


def _read_all_predictions(folder, info, labels, problems) -> dict[str, dict[int | None, Predictions]]:
    by_folder = {}
    for model in _models(info):
        label = str(model.get("label") or model.get("name"))
        for key in ("folder", "name", "label"):
            if model.get(key):
                by_folder[SEED_SUFFIX.sub("", Path(str(model[key])).name)] = label
    found: dict[str, dict[int | None, Predictions]] = {label: {} for label in labels}
    for path in sorted((folder / "models").glob("*/predictions.csv")):
        suffix = SEED_SUFFIX.search(path.parent.name)
        base = SEED_SUFFIX.sub("", path.parent.name)
        label = by_folder.get(base, base)
        if label not in found:
            problems.append(f"models/{path.parent.name} belongs to no model of this run and was left out.")
            continue
        try:
            if damages(path.parent, lambda name: name == "predictions.csv"):  # which is among the problems
                continue
            read = read_predictions(path)
            of = counts.get("test") if isinstance(counts := info.get("data", {}).get("counts"), dict) else None
            if isinstance(of, int) and len(read.ids) != of:
                raise UserError(f"{path} has {plural(len(read.ids), 'row')} of {of:,} and was left out.")
            found[label][int(suffix[1]) if suffix else None] = read
        except UserError as error:
            problems.append(str(error))
    return found


def read_predictions(path: Path) -> Predictions:
    """Read predictions.csv: id,label,predicted,correct[,group] and one probability column `p:<class>` per class.

    Raises:
        UserError: a column is missing, a row is cut, or a probability is no number.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = [[plain_cell(cell) for cell in row] for row in reader]
    cut = sum(len(row) != len(header) for row in rows)
    if cut:
        raise UserError(f"{path.parent.name}/{path.name} is damaged: {cut} of {len(rows)} rows are cut.")
    missing = [name for name in ("id", "label", "predicted") if name not in header]
    if missing or not rows:
        what = f"no column {missing[0]}" if missing else "no complete row"
        raise UserError(f"{path.parent.name}/{path.name} is damaged: {what}.")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    classes = tuple(name[2:] for name in header if name.startswith("p:"))
    try:
        table = np.array([columns[f"p:{name}"] for name in classes], dtype=float).T if classes else None
    except ValueError as error:
        raise UserError(f"{path.parent.name}/{path.name} is damaged: {error}.") from None
    return Predictions(columns["id"], columns["label"], columns["predicted"], classes, table, columns.get("group"))


def _read_samples(folder: Path, problems: list[str]) -> list[Sample]:
    path = folder / "samples.json"
    if not path.is_file():
        return []
    samples = []
    try:
        for row in json.loads(path.read_text(encoding="utf-8")):
            # Only the name: a file outside samples/ must not end up in a page that is passed on.
            file = folder / Path(str(row["file"])).name
            said: dict[str, tuple[str, float | None]] = {}
            for model, value in (row.get("predictions") or {}).items():
                predicted, *sure = value if isinstance(value, (list, tuple)) and value else (value,)
                said[str(model)] = str(predicted), float(sure[0]) if sure and sure[0] is not None else None
            if file.is_file():
                samples.append(Sample(file, str(row.get("id", file.name)), str(row["label"]), said))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"samples/samples.json is damaged ({type(error).__name__}: {error}).")
    return samples
