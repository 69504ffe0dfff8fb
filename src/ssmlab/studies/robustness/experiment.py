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
from ssmlab.studies.robustness.data import DatasetFiles
from ssmlab.studies.robustness.evaluation import Options, robustness
from ssmlab.studies.robustness.recipe import RobustnessRecipe
from ssmlab.studies.robustness.table import FIRST
from ssmlab.tasks.classify.recipe import ModelConfig
from ssmlab.tasks.shared.experiment import Experiment, Records
from ssmlab.tasks.shared.job import Job

SECONDS = 0.05  # of one image under one condition, by rule of thumb


def run_tests(folders: list[Path], recipe: Any, output: Path, progress: Progress, *, write: bool) -> list[Record]:
    """`ssmlab robustness` on saved models, with what the recipe's `evaluation.robustness` says."""
    data, config = recipe.data, recipe.evaluation.robustness.model_dump()
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    options = Options(
        **values,
        data=data.path,
        group=data.group or None,
        labels=data.labels,
        batch=recipe.evaluation.batch_size,
        device=recipe.device,
        output=output,
        overwrite=True,
    )
    return robustness([str(folder) for folder in folders], options, progress=progress, write=write).records


def place(job: Job) -> Path:
    """The folder of the tests of a run, to which a job belongs."""
    return job.folder.parent.parent / "robustness"


def build(recipe: RobustnessRecipe, data: DatasetFiles, model: ModelConfig, seed: int) -> nn.Module:
    """The network with its weights.

    Raises:
        RecipeError: these are for other classes than the data have: their classifier is then not taken over.
    """
    set_seed(seed)
    weights = Path(model.weights) if model.weights else None
    weights = weights / "model.safetensors" if weights and weights.is_dir() else weights
    count = len(data.images.classes)
    network: Any = create_model(
        model.name,
        num_classes=count,
        image_size=recipe.data.image_size,
        pretrained=model.pretrained,
        weights=weights,
        **model.options,
    )
    row = find_weights(model.name) if model.pretrained else None
    published = dict(network.default_cfg).get("num_classes", count) if model.pretrained else count
    published = CLASSES[row.classes] if row is not None else published
    if count != published or (weights is not None and unmeasured(network, weights)):
        raise RecipeError(
            f"{model.title}: the weights are not for the {count} classes of {recipe.data.path}; give data "
            "with all the classes that they were trained on"
        )
    return network


def estimate(recipe: RobustnessRecipe, data: DatasetFiles, job: Job) -> float:
    """Seconds, roughly; a model that cannot be built, or has other classes than the data, is reported here."""
    preprocess_of(recipe, data, job.model, build(recipe, data, job.model, job.seed))
    config = recipe.evaluation.robustness
    many = {"twenty": 20 * max(1, len(config.severities)), "imagenet-c": 15 * (len(config.severities) or 5)}
    images = config.per_class * len(data.images.classes)
    return SECONDS * images * (1 + many[config.transformations])


def preprocess_of(recipe: RobustnessRecipe, data: DatasetFiles, model: ModelConfig, network: Any) -> dict:
    """As the weights were trained with: timm's numbers, or those of the run that made them."""
    weights = Path(model.weights)
    file = (weights if weights.is_dir() else weights.parent) / "preprocess.json"
    own = read_json(file) if model.weights else {}
    known: dict = own or dict(network.default_cfg)
    classes = list(own.get("classes", data.images.classes))
    if set(classes) != set(data.images.classes):
        raise RecipeError(
            f"{model.title} was trained on other classes than those of {recipe.data.path}: "
            f"{', '.join(classes[:4])}, ...; leave it out, or give data with its classes"
        )
    return {
        "image_size": recipe.data.image_size,
        "fit": recipe.data.fit,
        "mean": list(known["mean"]),
        "std": list(known["std"]),
        "classes": classes,
        "channels": 3,
        "crop_pct": 1.0 if own else known.get("crop_pct") or 1.0,
    }


def fit_job(recipe: RobustnessRecipe, data: DatasetFiles, job: Job, *, progress: Progress, **unused: Any) -> Records:
    """Nothing is trained: a model is saved with its weights and tested."""
    network = build(recipe, data, job.model, job.seed)
    save_model(network, job.folder, preprocess_of(recipe, data, job.model, network))
    found = run_tests([job.folder], recipe, place(job), progress, write=False)
    clean = [replace(r, class_=None) for r in found if r.metric in FIRST and r.class_ == "original"]
    return {"test": clean, None: [Record(metric="parameters", value=count_parameters(network), unit="count")]}


def finish(recipe: RobustnessRecipe, data: DatasetFiles, jobs: list[Job], folder: Path) -> None:
    """One table of all models; what they predicted is in files already."""
    run_tests([job.folder for job in jobs], recipe, place(jobs[0]), Progress(), write=True)


EXPERIMENT = Experiment(build=build, estimate=estimate, fit_job=fit_job, finish=finish)
