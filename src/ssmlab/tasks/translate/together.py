"""Models of several runs that were tested on the same sentences, compared as those of one run are."""

import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.core.record import Record
from ssmlab.reports.differences import Tested, of_run
from ssmlab.reports.run_folder import Run
from ssmlab.tasks.translate.scores import REFERENCES, SOURCES, STATISTICS, Scores, score_differences


@dataclass(frozen=True)
class Arm:
    """A model of a run.

    Args:
        name: no other model has it, in any of the runs. title: what people call it.
        table: of the recipe. folders: of its seeds.
    """

    name: str
    title: str
    table: dict[str, Any]
    folders: tuple[Path, ...]


def alike(run: Run) -> list[Run]:
    """The run, and those next to it that were tested on the same sentences."""
    own = _sentences(run)
    return [run, *(each for each in run.others if own is not None and _sentences(each) == own)]


def arms_of(run: Run) -> list[Arm]:
    """The models of all these runs; those whose label or title several have are called after their run too."""
    every = [(each, label, table) for each in alike(run) for label, table in _tables(each).items()]
    labels = Counter(label for _, label, _ in every)
    titles = Counter(each.titles[label] for each, label, _ in every)
    found = []
    for each, label, table in every:
        title = each.titles[label]
        found.append(
            Arm(
                label if labels[label] == 1 else f"{label} of {each.folder}",
                title if titles[title] == 1 else f"{title} ({each.name})",
                table,
                tuple(folder for folder in folders_of(each, label) if (folder / STATISTICS).is_file()),
            )
        )
    return found


def folders_of(run: Run, label: str) -> list[Path]:
    """Where a model's results may be: of one seed, and of each of several."""
    return [run.folder / "models" / name for name in (label, *(f"{label}_seed{seed}" for seed in run.seeds))]


def differing(run: Run) -> Tested:
    """All these models and their differences: those that one run recorded; of several runs they are computed anew.

    Scores that cannot be read become a problem of the run's page, and the run stands alone.
    """
    arms = [arm for arm in arms_of(run) if arm.folders]
    if len(alike(run)) == 1 or len(arms) < 2:
        return of_run(run)
    key = tuple(
        (arm.name, tuple((each, (each / STATISTICS).stat().st_mtime_ns) for each in arm.folders)) for arm in arms
    )
    try:
        records = list(_differences(key))
    except DataError as error:
        if (problem := f"{error}.") not in run.problems:
            run.problems.append(problem)
        return of_run(run)
    return Tested(
        records=records,
        titles={arm.name: arm.title for arm in arms},
        compared=run.task.compared,
        many=run.items[1],
        seeds=max(len(arm.folders) for arm in arms),
        gap=run.primary_metric.gap,
    )


@lru_cache(maxsize=1)  # a page asks three times
def _differences(arms: tuple[tuple[str, tuple[tuple[Path, int], ...]], ...]) -> tuple[Record, ...]:
    """Of the models' folders, each with when its scores were written."""
    scores = {name: [Scores.load(folder) for folder, _ in folders] for name, folders in arms}
    found = score_differences(scores)
    return tuple(Record(**(vars(record) | {"model": pair, "split": "test"})) for pair, record in found)


def _sentences(run: Run) -> tuple[bytes, bytes] | None:
    """Sources and references of the test part; None before it was translated."""
    try:
        return (run.folder / SOURCES).read_bytes(), (run.folder / REFERENCES).read_bytes()
    except OSError:
        return None


def _tables(run: Run) -> dict[str, dict[str, Any]]:
    """The models of a run by label, as the recipe has them."""
    try:
        found = tomllib.loads(run.recipe or "").get("models", [])
    except tomllib.TOMLDecodeError:
        found = []
    tables = {str(model.get("label")): model for model in found}
    return {label: tables.get(label, {}) for label in run.labels}
