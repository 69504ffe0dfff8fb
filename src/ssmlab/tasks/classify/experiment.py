"""Image classification in a run: one model is built, trained (`tasks.shared.experiment`), tested and compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import set_seed

from ssmlab.adapt.factorize import factorize
from ssmlab.checkpoints.folder import save_model
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.models import create_model
from ssmlab.reports.run_folder import read_predictions
from ssmlab.tasks.classify.images import Images, Part
from ssmlab.tasks.classify.recipe import ModelConfig, Recipe
from ssmlab.tasks.classify.task import Classify, balanced_weights
from ssmlab.tasks.shared.augment import Augment, Mix
from ssmlab.tasks.shared.calibration import KEY, calibration_of
from ssmlab.tasks.shared.costs import costs
from ssmlab.tasks.shared.differences import class_differences
from ssmlab.tasks.shared.experiment import Experiment, Records, compute_of
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.metrics import classification_metrics
from ssmlab.tasks.shared.outputs import write_predictions, write_samples
from ssmlab.training.dataset import BatchedDataset, StreamDataset
from ssmlab.training.parameters import freeze
from ssmlab.training.predict import Outputs, predict


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
    if model.compress.rule:
        rule: dict[str, Any] = model.compress.rule
        size = recipe.data.image_size
        example = torch.zeros(1, network.default_cfg["input_size"][0], size, size)
        chosen = model.compress
        factorize(network, chosen.targets, **rule, residual_rank=chosen.residual_rank, inputs=example)
    freeze(network, recipe.training_of(model).freeze)
    return network


def task_of(recipe: Recipe, data: Images, model: ModelConfig, network: Any) -> Classify:
    """Images are normalised as initial weights were trained with, or by the training part's statistics."""
    config, mean, std = recipe.training_of(model), data.mean, data.std
    if model.pretrained or model.weights:  # those of the run that made the weights, or timm's
        weights = Path(model.weights)
        file = (weights if weights.is_dir() else weights.parent) / "preprocess.json"
        known = json.loads(file.read_text("utf-8")) if model.weights and file.is_file() else network.default_cfg
        mean, std = tuple(known["mean"]), tuple(known["std"])
    balanced = config.class_weights == "balanced"
    return Classify(
        classes=data.classes,
        mean=mean,
        std=std,
        label_smoothing=config.label_smoothing,
        class_weights=balanced_weights(data.class_counts) if balanced else None,
        augment=Augment(**config.augment.model_dump(), fill=mean),
        mix=Mix(config.mixup, config.cutmix, config.mix_probability) if config.mixup or config.cutmix else None,
    )


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
    recipe: Recipe, data: Images, job: Job, network: nn.Module, task: Classify, name: str, progress: Progress | None
) -> Outputs:
    """The logits of a part."""
    return predict(
        network,
        task,
        dataset_of(getattr(data, name)),
        batch_size=recipe.evaluation.batch_size,
        compute=compute_of(recipe, job.model),
        title=f"{job.folder.name}: {name}",
        progress=progress,
    )


def validate(recipe: Recipe, data: Images, job: Job, network: nn.Module, task: Classify) -> dict[str, float]:
    """Accuracy and loss of the validation part."""
    logits, _ = predict_part(recipe, data, job, network, task, "val", None)
    return {f"val_{name}": value for name, value in task.validation(logits, data.val.labels).items()}


def measure(recipe: Recipe, data: Images, job: Job, network: nn.Module, task: Classify, progress: Progress) -> Records:
    """Save the model, predict the validation part and once the test part, and count what the model costs."""
    config = recipe.evaluation
    preprocess: dict[str, Any] = {
        "image_size": recipe.data.image_size,
        "fit": recipe.data.fit,
        "mean": list(task.mean),
        "std": list(task.std),
        "classes": list(task.classes),
        "channels": 3,
    }
    logits, _ = predict_part(recipe, data, job, network, task, "val", progress)
    preprocess[KEY] = calibration_of(logits, data.val.labels, task.classes, config.positive, config.sensitivity)
    save_model(network, job.folder, preprocess)
    how: dict[str, Any] = {"positive": config.positive, "resamples": config.bootstrap}
    records: Records = {"val": classification_metrics(logits, data.val.labels, task.classes, **how)}
    part = data.test
    logits, seconds = predict_part(recipe, data, job, network, task, "test", progress)
    records["test"] = classification_metrics(
        logits, part.labels, task.classes, groups=part.groups, calibration=preprocess[KEY], **how
    )
    write_predictions(job.folder / "predictions.csv", part.ids, part.labels, logits, task.classes, part.groups)
    some = torch.as_tensor(dataset_of(data.test).arrays["images"][:64])
    records[None] = [
        Record(metric="test_seconds", value=seconds, unit="seconds", n=len(part.labels)),
        *costs(network, task, some, config, compute_of(recipe, job.model)),
    ]
    return records


def compare(recipe: Recipe, data: Images, jobs: list[Job]) -> list[tuple[str, Record]]:
    """The differences of every two models in accuracy, area under the ROC curve and loss, over items and seeds."""
    correct: dict[str, list] = {}
    probabilities: dict[str, list] = {}
    for job in jobs:
        found = read_predictions(job.folder / "predictions.csv")
        correct.setdefault(job.model.label, []).append(found.correct)
        probabilities.setdefault(job.model.label, []).append(found.probabilities)
    right, likely = ({name: np.stack(rows) for name, rows in each.items()} for each in (correct, probabilities))
    labels, resamples = np.asarray(data.test.labels), recipe.evaluation.bootstrap
    return class_differences(labels, right, likely, groups=data.test.groups, resamples=resamples)


def finish(recipe: Recipe, data: Images, jobs: list[Job], folder: Path) -> None:
    """Test images with what every model predicted for them, with the first seed."""
    predicted: dict[str, Any] = {
        job.model.label: read_predictions(job.folder / "predictions.csv").probabilities
        for job in jobs
        if job.seed == recipe.seeds[0]
    }
    test, count = data.test, recipe.evaluation.samples
    write_samples(folder / "samples", test.images, test.labels, test.ids, data.classes, predicted, count)


EXPERIMENT = Experiment(
    build=build,
    task_of=task_of,
    parts=parts,
    validate=validate,
    measure=measure,
    compare=compare,
    finish=finish,
)
