"""The models of a run: each with one seed and the folder of its results, and the run that they started from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.shared.schema import AnyRecipe
from ssmlab.tasks.table import load_data, work_of


@dataclass(frozen=True)
class Job:
    """One model with one seed, and the folder of its results."""

    model: Any
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "records.jsonl").is_file()  # the last file that is written

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def jobs_of(recipe: AnyRecipe, folder: Path) -> list[Job]:
    """Every model with every seed; the folder carries the seed where there are several."""
    several = len(recipe.seeds) > 1
    return [
        Job(model, seed, folder / "models" / (f"{model.label}_seed{seed}" if several else model.label))
        for seed in recipe.seeds
        for model in recipe.models
    ]


def base_task(recipe: AnyRecipe) -> Any:
    """The run that a recipe's models start from, its data read; None where the recipe names none."""
    if not recipe.base.weights:
        return None
    from ssmlab.checkpoints.folder import load_model
    from ssmlab.tasks.shared.base_task import BaseTask

    folder = Path(recipe.base.weights)
    base = load_recipe(folder)
    return BaseTask(work_of(base, load_data(base)), jobs_of(base, folder)[0], lambda model: load_model(model)[0])
