"""Image classification in a run: what `Work` asks, answered for images."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from ssmlab.adapt.factorize import factorize
from ssmlab.checkpoints.folder import save_model
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.statistics import paired_bootstrap_difference
from ssmlab.models import create_model
from ssmlab.reports.run_folder import read_predictions
from ssmlab.tasks.classify.data import Part
from ssmlab.tasks.classify.recipe import ModelConfig
from ssmlab.tasks.classify.task import Classify, balanced_weights
from ssmlab.tasks.shared.augment import Augment, Mix
from ssmlab.tasks.shared.costs import costs
from ssmlab.tasks.shared.metrics import classification_metrics
from ssmlab.tasks.shared.outputs import write_predictions, write_samples
from ssmlab.tasks.shared.work import Work
from ssmlab.training import fit as trainer
from ssmlab.training.parameters import freeze
from ssmlab.training.predict import predict


class Classification(Work):
    """The work on `Images`."""

    def build(self, model: ModelConfig, seed: int) -> nn.Module:
        set_seed(seed)
        weights = Path(model.weights) if model.weights else None
        network = create_model(
            model.name,
            num_classes=len(self.data.classes),
            image_size=self.recipe.data.image_size,
            pretrained=model.pretrained,
            weights=weights / "model.safetensors" if weights and weights.is_dir() else weights,
            **model.options,
        )
        if rule := model.compress.rule:
            size = self.recipe.data.image_size
            example = torch.zeros(1, network.default_cfg["input_size"][0], size, size)
            chosen = model.compress
            factorize(network, chosen.targets, **rule, residual_rank=chosen.residual_rank, inputs=example)
        freeze(network, self.recipe.training_of(model).freeze)
        return network

    def task(self, model: ModelConfig, network: nn.Module) -> Classify:
        """Images are normalised as initial weights were trained with, or by the training part's statistics."""
        config, classes = self.recipe.training_of(model), self.data.classes
        mean, std = _statistics(model, network) or (self.data.mean, self.data.std)
        weights = None
        if config.class_weights == "balanced":
            weights = balanced_weights(self.data.train.labels, len(classes))
        return Classify(
            classes=classes,
            mean=mean,
            std=std,
            label_smoothing=config.label_smoothing,
            class_weights=weights,
            augment=Augment(**config.augment.model_dump(), fill=mean),
            mix=Mix(config.mixup, config.cutmix, config.mix_probability) if config.mixup or config.cutmix else None,
        )

    def parts(self, model: ModelConfig) -> tuple[trainer.Images, trainer.Images]:
        return _dataset(self.data.train), _dataset(self.data.val)

    def validate(self, network: nn.Module, task: Classify, job: Any) -> dict[str, float]:
        found = self._predict(network, task, job, "val")
        records = classification_metrics(found.logits, self.data.val.labels, task.classes)
        return {f"val_{r.metric}": r.value for r in records if r.metric in ("accuracy", "loss")}

    def measure(self, job: Any, network: nn.Module, task: Classify, progress: Progress):
        config = self.recipe.evaluation
        preprocess = {
            "image_size": self.recipe.data.image_size,
            "fit": self.recipe.data.fit,
            "mean": list(task.mean),
            "std": list(task.std),
            "classes": list(task.classes),
            "channels": 3,
        }
        save_model(network, job.folder, preprocess)
        records: dict[str | None, list[Record]] = {}
        for name in ("val", "test"):
            part = getattr(self.data, name)
            found = self._predict(network, task, job, name, progress)
            records[name] = classification_metrics(found.logits, part.labels, task.classes, positive=config.positive)
        write_predictions(job.folder / "predictions.csv", part.ids, part.labels, found.logits, task.classes)
        records[None] = [
            Record(metric="test_seconds", value=found.seconds, unit="seconds", n=len(part.labels)),
            *costs(network, task, _tensor(self.data.test, slice(0, 64)), config, self.placement(job.model)),
        ]
        return records

    def _predict(self, network, task, job, name: str, progress: Progress | None = None):
        return predict(
            network,
            task,
            _tensor(getattr(self.data, name)),
            batch_size=self.recipe.evaluation.batch_size,
            placement=self.placement(job.model),
            title=f"{job.folder.name}: {name}" if progress else "",
            progress=progress,
        )

    def compared(self, jobs: list[Any]) -> list[tuple[str, Record]]:
        return accuracy_differences(jobs, self.recipe.evaluation.bootstrap)

    def finish(self, jobs: list[Any], folder: Path) -> None:
        """Test images with what every model said about them, with the first seed."""
        first, test = self.recipe.seeds[0], self.data.test
        said = {
            job.model.label: read_predictions(job.folder / "predictions.csv").probabilities
            for job in jobs
            if job.seed == first
        }
        count = self.recipe.evaluation.samples
        write_samples(folder / "samples", test.images, test.labels, test.ids, self.data.classes, said, count)


def accuracy_differences(jobs: list[Any], resamples: int) -> list[tuple[str, Record]]:
    """The difference of every two models' test accuracies, with its paired interval over items and seeds."""
    correct: dict[str, list] = {}
    for job in jobs:
        found = read_predictions(job.folder / "predictions.csv").correct
        correct.setdefault(job.model.label, []).append(found)
    differences = []
    for first, second in combinations(correct, 2):
        a, b = np.stack(correct[first]), np.stack(correct[second])
        interval = paired_bootstrap_difference(b, a, resamples=resamples)
        record = Record(
            metric="accuracy_difference",
            value=interval.value,
            unit="fraction",
            n=a.shape[1],
            spread=(interval.low, interval.high),
        )
        differences.append((f"{second} - {first}", record))
    return differences


def _statistics(model: ModelConfig, network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that belong to the model's weights: those of the run that made them, or timm's."""
    if not (model.pretrained or model.weights):
        return None
    weights = Path(model.weights)
    beside = (weights if weights.is_dir() else weights.parent) / "preprocess.json"
    known = json.loads(beside.read_text("utf-8")) if model.weights and beside.is_file() else network.default_cfg
    return tuple(known["mean"]), tuple(known["std"])


def _tensor(part: Part, which: slice = slice(None)) -> torch.Tensor:
    """Images as (n, 3, h, w); a view, so that a large part is not held twice."""
    return torch.from_numpy(part.images[which]).permute(0, 3, 1, 2)


def _dataset(part: Part) -> trainer.Images:
    return trainer.Images(_tensor(part), torch.from_numpy(part.labels))
