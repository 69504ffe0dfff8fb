"""Image classification from Python: what `fit`, `evaluate` and `predict` need to know, found from model and data."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import DataError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.text import did_you_mean
from ssmlab.data.check import check_images
from ssmlab.data.contents import PARTS
from ssmlab.data.images.decode import UnreadableImage, decode, fit_square
from ssmlab.data.images.reader import open_images
from ssmlab.tasks.classify.experiment import dataset_of
from ssmlab.tasks.classify.images import Part
from ssmlab.tasks.classify.predict import Meaning
from ssmlab.tasks.classify.several import ClassifySeveral
from ssmlab.tasks.classify.task import Classify, balanced_weights, image_tensor
from ssmlab.tasks.items import Remembered, attribute, labels_of, name_of, outputs_of, pair, several, some_items
from ssmlab.tasks.shared.augment import Augment
from ssmlab.tasks.shared.calibration import KEY
from ssmlab.tasks.shared.folds import untouched
from ssmlab.tasks.shared.label_metrics import label_metrics
from ssmlab.tasks.shared.metrics import RESAMPLES, classification_metrics
from ssmlab.tasks.shared.views import VIEWS, Views
from ssmlab.training.predict import predict as outputs_for

ABOUT = ("classes", "mean", "std", "positive", "tta")
PREDICTING = ("calibrated", "threshold")  # see `tasks.classify.predict.Classifier`
TRAINING = ("label_smoothing", "class_weights", "augment")
SOME = 1000  # items that mean and standard deviation are measured on


@dataclass(frozen=True, eq=False)
class ClassPrediction:
    """The class that a model finds most likely, its probability, and those of all classes, the largest first."""

    label: str
    probability: float
    probabilities: dict[str, float]


def describe(model: nn.Module, data: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What images go through before a model, as preprocess.json has it, found from both where it is not given.

    Args:
        data: (image, label), of any kind that `Classify.collate` takes.
        given: of ABOUT. Not given, mean and std are those that the model was trained with or was made for, else those
            of the data; classes are those of the dataset, else labels are counted.
    Raises:
        UserError: the model has another number of outputs than the data have classes, or does not take the images.
    """
    known = getattr(model, "preprocess_config", {})
    items = some_items(data, SOME if "mean" not in given and "mean" not in known else 8)
    images = [image_tensor(pair(item)[0]) for item in items]
    channels, height, width = images[0].shape
    normalised = any(image.is_floating_point() and (image.min() < -1 or image.max() > 256) for image in images)
    own = made_for(model)
    mean: Any
    std: Any
    if normalised:
        mean, std = (0.0,) * channels, (1.0,) * channels
    elif "mean" in known:
        mean, std = known["mean"], known["std"]
    elif len(own.get("mean", ())) == channels:
        mean, std = own["mean"], own["std"]
    else:
        mean, std = statistics(images)
    about: dict[str, Any] = {
        "task": "classify",
        "image_size": height if height == width else None,
        "fit": "crop",
        "mean": [float(value) for value in given.get("mean", mean)],
        "std": [float(value) for value in given.get("std", std)],
        "channels": channels,
        "normalised": normalised,
    }
    task = Classify(classes=(), mean=tuple(about["mean"]), std=tuple(about["std"]))
    outputs = outputs_of(model, task, items[0])
    if outputs.ndim != 2:
        raise UserError(f"{name_of(model)} returns {tuple(outputs.shape)} for one image; a classifier returns (1, k)")
    count, classes = outputs.shape[1], given.get("classes") or _classes(data, known.get("classes", ()))
    if isinstance(classes, int):  # counted in the data, which need not have all of them
        classes = tuple(map(str, range(max(classes, count))))
    if len(classes) != count:
        raise UserError(
            f"the data have {len(classes)} classes, {name_of(model)} has {count} outputs; give num_classes="
            f"{len(classes)} where it is created, or classes=(...)"
        )
    return about | {"classes": [str(name) for name in classes]}


def _classes(data: Any, known: Any) -> Any:
    """Names of the classes, or how many labels there are."""
    names = attribute(data, "classes")
    if names is not None and not isinstance(names, int):
        return tuple(names)
    if known:
        return known
    count = attribute(data, "num_classes")
    if count is not None:
        return int(count)
    if isinstance(data, IterableDataset):
        return 0
    return 1 + max(labels_of(data))


def statistics(images: list[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images (c, h, w), scaled to 0..1; 1 where nothing varies."""
    pixels = torch.cat([image.flatten(1).double() for image in images], 1) / 255
    mean, std = pixels.mean(1), pixels.std(1, correction=0)
    return mean.tolist(), [value or 1.0 for value in std.tolist()]


def made_for(model: Any) -> dict[str, Any]:
    """What images go through before a model that says so itself, as timm's and ours do; its classes are numbers."""
    cfg = dict(getattr(model, "default_cfg", None) or {})
    if not cfg.keys() >= {"mean", "std", "input_size"}:
        return {}
    about = {"mean": cfg["mean"], "std": cfg["std"], "image_size": cfg["input_size"][-1], "fit": "crop"}
    count = getattr(model, "num_classes", None) or cfg.get("num_classes") or 0
    return about | {"crop_pct": cfg.get("crop_pct"), "classes": [str(i) for i in range(count)]}


def prepare(
    model: nn.Module, train: Any, val: Any, given: dict[str, Any]
) -> tuple[nn.Module, Classify, Any, Any, dict[str, Any]]:
    """Model, task, both parts as training reads them, and what images go through.

    Args:
        given: of ABOUT and TRAINING: label_smoothing; class_weights, "balanced" or a factor per class; augment, an
            `Augment` or its arguments.
    """
    about = describe(model, train, {key: value for key, value in given.items() if key in ABOUT})
    weights, augment = given.get("class_weights"), given.get("augment")
    if isinstance(weights, str):
        if weights != "balanced":
            raise UserError(f'class_weights must be "balanced" or a factor per class, got {weights!r}')
        weights = balanced_weights(np.bincount(labels_of(train), minlength=len(about["classes"])))
    if isinstance(augment, dict):
        names = [field.name for field in fields(Augment)]
        for name in augment:
            if name not in names:
                hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
                raise UserError(f"augment has no option {name!r}{hint}")
        fill: dict[str, Any] = {"fill": tuple(about["mean"])}
        augment = Augment(**fill | augment)
    task = Classify(
        classes=tuple(about["classes"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        label_smoothing=given.get("label_smoothing", 0.0),
        class_weights=None if weights is None else tuple(map(float, weights)),
        augment=augment,
    )
    return model, task, train, val, about


def read(
    path: Path, about: dict[str, Any], part: str, recipe: Any, run: Any, given: dict[str, Any], progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """A part of the images in a path, at the model's size, and what belongs to it.

    Args:
        recipe, run: of the run that trained the model and its data, where these are meant; else None.
    """
    if recipe is not None:
        found = untouched(run, part)
        return dataset_of(found), own_options(recipe, found, part)
    found = open_images(path)
    check_classes(path, found.classes, about["classes"])
    for warning in check_images(found, fit=about.get("fit", "crop")).warnings:
        progress.say(f"warning: {warning}")
    splits = [found.splits[each] for each in parts_named(part)]
    count, whole = sum(map(len, splits)), sum(map(len, found.splits.values()))
    progress.say(f"its {part} part, {count:,} of {whole:,} images")
    arrays = []
    for split in splits:
        progress.start(f"reading {split.name}", len(split))
        try:
            how = about["image_size"], lambda done, total: progress.update(done), about.get("fit", "crop")
            arrays.append(split.array(*how))
        finally:
            progress.stop()
    if found.several != bool(about.get("several")):
        has, takes = ("several labels", "one") if found.several else ("one label", "several")
        raise DataError(f"{path} has images with {has}, the model was trained on {takes}")
    number = {name: i for i, name in enumerate(about["classes"])}  # the model's, which may be in another order
    order = [number[name] for name in found.classes]
    every = np.concatenate([split.labels for split in splits])
    labels = every[:, np.argsort(order)] if found.several else np.array(order, np.int64)[every]
    return dataset_of(Part(np.concatenate(arrays), labels, [id for split in splits for id in split.ids])), {}


def parts_named(part: str) -> tuple[str, ...]:
    """The parts that "all", or the name of one, means."""
    return PARTS if part == "all" else (part,)


def check_classes(path: Path, found: Sequence[str], known: Sequence[str]) -> None:
    """Data must have the classes of the model, in whatever order.

    Raises:
        DataError: they have others.
    """
    if sorted(found) != sorted(known):
        one, other = (
            ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} ... ({len(names)})"
            for names in (found, known)
        )
        raise DataError(f"{path} has the classes {one}, the model {other}; they must be the same")


def task_of(about: dict[str, Any]) -> Any:
    """The task of a trained model, `Classify` or `ClassifySeveral`.

    Raises:
        UserError: what images went through is not known.
    """
    missing = [key for key in ("classes", "mean", "std") if key not in about]
    if missing:
        raise UserError(f"nothing says what the model's {' and '.join(missing)} are; give {missing[0]}=...")
    task = Classify(classes=tuple(about["classes"]), mean=tuple(about["mean"]), std=tuple(about["std"]))
    return ClassifySeveral(images=task) if about.get("several") else task


def evaluate(
    model: nn.Module,
    data: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    tta: str = "none",
    **options: Any,
) -> list[Record]:
    """Loss, accuracy and its kin with 95 % intervals, of (image, label); of several labels each one's numbers.

    Args:
        tta: the mean over views of an image, see `tasks.shared.views`.
        options: of `class_records`.
    Raises:
        UserError: there are no such views.
    """
    if tta not in VIEWS:
        raise UserError(f"tta must be one of {', '.join(VIEWS)}, got {tta!r}")
    task = task_of(about)
    network = model if tta == "none" else Views(model, tta, isinstance(task, ClassifySeveral))
    return class_records(network, task, data, about, compute, batch_size, progress, **options)


def own_options(recipe: Any, part: Any, name: str) -> dict[str, Any]:
    """How a run measures a part, so that its numbers are those of the run."""
    config = recipe.evaluation
    return {
        "positive": config.positive,
        "batch_size": config.batch_size,
        "bootstrap": config.bootstrap,
        "groups": part.groups if name == "test" else None,
        **({"tta": config.tta} if hasattr(config, "tta") else {}),
    }


def class_records(
    model: nn.Module, task: Any, data: Any, about: dict[str, Any], compute: ComputeConfig, batch_size: int,
    progress: Progress, *, positive: str = "", groups: Sequence[str] | None = None, bootstrap: int = RESAMPLES,
) -> list[Record]:  # fmt: skip
    """Loss, accuracy and its kin of a task with classes, whatever its items are.

    Args:
        about: of the model, as preprocess.json has it; with its calibration numbers after that are there too.
        positive: of two classes. groups: of every item. bootstrap: resamples.
    """
    batches = Remembered(data, task)
    found = outputs_for(
        model, task, batches, batch_size=batch_size, compute=compute, title="evaluating", progress=progress
    )
    how: dict[str, Any] = {"groups": groups, "calibration": about.get(KEY), "resamples": bootstrap}
    if isinstance(task, ClassifySeveral):
        return label_metrics(found.values, batches.labels, task.classes, **how)
    return classification_metrics(found.values, batches.labels, task.classes, positive=positive, **how)


def predict(
    model: nn.Module, inputs: Any, about: dict[str, Any], *, compute: ComputeConfig, batch_size: int, progress: Progress
) -> list[ClassPrediction]:
    """A prediction for every image: PIL images, file names, arrays, tensors, or items of a dataset."""
    return class_predictions(model, task_of(about), images_of(inputs, about), about, compute, batch_size, progress)


def class_predictions(
    model: nn.Module, task: Any, inputs: Iterable[Any], about: dict[str, Any], compute: ComputeConfig, batch_size: int,
    progress: Progress,
) -> list[ClassPrediction]:  # fmt: skip
    """A prediction for every input of a task with classes, calibrated where `about` says so."""
    asked = {key: bool(about.get(key)) for key in PREDICTING}
    meaning = Meaning.of(about, tuple(task.classes), name_of(model), **asked)
    items = [(each, 0) for each in inputs]
    found = outputs_for(
        model, task, items, batch_size=batch_size, compute=compute, title="predicting", progress=progress
    )
    predictions = []
    for each in meaning.predictions([str(i) for i in range(len(found.values))], found.values):
        ranking = each.ranking(task.classes)
        label, probability = ranking[0]
        predictions.append(ClassPrediction(label, probability, dict(sorted(ranking, key=lambda pair: -pair[1]))))
    return predictions


def images_of(inputs: Any, about: dict[str, Any]) -> Iterator[Any]:
    """Images as a model was trained on them; pictures and files are brought to its size.

    Raises:
        DataError: files cannot be read, all of them listed.
    """
    problems = []
    for given in inputs:
        image = given["images"] if isinstance(given, dict) else given[0] if isinstance(given, (tuple, list)) else given
        if isinstance(image, (str, Path)):
            try:
                image = decode(Path(image).read_bytes())
            except (OSError, UnreadableImage) as error:
                problems.append(f"{image}: cannot be read ({getattr(error, 'strerror', None) or error})")
                continue
        if isinstance(image, Image.Image):
            size = about.get("image_size")
            if about.get("normalised") or size is None:
                raise UserError(
                    "the model was trained on images that its dataset normalised or that are not square; give tensors "
                    "that are prepared the same way"
                )
            whole = max(size, round(size / (about.get("crop_pct") or 1.0)))  # of which the middle is taken
            middle = slice((whole - size) // 2, (whole - size) // 2 + size)
            image = np.asarray(fit_square(image.convert("RGB"), whole, about.get("fit") or "crop"))[middle, middle]
            if about.get("channels") == 1:
                image = np.array(Image.fromarray(image).convert("L"))[..., None]
        yield image
    if problems:
        raise DataError(f"{len(problems)} of the images cannot be used", problems)


def prepared(model: nn.Module, images: Any) -> Tensor:
    """Images as a trained model reads them, normalised (b, c, h, w), on its device.

    Args:
        images: as for `predict`; one or several.
    Raises:
        UserError: what images went through is not known.
    """
    about = getattr(model, "preprocess_config", {})
    task = task_of(about)
    batch = task.collate([(image, 0) for image in images_of(several(images, images=True), about)])
    return task.prepare(batch["images"].to(next(model.parameters()).device))
