"""Classification in a run that ends with an explanation of the mistakes of every model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import RecipeError
from ssmlab.core.files import read_json
from ssmlab.core.progress import Progress
from ssmlab.core.stamp import Stamp, commit, machine, versions
from ssmlab.interpret.visualise import Search
from ssmlab.reports.caveats import doubt, doubt_in
from ssmlab.reports.run_folder import Run
from ssmlab.robustness import transformations
from ssmlab.studies.explain.explanation import Settings
from ssmlab.studies.explain.mistakes import explain_mistakes
from ssmlab.studies.explain.opening import Opened
from ssmlab.studies.explain.recipe import MisclassifiedRecipe
from ssmlab.tasks.classify import experiment as classify
from ssmlab.tasks.classify.images import Images
from ssmlab.tasks.classify.recipe import ModelConfig
from ssmlab.tasks.classify.report import REPORT
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.shared.experiment import Records, compute_of, estimate_job
from ssmlab.tasks.shared.experiment import fit_job as train_and_measure
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.table import report_of

SECONDS = 20.0  # that an explanation takes next to a training, by rule of thumb


def task_of(recipe: MisclassifiedRecipe, data: Images, model: ModelConfig, network: nn.Module) -> Any:
    """As in any classification, but the transformations must exist before anything is trained."""
    if data.several:
        raise RecipeError("mistakes are explained of images with one label, these have several; use ssmlab explain")
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
        records = train_and_measure(TRAINED_HERE, recipe, data, job, progress=progress, **how)
        network, task = opened(job.folder, data)
    else:
        network, task = loaded(recipe, data, job.model)
        network.to(compute_of(recipe, job.model).device)
        records = classify.measure(recipe, data, job, network, task, progress)
    return explain(recipe, data, job, network, task, records, progress)


def explain(
    recipe: MisclassifiedRecipe,
    data: Images,
    job: Job,
    network: nn.Module,
    task: Classify,
    records: Records,
    progress: Progress,
) -> Records:
    """Write the page of a model, and add what it measures to its records."""
    warning = doubt_of(recipe, data, job, records)
    config, test, device = recipe.evaluation.explain, data.test, compute_of(recipe, job.model).device
    stamp = Stamp(run=recipe.name, task=recipe.task, command=None, commit=commit(), machine=machine(device),
                  versions=versions())  # fmt: skip
    model = Opened(
        title=job.model.title, origin=str(job.folder), network=network.to(device).eval(), task=task,
        image_size=test.images.shape[1], device=device, doubt=warning,
    )  # fmt: skip
    search = Search(steps=config.steps, colour="grey" if model.grey else "imagenet", seed=config.seed)
    batch = recipe.evaluation.batch_size
    path, found = explain_mistakes(
        model, torch.from_numpy(test.images).permute(0, 3, 1, 2), test.labels, test.ids,
        changes={name: _change(name, config) for name in config.transformations}, count=config.pictures,
        settings=Settings(search=search, score_steps=config.score_steps, batch_size=batch, seed=config.seed),
        folder=job.folder.parent.parent / "explained" / job.folder.name, stamp=stamp, progress=progress,
    )  # fmt: skip
    records["test"] += found
    if warning:
        progress.say(f"note: {warning}")
    progress.say(f"explained: {path}" if path else f"{job.model.title} has no mistakes to explain")
    return records


def doubt_of(recipe: MisclassifiedRecipe, data: Images, job: Job, found: Records) -> str:
    """Why the model's mistakes say little, from what is known of it before the run has written its records."""
    trained, label, title = _trained(job.model), job.model.label, job.model.title
    if trained is not None and (known := doubt(trained, title, report_of)):
        return known
    rows = [
        replace(record, model=label, task=recipe.task, split=split, seed=job.seed)
        for split, records in found.items()
        for record in records
    ]
    models = [{"label": label, "weights": bool(job.model.weights or job.model.pretrained)}]
    run = Run(
        folder=job.folder, task=REPORT, info={"trial": recipe.trial, "data": data.describe, "models": models},
        records=rows, labels=[label], titles={label: title}, predictions={}, samples=[], recipe=None,
    )  # fmt: skip
    return doubt_in(run, label, title)


def opened(folder: Path, data: Images) -> tuple[nn.Module, Classify]:
    """A model of a run as it was saved, and its task."""
    network, preprocess = load_model(folder, "vision")
    mean, std = tuple(preprocess["mean"]), tuple(preprocess["std"])
    return network, Classify(classes=data.classes, mean=mean, std=std)


def loaded(recipe: MisclassifiedRecipe, data: Images, model: ModelConfig) -> tuple[nn.Module, Classify]:
    """A trained model that reads the recipe's images.

    Raises:
        RecipeError: it is another network, or was trained on other classes or sizes.
    """
    folder = _trained(model)
    assert folder is not None
    network, preprocess = load_model(folder, "vision")
    wanted = {
        "models.*.name": (network.registry_name, model.name),
        "data.image_size": (preprocess["image_size"], recipe.data.image_size),
        "data.fit": (preprocess.get("fit", "crop"), recipe.data.fit),
        "data.path": (list(preprocess["classes"]), list(data.classes)),
    }
    for key, (there, here) in wanted.items():
        if there != here:
            raise RecipeError(f"{folder} was trained with {there}, the recipe has {here}; change {key}")
    return opened(folder, data)


def _trained(model: ModelConfig) -> Path | None:
    """The folder of a trained model that the weights are; None where they are to be trained further, or none."""
    folder = Path(model.weights) if model.weights else None
    return folder if folder is not None and read_json(folder / "config.json") else None


def _change(name: str, config: Any) -> Any:
    def change(images: Tensor, index: Tensor) -> Tensor:
        return transformations.transform(images, name, severity=config.severity, seed=config.seed, index=index)

    change.__name__ = f"{name.replace('_', ' ')} at severity {config.severity}"
    return change


TRAINED_HERE = replace(classify.EXPERIMENT, task_of=task_of)
EXPERIMENT = replace(TRAINED_HERE, estimate=estimate, fit_job=fit_job)
