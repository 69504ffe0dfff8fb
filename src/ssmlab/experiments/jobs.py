"""The models of a run: each with one seed and the folder of its results, and the run that they started from."""

from pathlib import Path
from typing import Any

from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.recipe import AnyRecipe
from ssmlab.tasks.table import experiment_of, load_data


def jobs_of(recipe: AnyRecipe, folder: Path) -> list[Job]:
    """Every model with every seed; the folder carries the seed where there are several."""
    several = len(recipe.replicates) > 1
    return [
        Job(model, seed, folder / "models" / (f"{model.label}_seed{seed}" if several else model.label))
        for seed in recipe.replicates
        for model in recipe.models
    ]


def base_task(recipe: AnyRecipe) -> Any:
    """The run that a recipe's models start from, its data read; None where the recipe names none."""
    if not recipe.base.weights:
        return None
    from ssmlab.checkpoints.folder import load_model
    from ssmlab.tasks.shared.base_task import BaseTask
    from ssmlab.tasks.shared.experiment import compute_of

    folder = Path(recipe.base.weights)
    base = load_recipe(folder)
    data = load_data(base)
    experiment, base = experiment_of(base, data)
    job = jobs_of(base, folder)[0]
    return BaseTask(experiment, base, data, job, compute_of(base, job.model), lambda model: load_model(model)[0])
