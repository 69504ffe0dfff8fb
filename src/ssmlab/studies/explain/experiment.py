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
from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp, commit, machine, versions
from ssmlab.interpret.visualise import Search
from ssmlab.reports.caveats import doubt, doubt_in
from ssmlab.reports.run_folder import Run
from ssmlab.robustness import transformations
from ssmlab.studies.explain.explanation import Settings
from ssmlab.studies.explain.mistakes import explain_mistakes
from ssmlab.studies.explain.opening import Opened
from ssmlab.tasks.classify.experiment import Classification
from ssmlab.tasks.classify.recipe import ModelConfig
from ssmlab.tasks.classify.report import REPORT
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.table import report_of
from ssmlab.training.predict import curves

SECONDS = 20.0  # that an explanation takes on top of a training, by rule of thumb


class MisclassifiedWork(Classification):
    """Train a model, or take a trained one, test it with and without transformations, explain what it got wrong."""

    def task(self, model: ModelConfig, network: nn.Module) -> Classify:
        """As in any classification, but the transformations must exist before anything is trained."""
        for name in self.recipe.evaluation.explain.transformations:
            transformations.find(name)
        return super().task(model, network)

    def estimate(self, job: Any) -> float:
        """Seconds that a model will take."""
        if _trained(job.model) is None:
            return super().estimate(job) + SECONDS
        self.task(job.model, self._loaded(job.model)[0])
        return SECONDS

    def fit(self, job: Any, *, logs: Path, progress: Progress, resume: bool) -> dict[str | None, list[Record]]:
        """Nothing is trained where the weights are a trained model's."""
        if _trained(job.model) is None:
            return super().fit(job, logs=logs, progress=progress, resume=resume)
        network, task = self._loaded(job.model)
        return self.measure(job, network.to(self.placement(job.model).device), task, progress)

    def measure(self, job: Any, network: nn.Module, task: Classify, progress: Progress):
        """As in any classification, and the page."""
        records = super().measure(job, network, task, progress)
        warning = self._doubt(job, records)
        config, test = self.recipe.evaluation.explain, self.data.test
        placement = self.placement(job.model)
        stamp = Stamp(run=self.recipe.name, task=self.recipe.task, command=None, commit=commit(),
                      machine=machine(placement.device), versions=versions())  # fmt: skip
        model = Opened(
            title=job.model.title, origin=str(job.folder), network=network.eval(), task=task,
            image_size=test.images.shape[1], device=placement.device, doubt=warning,
        )  # fmt: skip
        search = Search(steps=config.steps, colour="grey" if model.grey else "imagenet", seed=config.seed)
        path, found = explain_mistakes(
            model, torch.from_numpy(test.images).permute(0, 3, 1, 2), test.labels, test.ids,
            changes={name: _change(name, config) for name in config.transformations}, count=config.pictures,
            settings=Settings(
                search=search, score_steps=config.score_steps, batch_size=self.recipe.evaluation.batch_size,
                seed=config.seed,
            ),
            folder=job.folder.parent.parent / "explained" / job.folder.name, stamp=stamp, progress=progress,
        )  # fmt: skip
        records["test"] += found
        if warning:
            progress.say(f"note: {warning}")
        progress.say(f"explained: {path}" if path else f"{job.model.title} has no mistakes to explain")
        return records

    def train(self, job: Any, **options: Any) -> Any:
        """As in any classification; the page needs what was logged, which becomes records only after it."""
        found = super().train(job, **options)
        self._log = found[2].log
        return found

    def _doubt(self, job: Any, measured: dict[str | None, list[Record]]) -> str:
        """Why the model's mistakes say little, from what is known of it before the run has written its records."""
        trained = _trained(job.model)
        if trained is not None and (found := doubt(trained, job.model.title, report_of)):
            return found
        rows = [
            replace(record, model=job.model.label, task=self.recipe.task, split=split, seed=job.seed)
            for part in (measured, curves(self._log) if trained is None else {})
            for split, records in part.items()
            for record in records
        ]
        label, title = job.model.label, job.model.title
        weights = bool(job.model.weights or job.model.pretrained)
        info = {"trial": self.recipe.trial, "data": self.data.describe}
        run = Run(
            folder=job.folder, task=REPORT, info=info | {"models": [{"label": label, "weights": weights}]},
            records=rows, labels=[label], titles={label: title}, predictions={}, samples=[], recipe=None,
        )  # fmt: skip
        return doubt_in(run, label, title)

    def _loaded(self, model: ModelConfig) -> tuple[nn.Module, Classify]:
        """A trained model that reads the recipe's images.

        Raises:
            RecipeError: it is another network, or was trained on other classes or sizes.
        """
        folder = _trained(model)
        assert folder is not None
        network, preprocess = load_model(folder, "vision")
        wanted = {
            "models.*.name": (network.registry_name, model.name),
            "data.image_size": (preprocess["image_size"], self.recipe.data.image_size),
            "data.fit": (preprocess.get("fit", "crop"), self.recipe.data.fit),
            "data.path": (list(preprocess["classes"]), list(self.data.classes)),
        }
        for key, (there, here) in wanted.items():
            if there != here:
                raise RecipeError(f"{folder} was trained with {there}, the recipe has {here}; change {key}")
        mean, std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        return network, Classify(classes=self.data.classes, mean=mean, std=std)


def _trained(model: ModelConfig) -> Path | None:
    """The folder of a trained model that the weights are; None where they are to be trained further, or none."""
    folder = Path(model.weights) if model.weights else None
    return folder if folder is not None and read_json(folder / "config.json") else None


def _change(name: str, config: Any) -> Any:
    def change(images: Tensor, index: Tensor) -> Tensor:
        return transformations.transform(images, name, severity=config.severity, seed=config.seed, index=index)

    change.__name__ = f"{name.replace('_', ' ')} at severity {config.severity}"
    return change
