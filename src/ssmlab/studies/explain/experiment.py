"""Classification in a run that ends with an explanation of the mistakes of every model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.errors import RecipeError
from ssmlab.core.files import read_json
from ssmlab.core.progress import Progress
from ssmlab.core.stamp import Stamp, commit, machine, versions
from ssmlab.models import load_model
from ssmlab.robustness import transformations
from ssmlab.studies.explain.mistakes import explain_mistakes
from ssmlab.studies.explain.recipe import MisclassifiedRecipe
from ssmlab.tasks.classify import experiment as classify
from ssmlab.tasks.classify.data import Images
from ssmlab.tasks.classify.recipe import ModelConfig
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.shared.experiment import Records, compute_of, estimate_job
from ssmlab.tasks.shared.experiment import fit_job as train_and_measure
from ssmlab.tasks.shared.job import Job

SECONDS = 20.0  # that an explanation takes next to a training, by rule of thumb


def task_of(recipe: MisclassifiedRecipe, data: Images, model: ModelConfig, network: nn.Module) -> Classify:
    """As in any classification, but the transformations must exist before anything is trained."""
    for name in recipe.evaluation.explain.transformations:
        transformations.find(name)
    return classify.task_of(recipe, data, model, network)


def estimate(recipe: MisclassifiedRecipe, data: Images, job: Job) -> float:
    """Seconds that a model will take."""
    if _trained(job.model) is None:
        return estimate_job(TRAINED_HERE, recipe, data, job) + SECONDS
    task_of(recipe, data, job.model, loaded(recipe, data, job.model)[0])
    return SECONDS


def fit_job(recipe: MisclassifiedRecipe, data: Images, job: Job, *, progress: Progress, **how: Any) -> Records:
    """Train a model, or take a trained one; test it with and without transformations, explain what it got wrong."""
    if _trained(job.model) is None:
        return train_and_measure(TRAINED_HERE, recipe, data, job, progress=progress, **how)
    network, task = loaded(recipe, data, job.model)
    return measure(recipe, data, job, network.to(compute_of(recipe, job.model).device), task, progress)


def measure(
    recipe: MisclassifiedRecipe, data: Images, job: Job, network: nn.Module, task: Classify, progress: Progress
) -> Records:
    """As in any classification, and the page."""
    records = classify.measure(recipe, data, job, network, task, progress)
    config, test, device = recipe.evaluation.explain, data.test, compute_of(recipe, job.model).device
    stamp = Stamp(run=recipe.name, task=recipe.task, command=None, commit=commit(), machine=machine(device),
                  versions=versions())  # fmt: skip
    path, found = explain_mistakes(
        network.eval(), task, title=job.model.title, origin=str(job.folder), device=device,
        images=torch.from_numpy(test.images).permute(0, 3, 1, 2), labels=test.labels, ids=test.ids,
        changes={name: _change(name, config) for name in config.transformations}, count=config.pictures,
        batch_size=recipe.evaluation.batch_size, steps=config.steps, score_steps=config.score_steps,
        seed=config.seed, folder=job.folder.parent.parent / "explained" / job.folder.name, stamp=stamp,
        progress=progress,
    )  # fmt: skip
    records["test"] += found
    progress.say(f"explained: {path}" if path else f"{job.model.title} has no mistakes to explain")
    return records


def loaded(recipe: MisclassifiedRecipe, data: Images, model: ModelConfig) -> tuple[nn.Module, Classify]:
    """A trained model that reads the recipe's images.

    Raises:
        RecipeError: it is another network, or was trained on other classes or sizes.
    """
    folder = _trained(model)
    assert folder is not None
    network, preprocess = load_model(folder)
    wanted = {
        "models.*.name": (network.registry_name, model.name),
        "data.image_size": (preprocess["image_size"], recipe.data.image_size),
        "data.fit": (preprocess.get("fit", "crop"), recipe.data.fit),
        "data.path": (list(preprocess["classes"]), list(data.classes)),
    }
    for key, (there, here) in wanted.items():
        if there != here:
            raise RecipeError(f"{folder} was trained with {there}, the recipe has {here}; change {key}")
    mean, std = tuple(preprocess["mean"]), tuple(preprocess["std"])
    return network, Classify(classes=data.classes, mean=mean, std=std)


def _trained(model: ModelConfig) -> Path | None:
    """The folder of a trained model that the weights are; None where they are to be trained further, or none."""
    folder = Path(model.weights) if model.weights else None
    return folder if folder is not None and read_json(folder / "config.json") else None


def _change(name: str, config: Any) -> Any:
    def change(images: Tensor, index: Tensor) -> Tensor:
        return transformations.transform(images, name, severity=config.severity, seed=config.seed, index=index)

    change.__name__ = f"{name.replace('_', ' ')} at severity {config.severity}"
    return change


TRAINED_HERE = replace(classify.EXPERIMENT, task_of=task_of, measure=measure)
EXPERIMENT = replace(TRAINED_HERE, estimate=estimate, fit_job=fit_job)
