"""Tests under transformations in a run: after training, or of models that come with their weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from ssmlab.checkpoints.folder import save_model
from ssmlab.core.errors import RecipeError
from ssmlab.core.files import read_json
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.models import create_model
from ssmlab.models.catalogue import CLASSES, find_weights
from ssmlab.profiling import count_parameters
from ssmlab.studies.compare.measure import why_not as unmeasured
from ssmlab.studies.robustness.evaluation import Options, robustness
from ssmlab.tasks.classify.recipe import ModelConfig
from ssmlab.tasks.shared.work import Work

SECONDS = 0.05  # of one image under one condition, by rule of thumb


def run_tests(folders: list[Path], recipe: Any, output: Path, progress: Progress, *, write: bool) -> list[Record]:
    """`ssmlab robustness` on saved models, with what the recipe's `evaluation.robustness` says."""
    data, config = recipe.data, recipe.evaluation.robustness.model_dump()
    options = Options(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in config.items()},
        data=data.path,
        group=data.group or None,
        labels=data.labels,
        batch=recipe.evaluation.batch_size,
        device=recipe.device,
        output=output,
        overwrite=True,
    )
    return robustness([str(folder) for folder in folders], options, progress=progress, write=write).records


def place(job: Any) -> Path:
    """The folder of the tests of a run, to which a job belongs."""
    return job.folder.parent.parent / "robustness"


class RobustnessWork(Work):
    """Nothing is trained: models are saved with their weights and tested."""

    recipe: Any

    def build(self, model: ModelConfig, seed: int) -> nn.Module:
        set_seed(seed)
        weights = Path(model.weights) if model.weights else None
        weights = weights / "model.safetensors" if weights and weights.is_dir() else weights
        network = create_model(
            model.name,
            num_classes=len(self.data.images.classes),
            image_size=self.recipe.data.image_size,
            pretrained=model.pretrained,
            weights=weights,
            **model.options,
        )
        self._check_classifier(model, network, weights)
        return network

    def _check_classifier(self, model: ModelConfig, network: nn.Module, weights: Path | None) -> None:
        """The classifier of weights for other classes is not taken over, and then says nothing."""
        count = len(self.data.images.classes)
        row = find_weights(model.name) if model.pretrained else None
        published = dict(network.default_cfg).get("num_classes", count) if model.pretrained else count
        published = CLASSES[row.classes] if row is not None else published
        if count != published or (weights is not None and unmeasured(network, weights)):
            raise RecipeError(
                f"{model.title}: the weights are not for the {count} classes of {self.recipe.data.path}; give data "
                "with all the classes that they were trained on"
            )

    def task(self, model, network):
        raise NotImplementedError("nothing is trained")

    def parts(self, model):
        raise NotImplementedError("nothing is trained")

    def validate(self, network, task, job):
        raise NotImplementedError("nothing is trained")

    def measure(self, job, network, task, progress):
        raise NotImplementedError("nothing is trained")

    def estimate(self, job: Any) -> float:
        """Seconds, roughly; a model that cannot be built, or has other classes than the data, is reported here."""
        self._preprocess(job.model, self.build(job.model, job.seed))
        config = self.recipe.evaluation.robustness
        many = {"twenty": 20 * max(1, len(config.severities)), "imagenet-c": 15 * (len(config.severities) or 5)}
        images = config.per_class * len(self.data.images.classes)
        return SECONDS * images * (1 + many[config.transformations])

    def _preprocess(self, model: ModelConfig, network: nn.Module) -> dict:
        """As the weights were trained with: timm's numbers, or those of the run that made them."""
        weights = Path(model.weights)
        run = read_json((weights if weights.is_dir() else weights.parent) / "preprocess.json") if model.weights else {}
        known = run or dict(network.default_cfg)
        classes = list(run.get("classes", self.data.images.classes))
        if set(classes) != set(self.data.images.classes):
            raise RecipeError(
                f"{model.title} was trained on other classes than those of {self.recipe.data.path}: "
                f"{', '.join(classes[:4])}, ...; leave it out, or give data with its classes"
            )
        return {
            "image_size": self.recipe.data.image_size,
            "fit": self.recipe.data.fit,
            "mean": list(known["mean"]),
            "std": list(known["std"]),
            "classes": classes,
            "channels": 3,
            "crop_pct": 1.0 if run else known.get("crop_pct") or 1.0,
        }

    def fit(self, job: Any, *, logs: Path, progress: Progress, resume: bool) -> dict[str | None, list[Record]]:
        network = self.build(job.model, job.seed)
        save_model(network, job.folder, self._preprocess(job.model, network))
        found = run_tests([job.folder], self.recipe, place(job), progress, write=False)
        clean = [replace(r, class_=None) for r in found if r.metric == "accuracy" and r.class_ == "original"]
        return {"test": clean, None: [Record(metric="parameters", value=count_parameters(network), unit="count")]}

    def finish(self, jobs: list[Any], folder: Path) -> None:
        """One table of all models; their answers are in files already."""
        run_tests([job.folder for job in jobs], self.recipe, place(jobs[0]), Progress(), write=True)
