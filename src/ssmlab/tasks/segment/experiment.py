"""Segmentation in a run: a network is built, trained (here, since its iterations are timed), tested and compared."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from ssmlab.checkpoints.folder import load_model, save_ensemble, save_model
from ssmlab.core.device import ComputeConfig
from ssmlab.core.files import write_json, write_tensors
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record, read_records
from ssmlab.core.statistics import score_interval, statistics_of
from ssmlab.models import create_model
from ssmlab.profiling import peak_memory
from ssmlab.tasks.segment.data import Masks
from ssmlab.tasks.segment.metrics import FILE, ImageTable, constant_record, dice_differences, records_of
from ssmlab.tasks.segment.overlays import write_overlays
from ssmlab.tasks.segment.patches import Patches
from ssmlab.tasks.segment.planning import across_of, plan_of, resolve, spacing_of, windows_predicted
from ssmlab.tasks.segment.predict import Predicted, predict_part, slices
from ssmlab.tasks.segment.recipe import SegmentationModel, SegmentationRecipe, SegmentationTraining
from ssmlab.tasks.segment.serving import Prepared, ValidationVolumes, fetched
from ssmlab.tasks.segment.start import load_body
from ssmlab.tasks.segment.task import Segment, windows_of
from ssmlab.tasks.segment.timeline import SECONDS, Timeline, read_seconds
from ssmlab.tasks.shared.costs import costs
from ssmlab.tasks.shared.experiment import Experiment, Records, Trained, compute_of, estimate_job
from ssmlab.tasks.shared.folds import PUBLISHED, fold_jobs, number_of_folds, pooled_records, view_of
from ssmlab.tasks.shared.job import SNAPSHOTS, Job
from ssmlab.training.distributed import agree, shared_world, whole_state
from ssmlab.training.fit import FitResult, fit
from ssmlab.training.parameters import freeze
from ssmlab.training.resume import contiguous

AT_EQUAL_SECONDS = "images_at_equal_seconds.csv"


def build(recipe: SegmentationRecipe, data: Masks, model: SegmentationModel, seed: int) -> nn.Module:
    """With initial weights, or those of a file; `train_job` loads what the run itself has pretrained."""
    network = network_of(recipe, data, model.name, seed)
    if model.weights:
        load_body(network, Path(model.weights))
    freeze(network, recipe.training_of(model).freeze)
    return network


def network_of(recipe: SegmentationRecipe, data: Masks, name: str, seed: int) -> nn.Module:
    """A network of the recipe's plan for the data's channels and classes."""
    plan = plan_of(recipe)
    return create_model(name, plan=plan, num_classes=len(data.classes), in_chans=data.found.channels, seed=seed)


def task_of(recipe: SegmentationRecipe, data: Masks, model: Any = None, network: Any = None) -> Segment:
    """The task of these images, whichever model sees them."""
    plan, config = plan_of(recipe), recipe.evaluation
    windows = windows_of(
        plan.patch_size,
        overlap=config.overlap,
        mirror=tuple(range(plan.dims)) if config.mirror else (),
        batch=config.batch_size,
        across=across_of(data),
    )
    return Segment(
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        windows=windows,
        fetch=partial(fetched, data.val),
        spacing=spacing_of(recipe, data),
    )


def parts(recipe: SegmentationRecipe, data: Masks, model: SegmentationModel) -> tuple[Patches, ValidationVolumes]:
    """Patches of the training images, and the validation images by number."""
    return patches_of(recipe, data, recipe.training_of(model), recipe.seeds[0]), ValidationVolumes(len(data.val))


def patches_of(
    recipe: SegmentationRecipe,
    data: Masks,
    config: SegmentationTraining,
    seed: int,
    begins: Callable[[int], None] | None = None,
) -> Patches:
    """Patches of the training images, `begins` called before every stretch of iterations."""
    spacing = spacing_of(recipe, data)
    return Patches(
        Prepared(data, spacing),
        len(data.train),
        plan_of(recipe).patch_size,
        batch_size=config.batch_size,
        steps=config.iterations // config.validations,
        seed=seed,
        foreground=config.foreground,
        augment=config.augment,
        spacing=spacing,
        across=across_of(data),
        begins=begins,
    )


def estimate(recipe: SegmentationRecipe, data: Masks, job: Job) -> float:
    """Seconds, with those of the pretraining at the first model that needs it."""
    seconds = estimate_job(TIMED, recipe, data, job)
    first = next(m for m in recipe.models if (m.name, m.start) == (job.model.name, job.model.start))
    if job.model.start == "scratch" or first is not job.model:
        return seconds
    before, after = recipe.pretraining, recipe.training_of(job.model)
    patches = [config.iterations * config.batch_size for config in (before, after)]
    return seconds * (1 + patches[0] / patches[1])


def train_job(
    recipe: SegmentationRecipe, data: Masks, job: Job, *, logs: Path | None, progress: Progress | None, resume: bool
) -> Trained:
    """As for any task, but first on the source where the model starts pretrained."""
    network, config = build(recipe, data, job.model, job.seed), recipe.training_of(job.model)
    if job.model.start == "pretrained":
        load_body(network, pretrained(recipe, data, job, progress, resume))
        network.requires_grad_(True)
        freeze(network, config.freeze)
    with peak_memory(compute_of(recipe, job.model).device) as peak:
        result = train_timed(recipe, data, job, network, config, job.folder, logs, progress, resume)
    return Trained(network, task_of(recipe, data), result, peak)


def train_timed(
    recipe: SegmentationRecipe,
    data: Masks,
    job: Job,
    network: nn.Module,
    config: SegmentationTraining,
    folder: Path,
    logs: Path | None,
    progress: Progress | None,
    resume: bool,
) -> FitResult:
    """Train in place; the times and, between the stretches, the weights are left in the folder."""
    if not resume:
        shutil.rmtree(folder / SNAPSHOTS, ignore_errors=True)
        (folder / SECONDS).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    timeline = Timeline(progress or Progress())

    def begins(step: int) -> None:
        if step:
            (folder / SNAPSHOTS).mkdir(exist_ok=True)
            write_tensors(folder / SNAPSHOTS / f"{step}.safetensors", contiguous(whole_state(network)))
        timeline.begin()

    train, val = patches_of(recipe, data, config, job.seed, begins), ValidationVolumes(len(data.val))
    result = fit(
        network, task_of(recipe, data), train, val, config, folder=folder, device=compute_of(recipe, job.model),
        label=folder.name if job.folder != folder else job.label, seed=job.seed, progress=timeline, resume=resume,
        logs=logs, kept=(timeline,),
    )  # fmt: skip
    timeline.save(folder)
    for row in result.history:
        row.pop("epoch", None)  # the reader of a curve counts iterations
    write_json(folder / "log.json", result.history)
    return result


def pretrained(
    recipe: SegmentationRecipe, data: Masks, job: Job, progress: Progress | None = None, resume: bool = False
) -> Path:
    """The folder of a network that was trained on the source, once for all models of its name and seed."""
    source = data.source
    assert source is not None
    folder = job.run / "pretrained" / f"{job.model.name}_seed{job.seed}"
    done = folder.absolute() if (folder / "pretraining.json").is_file() else None
    if done := agree(shared_world(), done):  # as the first of several processes has it
        return done
    network = network_of(recipe, source, job.model.name, job.seed)
    result = train_timed(recipe, source, job, network, recipe.pretraining, folder, None, progress, resume)
    save_model(network, folder, preprocess_of(recipe, source))
    dice = [row["eval_dice"] for row in result.history if "eval_dice" in row]
    found = {"seconds": result.seconds, "iterations": result.steps, "dice": dice[-1] if dice else None}
    write_json(folder / "pretraining.json", found)
    for name in ("checkpoints", SNAPSHOTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def preprocess_of(recipe: SegmentationRecipe, data: Masks) -> dict[str, Any]:
    """What images go through before the network, and what its outputs mean."""
    return {
        "task": "segment",
        "classes": list(data.classes),
        "channels": data.found.channels,
        "mean": list(data.mean),
        "std": list(data.std),
        "patch_size": list(plan_of(recipe).patch_size),
        "spacing": list(spacing_of(recipe, data)),
        "directions": data.found.directions,
        "numbers": list(data.found.numbers),
    }


def validate(recipe: SegmentationRecipe, data: Masks, job: Job, network: nn.Module, task: Segment) -> dict[str, float]:
    """The numbers of the validation part."""
    found = predict_part(network, task, data.val, compute_of(recipe, job.model))
    return {f"val_{name}": value for name, value in found.numbers.items()}


def measure(
    recipe: SegmentationRecipe, data: Masks, job: Job, network: nn.Module, task: Segment, progress: Progress
) -> Records:
    """Save the model, predict the validation part and once the test part, and count what the model costs."""
    config, compute = recipe.evaluation, compute_of(recipe, job.model)
    save_model(network, job.folder, preprocess_of(recipe, data))
    plan_of(recipe).write(job.folder / "plan.toml")
    val = predict_part(network, task, data.val, compute)
    test = predict_part(
        network,
        task,
        data.test,
        compute,
        tolerance=config.tolerance,
        kept=config.samples,
        title=f"{job.label}: test",
        progress=progress,
    )
    gained = mirror_gain(recipe, data, network, test, compute) if config.mirror else []
    test.table.write(job.folder / FILE)
    np.savez_compressed(job.folder / "marked.npz", *test.marked)
    unit = "millimetres" if data.found.measured else "pixels"
    images = parts(recipe, data, job.model)[0].__getitems__([0])["images"]
    plain: Any = SimpleNamespace(prepare=lambda batch: batch)
    records = curves_of(job)
    records["val"] += [Record(metric=name, value=value, n=len(data.val)) for name, value in val.numbers.items()]
    loss = Record(metric="loss", value=test.numbers["loss"], unit="nats", n=len(data.test))
    records["test"] = [loss, *records_of(test.table, config.bootstrap, unit), *constant_record(test.table)]
    records["test"] += gained[:1]
    records[None] = [
        *times_of(recipe, data, job),
        Record(metric="test_seconds", value=test.seconds, unit="seconds", n=len(data.test)),
        *gained[1:],
        *costs(network, plain, images, config, compute),
    ]
    return records


def mirror_gain(
    recipe: SegmentationRecipe, data: Masks, network: nn.Module, mirrored: Predicted, compute: ComputeConfig
) -> list[Record]:
    """By how much the mean over mirror images is better than the images as they are, in Dice, and how much longer."""
    evaluation = recipe.evaluation.model_copy(update={"mirror": False})
    plain = predict_part(
        network, task_of(recipe.model_copy(update={"evaluation": evaluation}), data), data.test, compute
    )
    one, other = mirrored.table.dice[None], plain.table.dice[None]
    known = np.isfinite(one[0]) & np.isfinite(other[0])
    longer = Record(metric="tta_seconds", value=mirrored.seconds - plain.seconds, unit="seconds", n=len(data.test))
    if not known.any():
        return []
    views, single = (statistics_of(dice[:, known]) for dice in (one, other))
    gain = score_interval(views, b=single, resamples=evaluation.bootstrap)
    n, spread = int(known.sum()), (gain.low, gain.high)
    return [Record(metric="tta_gain", value=gain.value, unit="fraction", n=n, spread=spread), longer]


def pool(recipe: SegmentationRecipe, data: Masks, job: Job, folds: list[Job], progress: Progress) -> Records:
    """The folds' numbers of every image as one table, and their mean as a model.

    A test part that was published is predicted by that model, once.
    """
    config, unit = recipe.evaluation, "millimetres" if data.found.measured else "pixels"
    table = join_folds(data, job, folds, FILE)
    records = pooled_records(folds)
    losses = [r for fold in folds for r in read_records(fold.folder / "records.jsonl") if r.split == "test"]
    losses = [r for r in losses if r.metric == "loss"]
    mean = float(np.average([r.value for r in losses], weights=[r.n or 1 for r in losses]))
    loss = Record(metric="loss", value=mean, unit="nats", n=len(table.ids))
    records["test"] = [loss, *records_of(table, config.bootstrap, unit), *constant_record(table)]
    save_ensemble(job.folder, [fold.folder for fold in folds])
    if data.apart is not None:
        network, about = load_model(job.folder)
        own = replace(data, mean=tuple(about["mean"]), std=tuple(about["std"]))
        compute = compute_of(recipe, job.model)
        found = predict_part(
            network.to(compute.device), task_of(recipe, own), data.apart, compute, tolerance=config.tolerance,
            title=f"{job.label}: published test part", progress=progress,
        )  # fmt: skip
        found.table.write(job.folder / f"{PUBLISHED}.csv")
        records[PUBLISHED] = records_of(found.table, config.bootstrap, unit)
    return records


def join_folds(data: Masks, job: Job, folds: list[Job], file: str) -> ImageTable:
    """The table of every fold as one, in the folder of the model."""
    table = ImageTable.joined([ImageTable.read(fold.folder / file) for fold in folds], data.train.ids)
    groups = data.train.groups
    more = {"fold": number_of_folds(job, data)} | ({"group": groups} if groups else {})
    table.write(job.folder / file, more)
    return table


def curves_of(job: Job) -> Records:
    """Dice of the validation part, and the seconds of every iteration that the log names."""
    seconds, found = read_seconds(job.folder / SECONDS), Records([("train", []), ("val", [])])
    for row in json.loads((job.folder / "log.json").read_text(encoding="utf-8")):
        step, part = row["step"], "val" if "eval_dice" in row else "train"
        if step in seconds and ("loss" in row or part == "val"):
            found[part].append(Record(metric="seconds", value=seconds[step], unit="seconds", step=step))
        if part == "val":
            found[part].append(Record(metric="dice", value=row["eval_dice"], unit="fraction", step=step))
    return found


def times_of(recipe: SegmentationRecipe, data: Masks, job: Job) -> list[Record]:
    """Seconds of an iteration, all of them together; what the pretraining took and reached."""
    steps = read_seconds(job.folder / SECONDS)
    last = max(steps)
    found = [Record(metric="seconds_per_iteration", value=steps[last] / last, unit="seconds", n=last)]
    if job.model.start == "pretrained":
        before = json.loads((pretrained(recipe, data, job) / "pretraining.json").read_text(encoding="utf-8"))
        seconds, steps_before = before["seconds"], before["iterations"]
        found.append(Record(metric="pretraining_seconds", value=seconds, unit="seconds", n=steps_before))
        if before["dice"] is not None:
            found.append(Record(metric="pretraining_dice", value=before["dice"], unit="fraction"))
    return found


def compare(recipe: SegmentationRecipe, data: Masks, jobs: list[Job]) -> list[tuple[str, Record]]:
    """The difference of every two models' Dice, at the end and at equal seconds."""
    resamples = recipe.evaluation.bootstrap
    equal = dice_differences(jobs, resamples, AT_EQUAL_SECONDS, "dice_at_equal_seconds")
    return dice_differences(jobs, resamples) + equal


def finish(recipe: SegmentationRecipe, data: Masks, jobs: list[Job], folder: Path) -> None:
    """Pictures of the first seed, and the test part once more at the time when the fastest model was ready."""
    first = view_of(fold_jobs(jobs[0], data)[0], data)  # of folds the first
    chosen = slices(first.test, recipe.evaluation.samples)
    predicted = {}
    for job in jobs:
        if job.seed == recipe.seeds[0]:
            with np.load(fold_jobs(job, data)[0].folder / "marked.npz") as marked:
                predicted[job.model.label] = [marked[name] for name in marked.files]
    write_overlays(folder / "overlays", first.test, chosen, predicted)
    for seed in recipe.replicates:
        own = [job for job in jobs if job.seed == seed]
        for together in zip(*(fold_jobs(job, data) for job in own), strict=True):
            test_at_equal_seconds(recipe, view_of(together[0], data), list(together))
        for job in own if data.folds else ():
            folds = fold_jobs(job, data)
            if all((fold.folder / AT_EQUAL_SECONDS).is_file() for fold in folds):
                join_folds(data, job, folds, AT_EQUAL_SECONDS)


def test_at_equal_seconds(recipe: SegmentationRecipe, data: Masks, jobs: list[Job]) -> None:
    """Test every model as it was when the fastest one was ready."""
    times = {job.folder: read_seconds(job.folder / SECONDS) for job in jobs}
    until = min(seconds[max(seconds)] for seconds in times.values())
    for job in jobs:
        seconds = times[job.folder]
        steps = [int(file.stem) for file in (job.folder / SNAPSHOTS).glob("*.safetensors")]
        in_time = [step for step in steps if seconds[step] <= until]
        if seconds[max(seconds)] <= until:
            shutil.copyfile(job.folder / FILE, job.folder / AT_EQUAL_SECONDS)
        elif in_time:
            network = network_of(recipe, data, job.model.name, job.seed)
            network.load_state_dict(load_file(job.folder / SNAPSHOTS / f"{max(in_time)}.safetensors"))
            compute = compute_of(recipe, job.model)
            found = predict_part(network.to(compute.device), task_of(recipe, data), data.test, compute)
            found.table.write(job.folder / AT_EQUAL_SECONDS)
        shutil.rmtree(job.folder / SNAPSHOTS, ignore_errors=True)


TIMED = Experiment(
    build=build,
    task_of=task_of,
    parts=parts,
    validate=validate,
    measure=measure,
    primary_metric=lambda data: "dice",
    resolve=resolve,
    evaluated=windows_predicted,
    train_job=train_job,
    compare=compare,
    finish=finish,
    pool=pool,
)
EXPERIMENT = replace(TIMED, estimate=estimate)
