"""What a run does with one model: build, adapt, train, save, test once, measure. Tasks say how, by plain functions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ssmlab.core.device import ComputeConfig, choose_compute
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.world import discarding, world_of
from ssmlab.profiling import peak_memory
from ssmlab.reports.comparison import PROCESS
from ssmlab.tasks.shared import adapting, continual
from ssmlab.tasks.shared.base_task import BaseTask
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.recipe import AnyRecipe
from ssmlab.training.curves import curves
from ssmlab.training.dataset import batch_of
from ssmlab.training.distributed import rows_of, shared_world
from ssmlab.training.estimate import estimate_seconds
from ssmlab.training.fit import FitResult, fit
from ssmlab.training.parameters import optimizer_groups
from ssmlab.training.task import Task

Records = dict[str | None, list[Record]]  # by part; None holds those of no part, the costs
FindBase = Callable[[], BaseTask | None]


class Trained(NamedTuple):
    """A network after training, its task, what training left, and the peak of memory."""

    network: nn.Module
    task: Task
    result: FitResult
    peak: Any


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The functions of a task or a study; None: it has none, or does as every task does.

    A recipe's `data` are what its loader has read; `model` is one of its models.

    primary_metric: `(data)`, the validation metric by which a sweep chooses; higher_is_better: of it.
    resolve: `(recipe, data)`, the recipe with what only the data decide filled in; called once, before all others.
    build: `(recipe, data, model, seed)`, the network with its initial weights, and what is frozen in it.
    task_of: `(recipe, data, model, network)`, the task as this model sees it.
    parts: `(recipe, data, model)`, training and validation part, as `fit` takes them.
    validate: `(recipe, data, job, network, task)`, the numbers of the validation part by `val_<metric>`.
    measure: `(recipe, data, job, network, task, progress)`: save the model; predict the validation part, and once the
        test part; costs. Records by part.
    evaluated: `(recipe, data, epochs)`, rows that are predicted during and after training.
    estimate: `(recipe, data, job)`, seconds that a model will take, where that is not `estimate_job`'s answer.
    train_job: as the function of this name, where it is not that; wants_base: with `find_base`.
    fit_job: `(recipe, data, job, *, find_base, logs, progress, resume)`, all records of a model, likewise.
    compare: `(recipe, data, jobs)`, differences of every two models with the pair's name.
    finish: `(recipe, data, jobs, folder)`: write what the report needs besides records.
    pool: `(recipe, data, job, folds, progress)`: of the trained folds of a model write its predictions and the model
        that is their mean; records by part.
    """

    build: Callable[..., nn.Module]
    task_of: Any = None
    parts: Any = None
    validate: Any = None
    measure: Any = None
    primary_metric: Callable[[Any], str] = lambda data: "accuracy"
    higher_is_better: bool = True
    resolve: Callable[[Any, Any], Any] = lambda recipe, data: recipe
    evaluated: Callable[[Any, Any, int], int] | None = None
    estimate: Callable[..., float] | None = None
    train_job: Callable[..., Trained] | None = None
    wants_base: bool = False
    fit_job: Callable[..., Records] | None = None
    compare: Callable[..., list[tuple[str, Record]]] | None = None
    finish: Callable[..., None] | None = None
    pool: Callable[..., Records] | None = None


def compute_of(recipe: AnyRecipe, model: Any) -> ComputeConfig:
    """Where and how a model computes."""
    config = recipe.training_of(model)
    return choose_compute(recipe.device, config.precision, config.channels_last)


def adapted(experiment: Experiment, recipe: AnyRecipe, data: Any, job: Job) -> nn.Module:
    """The network with its initial weights and, where the recipe has some for it, adapters that are seen to act."""
    network = experiment.build(recipe, data, job.model, job.seed)
    if adapting.has_adapters(recipe, job.model):
        part, task = experiment.parts(recipe, data, job.model)[0], experiment.task_of(recipe, data, job.model, network)
        rows = min(recipe.training_of(job.model).batch_size, len(part), 8)
        batch = batch_of(part, list(range(rows)), task)
        adapting.attach(recipe, job.model, network, task, batch, compute_of(recipe, job.model).precision)
    return network


def estimate_jobs(experiment: Experiment, recipe: AnyRecipe, data: Any, jobs: list[Job]) -> float:
    """Seconds that models will take. Whatever cannot be built is reported here, before training."""
    estimate = experiment.estimate or (lambda *arguments: estimate_job(experiment, *arguments))
    seconds: dict[str, float] = {}
    for job in jobs:  # a seed takes as long as another
        if job.model.label not in seconds:
            seconds[job.model.label] = estimate(recipe, data, job)
    return sum(seconds[job.model.label] for job in jobs)


def estimate_job(experiment: Experiment, recipe: AnyRecipe, data: Any, job: Job) -> float:
    """Seconds that a model will take, from a few steps of it."""
    network, config = adapted(experiment, recipe, data, job), recipe.training_of(job.model)
    if config.layer_decay < 1:
        optimizer_groups(network, config)
    part, task = experiment.parts(recipe, data, job.model)[0], experiment.task_of(recipe, data, job.model, network)
    epochs, steps = config.length(len(part))
    counts, processes = data.describe["counts"], world_of().size
    if processes > 1 and config.sharding == "full":
        return 0.0  # a device may have no room for what the shards are of
    rows = epochs * counts["val"] + counts["test"]
    batch = batch_of(part, list(range(min(config.batch_size, len(part)))), task)
    piece = rows_of(batch, slice(0, -(-len(batch["labels"]) // (processes * config.accumulation))), task)
    return estimate_seconds(
        network,
        task,
        config,
        piece,
        steps=steps * config.accumulation,
        evaluated=(experiment.evaluated(recipe, data, epochs) if experiment.evaluated else rows) // processes,
        compute=compute_of(recipe, job.model),
    )


def train_job(
    experiment: Experiment,
    recipe: AnyRecipe,
    data: Any,
    job: Job,
    *,
    find_base: FindBase = lambda: None,
    logs: Path | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> Trained:
    """Build and train a model.

    Args:
        find_base: the run that the models started from, if any; called where something needs it.
    """
    if experiment.train_job is not None:
        more = {"find_base": find_base} if experiment.wants_base else {}
        return experiment.train_job(recipe, data, job, logs=logs, progress=progress, resume=resume, **more)
    network = adapted(experiment, recipe, data, job)
    task, compute = experiment.task_of(recipe, data, job.model, network), compute_of(recipe, job.model)
    train, val = experiment.parts(recipe, data, job.model)
    remembering = continual.remembering(find_base(), job.model, network, task, compute.device)
    with remembering as learned, peak_memory(compute.device) as peak:
        result = fit(
            network, learned, train, val, recipe.training_of(job.model),
            folder=job.folder, device=compute, label=job.label, seed=job.seed,
            progress=progress, resume=resume, logs=logs,
        )  # fmt: skip
    return Trained(network, task, result, peak)


def fit_job(
    experiment: Experiment,
    recipe: AnyRecipe,
    data: Any,
    job: Job,
    *,
    find_base: FindBase = lambda: None,
    logs: Path,
    progress: Progress,
    resume: bool,
) -> Records:
    """Train a model, save it, test it once, measure it."""
    how: dict[str, Any] = {"find_base": find_base, "logs": logs, "progress": progress, "resume": resume}
    if experiment.fit_job is not None:
        return experiment.fit_job(recipe, data, job, **how)
    network, task, result, peak = train_job(experiment, recipe, data, job, **how)
    base = find_base()
    trained_numbers = adapting.trained_numbers(network)
    switched_off = continual.switched_off(base, network)
    with discarding(shared_world().rank > 0):
        whole = adapting.merge_and_save(network, job.folder)
        measured = experiment.measure(recipe, data, job, network, task, progress)
    if not whole:  # no file of weights can stand for it: its base and the adapter's folder do
        (job.folder / "model.safetensors").unlink()
    records: Records = {"train": [], "val": [], "test": [], None: []}
    for split, found in (*curves(result.history).items(), *measured.items()):
        records.setdefault(split, []).extend(found)
    costs = [
        Record(metric="train_seconds", value=result.seconds, unit="seconds", n=result.steps),
        trained_numbers,
        *result.found,
        *switched_off,
        *(base.forgotten(network) if base is not None else []),
    ]
    if peak.bytes is not None:
        # On a CPU the process has one memory: what earlier models of the run left there is in the number.
        process = None if peak.method == "cuda" else PROCESS
        records[None].append(Record(metric="peak_memory", class_=process, value=peak.bytes, unit="bytes"))
    return records | {None: costs + records[None]}
