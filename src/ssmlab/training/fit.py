"""One model of a run: built, trained, tested once, measured."""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import set_seed

from ssmlab.models import create_model, save_model
from ssmlab.profiling import peak_memory
from ssmlab.reports.record import Record
from ssmlab.tasks.augment import Augment, Mix
from ssmlab.tasks.classify import Classify, balanced_weights
from ssmlab.tasks.metrics import classification_metrics
from ssmlab.training import trainer
from ssmlab.training.device import Placement
from ssmlab.training.estimate import estimate_seconds
from ssmlab.training.images import Images, Part
from ssmlab.training.measure import costs, curves, predict
from ssmlab.training.outputs import write_predictions
from ssmlab.training.parameters import freeze
from ssmlab.training.progress import Progress
from ssmlab.training.recipe import ModelConfig, Recipe


def build(model: ModelConfig, recipe: Recipe, images: Images, seed: int) -> nn.Module:
    """The network of a recipe's model with its initial weights, and what is frozen in it."""
    set_seed(seed)
    weights = Path(model.weights) if model.weights else None
    network = create_model(
        model.name,
        num_classes=len(images.classes),
        image_size=recipe.data.image_size,
        pretrained=model.pretrained,
        weights=weights / "model.safetensors" if weights and weights.is_dir() else weights,
        **model.options,
    )
    freeze(network, recipe.training.freeze)
    return network


def task_of(recipe: Recipe, images: Images, network: nn.Module, model: ModelConfig) -> Classify:
    """The task. Images are normalised as initial weights were trained with, or by the training part's statistics."""
    config = recipe.training
    mean, std = _statistics(model, network) or (images.mean, images.std)
    weights = None
    if config.class_weights == "balanced":
        weights = balanced_weights(images.train.labels, len(images.classes))
    return Classify(
        classes=images.classes,
        mean=mean,
        std=std,
        label_smoothing=config.label_smoothing,
        class_weights=weights,
        augment=Augment(**config.augment.model_dump(), fill=mean),
        mix=Mix(config.mixup, config.cutmix, config.mix_probability) if config.mixup or config.cutmix else None,
    )


def _statistics(model: ModelConfig, network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that belong to the model's weights: those of the run that made them, or timm's."""
    if not (model.pretrained or model.weights):
        return None
    weights = Path(model.weights)
    beside = (weights if weights.is_dir() else weights.parent) / "preprocess.json"
    known = json.loads(beside.read_text("utf-8")) if model.weights and beside.is_file() else network.default_cfg
    return tuple(known["mean"]), tuple(known["std"])


def estimate(job, recipe: Recipe, images: Images, placement: Placement) -> float:
    """Seconds that training and testing the model will take. Whatever cannot be built is told here, before training."""
    network = build(job.model, recipe, images, job.seed)
    config = recipe.training
    if config.layer_decay < 1:
        trainer.optimizer_groups(network, config)
    few = slice(0, config.batch_size)
    epochs, steps = trainer.length(config, len(images.train.labels))
    return estimate_seconds(
        network,
        task_of(recipe, images, network, job.model),
        config,
        _tensor(images.train, few),
        torch.from_numpy(images.train.labels[few]),
        steps=steps,
        evaluated=epochs * len(images.val.labels) + len(images.test.labels),
        placement=placement,
    )


def train_job(job, recipe, images, placement, *, logs=None, progress=None, resume=False):
    """Build and train; returns the network, its task, what training left, and the peak of memory."""
    network = build(job.model, recipe, images, job.seed)
    task = task_of(recipe, images, network, job.model)
    with peak_memory(placement.device) as peak:
        trained = trainer.train(
            network,
            task,
            recipe.training,
            _dataset(images.train),
            _dataset(images.val),
            folder=job.checkpoints,
            label=job.folder.name,
            seed=job.seed,
            placement=placement,
            logs=logs,
            progress=progress,
            resume=resume,
        )
    return network, task, trained, peak


def validate(network: nn.Module, task: Classify, recipe: Recipe, images: Images, placement: Placement) -> dict:
    """Accuracy and loss on the validation part."""
    found = predict(network, task, _tensor(images.val), batch_size=recipe.evaluation.batch_size, placement=placement)
    records = classification_metrics(found.logits, images.val.labels, task.classes)
    return {f"val_{r.metric}": r.value for r in records if r.metric in ("accuracy", "loss")}


def fit(
    job,
    recipe: Recipe,
    images: Images,
    placement: Placement,
    *,
    logs: Path,
    progress: Progress,
    resume: bool,
) -> dict[str | None, list[Record]]:
    """Train a model, save it, test it once, measure it.

    Returns:
        records by part; None holds those of no part, the costs.
    """
    network, task, trained, peak = train_job(
        job, recipe, images, placement, logs=logs, progress=progress, resume=resume
    )
    preprocess = {
        "image_size": recipe.data.image_size,
        "mean": list(task.mean),
        "std": list(task.std),
        "classes": list(task.classes),
        "channels": 3,
    }
    save_model(network, job.folder, preprocess)
    records = {**curves(trained.log), "test": [], None: []}
    for name in ("val", "test"):
        part = getattr(images, name)
        found = predict(
            network,
            task,
            _tensor(part),
            batch_size=recipe.evaluation.batch_size,
            placement=placement,
            title=f"{job.folder.name}: {name}",
            progress=progress,
        )
        records[name] += classification_metrics(
            found.logits, part.labels, task.classes, positive=recipe.evaluation.positive
        )
    write_predictions(job.folder / "predictions.csv", part.ids, part.labels, found.logits, task.classes)
    records[None] = [
        Record(metric="train_seconds", value=trained.seconds, unit="seconds", n=trained.steps),
        Record(metric="test_seconds", value=found.seconds, unit="seconds", n=len(part.labels)),
        *costs(network, task, _tensor(images.test, slice(0, 64)), recipe.evaluation, placement),
    ]
    if peak.bytes is not None:
        records[None].append(Record(metric="peak_memory", value=peak.bytes, unit="bytes"))
    return records


def _tensor(part: Part, which: slice = slice(None)) -> torch.Tensor:
    """Images as (n, 3, h, w); a view, so that a large part is not held twice."""
    return torch.from_numpy(part.images[which]).permute(0, 3, 1, 2)


def _dataset(part: Part) -> trainer.Images:
    return trainer.Images(_tensor(part), torch.from_numpy(part.labels))
