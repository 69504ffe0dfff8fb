"""Image classification in a run: one model is built, trained (`tasks.shared.experiment`), tested and compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import set_seed

from ssmlab.adapt.factorize import factorize
from ssmlab.checkpoints.folder import load_model, save_ensemble, save_model
from ssmlab.core.errors import ModelError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.statistics import score_interval, statistics_of
from ssmlab.models import create_model
from ssmlab.models.weights import one_line
from ssmlab.profiling import peak_memory
from ssmlab.reports.run_folder import read_predictions
from ssmlab.tasks.classify.images import Images, Part
from ssmlab.tasks.classify.probe import fit_probe
from ssmlab.tasks.classify.recipe import ModelConfig, Recipe
from ssmlab.tasks.classify.several import ClassifySeveral, positive_weights
from ssmlab.tasks.classify.task import Classify, balanced_weights
from ssmlab.tasks.shared.augment import Augment, Mix
from ssmlab.tasks.shared.calibration import KEY, calibration_of
from ssmlab.tasks.shared.costs import costs
from ssmlab.tasks.shared.differences import class_differences, fold_records, label_differences
from ssmlab.tasks.shared.experiment import Experiment, Records, Trained, compute_of, train_job
from ssmlab.tasks.shared.folds import (
    PUBLISHED,
    calibrated_by_fold,
    fold_means,
    folds_for,
    has_weights,
    number_of_folds,
    pooled_records,
)
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.label_metrics import label_metrics
from ssmlab.tasks.shared.metrics import classification_metrics, interval_record
from ssmlab.tasks.shared.outputs import write_predictions, write_samples
from ssmlab.tasks.shared.views import VIEWS, Views
from ssmlab.training.dataset import BatchedDataset, StreamDataset
from ssmlab.training.parameters import freeze
from ssmlab.training.predict import Outputs, predict

SURE = ("loss", "brier", "ece")  # numbers of probabilities, which a temperature changes
LOGITS, PLAIN = "logits.npy", "plain_logits.npy"  # of what a fold holds out, in its folder; of one view


def build(recipe: Recipe, data: Images, model: ModelConfig, seed: int) -> nn.Module:
    """The network with its initial weights, factorised and frozen as the recipe says."""
    set_seed(seed)
    weights = Path(model.weights) if model.weights else None
    network: Any = create_model(
        model.name,
        num_classes=len(data.classes),
        image_size=recipe.data.image_size,
        pretrained=model.pretrained,
        weights=weights / "model.safetensors" if weights and weights.is_dir() else weights,
        **model.options,
    )
    channels, usual, _ = network.default_cfg["input_size"]
    size = recipe.data.image_size
    example = torch.zeros(1, channels, size, size)
    if size < usual:  # a convolution with a stride may have nothing left to stand on, which else ends the training
        was = network.training
        try:
            with torch.no_grad():
                network.eval()(example)
        except RuntimeError as error:
            raise ModelError(
                f"{model.name} cannot take images of {size} x {size}, it is made for {usual} x {usual}; give a larger "
                f"data.image_size ({one_line(error)})"
            ) from error
        network.train(was)
    if model.compress.rule:
        rule: dict[str, Any] = model.compress.rule
        chosen = model.compress
        factorize(network, chosen.targets, **rule, residual_rank=chosen.residual_rank, inputs=example)
    freeze(network, recipe.training_of(model).freeze)
    return network


def task_of(recipe: Recipe, data: Images, model: ModelConfig, network: Any) -> Classify | ClassifySeveral:
    """Images are normalised as initial weights were trained with, or by the training part's statistics."""
    config, mean, std = recipe.training_of(model), data.mean, data.std
    if model.pretrained or model.weights:  # those of the run that made the weights, or timm's
        weights = Path(model.weights)
        file = (weights if weights.is_dir() else weights.parent) / "preprocess.json"
        known = json.loads(file.read_text("utf-8")) if model.weights and file.is_file() else network.default_cfg
        mean, std = tuple(known["mean"]), tuple(known["std"])
    weights_of = config.class_weights
    factors: tuple[float, ...] | None = None
    if isinstance(weights_of, dict):
        factors = tuple(float(weights_of.get(name, 1.0)) for name in data.classes)
    elif weights_of == "balanced":
        counts = data.class_counts
        factors = positive_weights(counts, len(data.train.ids)) if data.several else balanced_weights(counts)
    task = Classify(
        classes=data.classes,
        mean=mean,
        std=std,
        label_smoothing=config.label_smoothing,
        class_weights=factors,
        augment=Augment(**config.augment.model_dump(), fill=mean),
        mix=Mix(config.mixup, config.cutmix, config.mix_probability) if config.mixup or config.cutmix else None,
    )
    return ClassifySeveral(images=task) if data.several else task


def parts(recipe: Recipe, data: Images, model: ModelConfig) -> tuple[Dataset, BatchedDataset]:
    """Training and validation part."""
    if data.stream is None:
        return dataset_of(data.train), dataset_of(data.val)
    size = recipe.training_of(model).batch_size
    return StreamDataset(data.stream.open(), data.stream.items, size, unit="images"), dataset_of(data.val)


def dataset_of(part: Part) -> BatchedDataset:
    """Images as (n, 3, h, w); a view, so that a large part is not held twice."""
    images = torch.from_numpy(part.images).permute(0, 3, 1, 2)
    return BatchedDataset({"images": images, "labels": torch.from_numpy(part.labels)}, unit="images")


def predict_part(
    recipe: Recipe, part: Part, job: Job, network: nn.Module, task: Any, name: str, progress: Progress | None
) -> Outputs:
    """The logits of a part."""
    return predict(
        network,
        task,
        dataset_of(part),
        batch_size=recipe.evaluation.batch_size,
        compute=compute_of(recipe, job.model),
        title=f"{job.label}: {name}",
        progress=progress,
    )


def numbers_of(recipe: Recipe, logits: np.ndarray, part: Part, task: Any, **how: Any) -> list[Record]:
    """Every number of a part, of images with one label or with several.

    Args:
        how: groups and calibration, see `classification_metrics`.
    """
    config = recipe.evaluation
    if isinstance(task, ClassifySeveral):
        return label_metrics(logits, part.labels, task.classes, resamples=config.bootstrap, **how)
    how |= {"positive": config.positive}
    return classification_metrics(logits, part.labels, task.classes, resamples=config.bootstrap, **how)


def validate(recipe: Recipe, data: Images, job: Job, network: nn.Module, task: Any) -> dict[str, float]:
    """The numbers of the validation part by which models are chosen."""
    logits, _ = predict_part(recipe, data.val, job, network, task, "val", None)
    return {f"val_{name}": value for name, value in task.validation(logits, data.val.labels).items()}


def measure(recipe: Recipe, data: Images, job: Job, network: nn.Module, task: Any, progress: Progress) -> Records:
    """Save the model, predict the validation part and once the test part, and count what the model costs."""
    config = recipe.evaluation
    preprocess: dict[str, Any] = {
        "image_size": recipe.data.image_size,
        "fit": recipe.data.fit,
        "mean": list(task.mean),
        "std": list(task.std),
        "classes": list(task.classes),
        "channels": 3,
        **({"several": True} if data.several else {}),
        **({"window": recipe.data.window} if recipe.data.window else {}),
        **({"slices": recipe.data.slices} if recipe.data.slices else {}),
        **({"learned_from": data.describe["all"]} if "all" in data.describe else {}),
    }
    logits, _ = predict_part(recipe, data.val, job, network, task, "val", progress)
    preprocess[KEY] = calibration_of(logits, data.val.labels, task.classes, config.positive, config.sensitivity)
    save_model(network, job.folder, preprocess)
    records: Records = {"val": numbers_of(recipe, logits, data.val, task)}
    part, plain = data.test, np.zeros(0)
    prices: list[Record] = []
    logits, seconds = predict_part(recipe, part, job, network, task, "test", progress)
    if config.tta != "none":
        plain, before = logits, seconds
        views = Views(network, config.tta, data.several)
        logits, seconds = predict_part(
            recipe, part, job, views, task, f"test, {len(VIEWS[config.tta])} views", progress
        )
        gain = gain_of(logits, plain, part, config.bootstrap)
        prices = [Record(metric="tta_seconds", value=seconds - before, unit="seconds", n=len(part.labels))]
    records["test"] = numbers_of(recipe, logits, part, task, groups=part.groups, calibration=preprocess[KEY])
    records["test"] += [gain] if prices else []
    if job.fold is not None:  # what is put together with the other folds, as it is
        np.save(job.folder / LOGITS, logits)
        if prices:
            np.save(job.folder / PLAIN, plain)
    more = {"group": part.groups or []}
    write_predictions(job.folder / "predictions.csv", part.ids, part.labels, logits, task.classes, more)
    some = torch.as_tensor(dataset_of(data.test).arrays["images"][:64])
    records[None] = [
        Record(metric="test_seconds", value=seconds, unit="seconds", n=len(part.labels)),
        *prices,
        *costs(network, task, some, config, compute_of(recipe, job.model)),
    ]
    return records


def gain_of(logits: np.ndarray, plain: np.ndarray, part: Part, resamples: int) -> Record:
    """By how much an evaluation of several views is better than one of the images as they are: in accuracy, of images
    with several labels in the accuracy of labels."""
    labels = part.labels
    correct = [
        ((found > 0) == (labels > 0)).mean(1) if labels.ndim == 2 else found.argmax(1) == labels
        for found in (logits, plain)
    ]
    views, single = (statistics_of(each) for each in correct)
    found = score_interval(views, b=single, groups=part.groups, resamples=resamples)
    return interval_record("tta_gain", found, len(labels))


def pool(recipe: Recipe, data: Images, job: Job, folds: list[Job], progress: Progress) -> Records:
    """The folds' predictions as one table in the order of the images, their numbers, and their mean as a model.

    The numbers after calibration are at each fold's own temperature, which its validation part said. The mean's
    temperature is that of the out-of-fold predictions: nothing else is left that no member has learned from.

    A test part that was published is predicted by that model, once.
    """
    everything = data.train
    logits, plain = np.zeros((2, len(everything.ids), len(data.classes)), np.float32)
    several_views = recipe.evaluation.tta != "none"
    for fold, part in zip(folds_for(job, data), folds, strict=True):
        logits[list(fold.held_out)] = np.load(part.folder / LOGITS)
        if several_views:
            plain[list(fold.held_out)] = np.load(part.folder / PLAIN)
    more: dict[str, Any] = {"group": everything.groups or [], "fold": number_of_folds(job, data)}
    write_predictions(job.folder / "predictions.csv", everything.ids, everything.labels, logits, data.classes, more)
    records = pooled_records(folds)
    task = Classify(classes=data.classes, mean=data.mean, std=data.std)
    whole: Any = ClassifySeveral(images=task) if data.several else task
    records["test"] = numbers_of(recipe, logits, everything, whole, groups=everything.groups)
    held = [(list(fold.held_out), part.folder) for fold, part in zip(folds_for(job, data), folds, strict=True)]
    divided, temperature = calibrated_by_fold(logits, held)
    after = numbers_of(recipe, divided, everything, whole, groups=everything.groups)
    records["test"] += [temperature, *(replace(r, metric=f"{r.metric}_calibrated") for r in after if r.metric in SURE)]
    if several_views:
        records["test"].append(gain_of(logits, plain, everything, recipe.evaluation.bootstrap))
    if not has_weights([fold.folder for fold in folds]):
        return records
    config = recipe.evaluation
    calibration = calibration_of(logits, everything.labels, data.classes, config.positive, config.sensitivity)
    save_ensemble(job.folder, [fold.folder for fold in folds], {KEY: calibration})
    if data.apart is not None:
        network, about = load_model(job.folder)
        own = replace(task, mean=tuple(about["mean"]), std=tuple(about["std"]))
        reads: Any = ClassifySeveral(images=own) if data.several else own
        network = network.to(compute_of(recipe, job.model).device)
        if several_views:
            network = Views(network, recipe.evaluation.tta, data.several)
        found, _ = predict_part(recipe, data.apart, job, network, reads, "published test part", progress)
        how: dict[str, Any] = {"groups": data.apart.groups, "calibration": calibration}
        records[PUBLISHED] = numbers_of(recipe, found, data.apart, reads, **how)
        file = job.folder / f"{PUBLISHED}.csv"
        more = {"group": data.apart.groups or []}
        write_predictions(file, data.apart.ids, data.apart.labels, found, data.classes, more)
    return records


def compare(recipe: Recipe, data: Images, jobs: list[Job]) -> list[tuple[str, Record]]:
    """The differences of every two models in accuracy, area under the ROC curve and loss, over items and seeds; of a
    cross-validation also a test over its folds."""
    correct: dict[str, list] = {}
    probabilities: dict[str, list] = {}
    shares = []  # of every job: how much of an item's answer is right
    labels, resamples = np.asarray(data.test.labels), recipe.evaluation.bootstrap
    for job in jobs:
        found = read_predictions(job.folder / "predictions.csv")
        correct.setdefault(job.model.label, []).append(found.correct)
        probabilities.setdefault(job.model.label, []).append(found.probabilities)
        said = np.asarray(found.probabilities) >= 0.5
        shares.append(np.equal(said, labels).mean(1) if labels.ndim == 2 else found.correct * 1.0)
    right, likely = ({name: np.stack(rows) for name, rows in each.items()} for each in (correct, probabilities))
    how: dict[str, Any] = {"groups": data.test.groups, "resamples": resamples}
    if labels.ndim == 2:
        records, metric = label_differences(labels, likely, **how), "label_accuracy"
    else:
        records, metric = class_differences(labels, right, likely, **how), "accuracy"
    divided = getattr(data, "folds", ())  # sequences have none
    return records + (fold_records(metric, *fold_means(jobs, data, shares)) if divided else [])


def finish(recipe: Recipe, data: Images, jobs: list[Job], folder: Path) -> None:
    """Test images with what every model predicted for them, with the first seed."""
    predicted: dict[str, Any] = {
        job.model.label: read_predictions(job.folder / "predictions.csv").probabilities
        for job in jobs
        if job.seed == recipe.seeds[0]
    }
    test, count = data.test, recipe.evaluation.samples
    write_samples(folder / "samples", test.images, test.labels, test.ids, data.classes, predicted, count)


def fit_or_probe(
    recipe: Recipe, data: Images, job: Job, *, logs: Path | None, progress: Progress | None, resume: bool, **more: Any
) -> Trained:
    """Train a model as any, or fit the classifier of a frozen one."""
    if job.model.fit == "gradient":
        return train_job(TRAINED, recipe, data, job, logs=logs, progress=progress, resume=resume, **more)
    network: Any = build(recipe, data, job.model, job.seed)
    task, compute = task_of(recipe, data, job.model, network), compute_of(recipe, job.model)
    train, val = parts(recipe, data, job.model)
    balanced = recipe.training_of(job.model).class_weights == "balanced"
    with peak_memory(compute.device) as peak:
        how: dict[str, Any] = {"balanced": balanced, "compute": compute, "label": job.label, "progress": progress}
        result = fit_probe(network, task, train, val, **how)
    return Trained(network, task, result, peak)


TRAINED = Experiment(
    build=build,
    task_of=task_of,
    parts=parts,
    validate=validate,
    measure=measure,
    primary_metric=lambda data: "label_auc" if data.several else "accuracy",
    compare=compare,
    finish=finish,
    pool=pool,
)
EXPERIMENT = replace(TRAINED, train_job=fit_or_probe, wants_base=True)
