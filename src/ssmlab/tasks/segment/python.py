"""Segmentation from Python: images with masks of any dataset, trained on as they are, predicted whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import DataError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.data.images.decode import UnreadableImage, decode
from ssmlab.data.masks.reader import open_masks
from ssmlab.tasks.items import attribute, changed, name_of, outputs_of, pair, some_items
from ssmlab.tasks.segment.metrics import records_of
from ssmlab.tasks.segment.predict import predict_part
from ssmlab.tasks.segment.serving import ValidationVolumes
from ssmlab.tasks.segment.task import Segment, normalised, windows_of
from ssmlab.tasks.shared.dice import IGNORE
from ssmlab.tasks.shared.folds import untouched
from ssmlab.training.predict import autocast

ABOUT = ("classes", "mean", "std", "patch_size", "overlap", "mirror", "bootstrap")
TRAINING: tuple[str, ...] = ()
SOME = 100  # items that mean and standard deviation are measured on


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The mask of an image, labels (*spatial) uint8 in the order of `classes`, and probabilities (k, *spatial)."""

    mask: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels of every class."""
        return {name: float((self.mask == i).mean()) for i, name in enumerate(self.classes)}


def image_of(image: Any) -> Tensor:
    """An image as (c, *spatial): of PIL or an array (h, w[, c]), or a tensor, as it is."""
    if isinstance(image, Tensor):
        return image if image.ndim > 2 else image[None]
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return torch.from_numpy(np.array(pixels, order="C"))


def mask_of(mask: Any) -> Tensor:
    """Labels (*spatial) uint8, 255 where nothing is counted, of a tensor, an array or PIL."""
    labels = torch.as_tensor(np.array(mask) if not isinstance(mask, Tensor) else mask)
    labels = labels[0] if labels.ndim > 2 and len(labels) == 1 else labels
    return labels.to(torch.uint8)


class Pairs:
    """A dataset of (image, mask) as a part that `predict_part` reads."""

    groups = None  # nothing names them

    def __init__(self, data: Any):
        self.data = data
        self.ids = [str(i) for i in range(len(data))]

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, i: int) -> tuple[Tensor, Tensor, tuple[float, ...]]:
        """Image, labels and spacing by number."""
        image, mask = pair(self.data[i])
        labels = mask_of(mask)
        return image_of(image), labels, (1.0,) * labels.ndim

    def sample(self, i: int) -> SimpleNamespace:
        """The same as arrays."""
        image, labels, spacing = self.fetch(i)
        return SimpleNamespace(image=image.numpy(), labels=labels.numpy(), spacing=spacing)


def describe(model: Any, data: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What images go through before a network, as preprocess.json has it, found from both where it is not given.

    Raises:
        UserError: images and masks differ in size, or the network has another number of outputs.
    """
    known = dict(getattr(model, "preprocess_config", {}))
    items = some_items(data, SOME if not (given.keys() | known.keys()) >= {"mean", "std"} else 1)
    found = [(image_of(image), mask_of(mask)) for image, mask in map(pair, items)]
    image, labels = found[0]
    if image.shape[1:] != labels.shape:
        raise UserError(
            f"image and mask must agree in size, got {tuple(image.shape)} (c, ...) and {tuple(labels.shape)}"
        )
    plan = getattr(getattr(model, "config", None), "plan", None)
    about: dict[str, Any] = {"mean": [], "std": [], "spacing": [], "directions": "", "numbers": []}
    if "mean" not in known:
        flat = [normalised(image, [0.0] * len(image), [1.0] * len(image)).double().flatten(1) for image, _ in found]
        pixels = torch.cat(flat, 1)
        about |= {"mean": pixels.mean(1).tolist(), "std": [s or 1.0 for s in pixels.std(1, correction=0).tolist()]}
    about["patch_size"] = list(plan.patch_size if plan is not None else image.shape[1:])
    about |= known | {key: value for key, value in given.items() if key in ("mean", "std", "patch_size")}
    about |= {"task": "segment", "channels": len(image)}
    task = _task(about | {"classes": ()})
    outputs = outputs_of(model, SimpleNamespace(collate=task.collate, outputs=_logits), _patch(task, (image, labels)))
    count, classes = outputs.shape[1], given.get("classes") or attribute(data, "classes") or known.get("classes")
    if classes is None:
        classes = ["background", *(f"class {i}" for i in range(1, count))]
    if len(classes) != count:
        raise UserError(f"there are {len(classes)} classes, {name_of(model)} has {count} outputs a pixel")
    largest = max(int(labels[labels != IGNORE].max()) for _, labels in found if (labels != IGNORE).any())
    if largest >= count:
        raise UserError(f"masks hold labels up to {largest}, {name_of(model)} has {count} outputs a pixel")
    return about | {"classes": [str(name) for name in classes]}


def _logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    outputs = model(batch["images"])
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def _task(about: dict[str, Any], pairs: Pairs | None = None, *, mirror: bool = False, **windows: Any) -> Segment:
    windows["mirror"] = tuple(range(len(about["patch_size"]))) if mirror else ()
    return Segment(
        classes=tuple(about["classes"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        windows=windows_of(about["patch_size"], **windows),
        fetch=pairs.fetch if pairs is not None else Pairs([]).fetch,
        spacing=tuple(about.get("spacing", ())),
    )


def _patch(task: Segment, item: Any) -> tuple[Tensor, Tensor]:
    image, mask = pair(item)
    return task.prepare(image_of(image)), mask_of(mask)


def prepare(
    model: nn.Module, train: Any, val: Any, given: dict[str, Any]
) -> tuple[nn.Module, Segment, Any, Any, dict[str, Any]]:
    """Model, task, both parts as training reads them, and what images go through.

    Args:
        train: (image, mask), all of one size; whoever wants patches cuts them in the dataset.
        val: (image, mask) of any sizes, which are predicted whole.
    """
    about = describe(model, train, given)
    pairs = None if val is None else Pairs(val)
    task = _task(about, pairs)
    return model, task, changed(train, lambda item: _patch(task, item)), pairs and ValidationVolumes(len(pairs)), about


def read(
    path: Path, about: dict[str, Any], part: str, recipe: Any, run: Any, given: dict[str, Any], progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """A part of the images with masks in a path, and what belongs to it.

    Args:
        recipe, run: of the run that trained the model and its data, where these are meant; else None.
    """
    if recipe is not None:
        config = recipe.evaluation
        options = {"overlap": config.overlap, "mirror": config.mirror, "bootstrap": config.bootstrap}
        options |= {"tolerance": config.tolerance, "unit": "millimetres" if run.found.measured else "pixels"}
        return untouched(run, part), options | {"batch_size": config.batch_size}
    progress.start(f"checking {path}", 1)
    try:
        found = open_masks(path, classes=tuple(about["classes"]))
    finally:
        progress.stop()
    if found.channels != about["channels"]:
        raise DataError(f"{path} has images of {found.channels} channels, the model takes {about['channels']}")
    split = found.train.joined(found.val, found.test) if part == "all" else getattr(found, part)
    progress.say(f"its {part} part, {len(split):,} of {sum(map(len, (found.train, found.val, found.test))):,} images")
    return split, {"unit": "millimetres" if found.measured else "pixels"}


def evaluate(
    model: nn.Module,
    data: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    overlap: float = 0.5,
    mirror: bool = False,
    tolerance: float = 0.0,
    bootstrap: int = 2000,
    unit: str = "pixels",
) -> list[Record]:
    """Dice, IoU, precision and recall of whole images, by class and together, with 95 % intervals over images.

    Args:
        data: (image, mask), or a part of a reader.
        overlap, mirror: of the windows by which an image is predicted.
        tolerance: of the surface distance; 0 leaves out everything about outlines.
    """
    spacing = tuple(about.get("spacing", ()))
    across = spacing.index(0.0) if 0.0 in spacing else 0  # of volumes that were cut for a network in 2-D
    task = _task(about, overlap=overlap, mirror=mirror, batch=batch_size, across=across)
    split: Any = data if hasattr(data, "sample") else Pairs(data)
    found = predict_part(model, task, split, compute, tolerance=tolerance, title="evaluating", progress=progress)
    loss = Record(metric="loss", value=found.numbers["loss"], unit="nats", n=len(split))
    return [loss, *records_of(found.table, bootstrap, unit)]


def predict(
    model: nn.Module,
    inputs: Any,
    about: dict[str, Any],
    *,
    compute: ComputeConfig,
    batch_size: int,
    progress: Progress,
    overlap: float = 0.5,
    mirror: bool = False,
) -> list[Segmentation]:
    """The mask of every image: PIL images, file names, arrays, tensors, or items of a dataset."""
    task, found = _task(about, overlap=overlap, mirror=mirror, batch=batch_size), []
    with torch.inference_mode(), autocast(compute):
        for image in _images(inputs, about["channels"]):
            probabilities = task.predict(model.eval(), image, (1.0,) * (image.ndim - 1)).cpu().numpy()
            labels = probabilities.argmax(0).astype(np.uint8)
            found.append(Segmentation(labels, probabilities, task.classes))
    return found


def _images(inputs: Any, channels: int) -> Iterator[Tensor]:
    for given in inputs:
        image = given["images"] if isinstance(given, dict) else given[0] if isinstance(given, (tuple, list)) else given
        if isinstance(image, (str, Path)):
            try:
                image = decode(Path(image).read_bytes())
            except (OSError, UnreadableImage) as error:
                reason = getattr(error, "strerror", None) or error
                raise DataError(f"{image}: cannot be read ({reason}); `ssmlab segment` reads volumes") from None
        if isinstance(image, Image.Image):
            image = image.convert("L" if channels == 1 else "RGB")
        found = image_of(image)
        if len(found) != channels:
            raise UserError(f"an image has {len(found)} channels, the network takes {channels}")
        yield found
