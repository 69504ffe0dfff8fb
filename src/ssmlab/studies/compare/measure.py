"""The measurements of a comparison. Each returns records by model; timings take turns."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ssmlab.checkpoints.folder import load_model
from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.models import create_model
from ssmlab.profiling import (
    Call,
    Timings,
    TrainingStep,
    count_flops,
    count_parameters,
    forward_call,
    in_rounds,
    peak_memory,
    weight_bytes,
)
from ssmlab.reports.primary_metric import interval_of
from ssmlab.studies.compare.model_refs import ModelRef
from ssmlab.tasks.classify.several import ClassifySeveral
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.shared.calibration import probabilities_of
from ssmlab.tasks.shared.differences import class_differences, label_differences
from ssmlab.tasks.shared.label_metrics import label_metrics
from ssmlab.tasks.shared.metrics import Groups, classification_metrics
from ssmlab.training.dataset import BatchedDataset
from ssmlab.training.predict import predict

SINGLES = 10  # calls of one image in a turn: latency wants percentiles, and so more of them than a median does
PERCENTILES = (50, 90, 99)
PARTS = (
    "accuracy", "balanced_accuracy", "f1", "roc_auc", "loss", "sensitivity", "specificity", "label_auc",
    "label_accuracy", "all_right", "group_accuracy", "group_roc_auc",
)  # fmt: skip

T = TypeVar("T")
Found = dict[str, list[Record]]


@dataclass(frozen=True)
class Built:
    """A network on its device, in evaluation mode, with its preprocessing.

    unmeasured: why its accuracy means nothing; None where it does.
    fit: how its images become square.
    """

    ref: ModelRef
    network: nn.Module
    image_size: int
    task: Classify | ClassifySeveral
    unmeasured: str | None
    fit: str = "crop"

    @property
    def label(self) -> str:
        return self.ref.label

    def batch(self, count: int, device: str) -> Tensor:
        """Images of noise: what is in them changes no cost."""
        random = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, self.image_size, self.image_size, generator=random).to(device)


def build(ref: ModelRef, classes: tuple[str, ...], image_size: int | None, device: str, several: bool = False) -> Built:
    """Build a model. A trained model keeps its classes and image size.

    Args:
        classes: of the data; numbers where there are none. several: whether these give an image several labels.
        image_size: None takes the model's own.
    Raises:
        ModelError: the name, the file or the size make no network.
    """
    if ref.folder is not None:
        network, how = load_model(ref.folder, "vision")
        names, unmeasured, several = tuple(how["classes"]), None, bool(how.get("several"))
    else:
        torch.manual_seed(0)
        network = create_model(ref.name, num_classes=len(classes), image_size=image_size, weights=ref.weights).eval()
        how = dict(network.default_cfg) | {"image_size": image_size or network.default_cfg["input_size"][-1]}
        names, unmeasured = classes, why_not(network, ref.weights)
    mean, std = ([x] * 3 if isinstance(x, float) else list(x) for x in (how["mean"], how["std"]))
    one = Classify(classes=names, mean=tuple(mean), std=tuple(std))
    task: Classify | ClassifySeveral = ClassifySeveral(images=one) if several else one
    return Built(ref, network.to(device), int(how["image_size"]), task, unmeasured, how.get("fit", "crop"))


def other_seeds(model: Built, device: str) -> Iterator[Built]:
    """The same model trained with other seeds, one after the other."""
    for folder in model.ref.others:
        yield build(replace(model.ref, folder=folder), (), None, device)


def over_seeds(rows: list[list[Record]]) -> list[Record]:
    """The means of records over seeds, with their intervals over images and seeds."""
    if len(rows) == 1:
        return rows[0]
    found = []
    for same in zip(*rows, strict=True):
        limits = (0.0, math.inf if same[0].metric == "loss" else 1.0)
        mean, low, high = interval_of(same, limits, fraction=same[0].metric == "accuracy")
        found.append(replace(same[0], value=mean, spread=(low, high) if math.isfinite(low) else None))
    return found


def why_not(network: Any, weights: Path | None) -> str | None:
    """The classifier of a file for other classes is not taken over, and then says nothing."""
    if weights is None:
        return "random weights"
    from ssmlab.models.weights import read_state_dict

    last = network.get_classifier()
    own = last.weight.detach() if isinstance(last, nn.Linear) else None
    if own is None or any(t.shape == own.shape and torch.equal(t, own) for t in read_state_dict(weights).values()):
        return None
    return "the classifier is not the file's"


def warm_up(device: str) -> None:
    """What torch itself prepares when it first computes must not count as the first model's cold call."""
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 30 * 30, 2))
    batch, labels = torch.randn(8, 3, 32, 32, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    TrainingStep(network.to(device), batch, labels)()


def counts(model: Built, device: str) -> list[Record]:
    """Parameters, and operations of one image."""
    found = count_flops(model.network, model.batch(1, device))
    return [
        Record(metric="image_size", value=model.image_size, unit="pixels"),
        Record(metric="parameters", value=count_parameters(model.network), unit="count"),
        Record(metric="macs", value=found.macs, unit="multiply-accumulates"),
        Record(metric="scan_macs", value=found.scan_macs, unit="multiply-accumulates"),
        Record(metric="flops", value=found.flops, unit="operations"),
        Record(metric="scan_flops", value=found.scan_flops, unit="operations"),
    ]


def cold_and_memory(model: Built, batch: int, device: str) -> list[Record]:
    """The very first call, of one image, and the peak of memory for a batch: weights and what comes on top of them."""
    first = forward_call(model.network, model.batch(1, device)).seconds()
    many = forward_call(model.network, model.batch(batch, device))
    return [
        Record(metric="cold_seconds", value=first, unit="seconds", n=1),
        *_peak("peak_memory_inference", many, lambda: weight_bytes(model.network), device),
    ]


def _peak(metric: str, call: Call, resident: Callable[[], int], device: str) -> list[Record]:
    """The peak of a warm call: a first one also loads code, and whichever model comes first would pay for it."""
    call.function()
    with peak_memory(device) as peak:
        call.function()
    if peak.extra is None:
        return []
    return [Record(metric=metric, value=resident() + peak.extra, unit="bytes", class_=_batch(call.items))]


def _batch(count: int) -> str:
    return f"batch {count}"


def inference(models: list[Built], batch: int, repeats: int, device: str, progress: Progress) -> Found:
    """Images per second at batch 1 and `batch`, latency of one image."""
    sizes = {count: {m.label: forward_call(m.network, m.batch(count, device)) for m in models} for count in {1, batch}}
    turns = _Turns(progress, "timing", len(sizes) * repeats * len(models))
    found: Found = {model.label: [] for model in models}
    try:
        for count, calls in sorted(sizes.items()):
            for label, times in turns.run(calls, repeats, SINGLES if count == 1 else 1).items():
                found[label].append(_speed("images_per_second", times))
                for p in PERCENTILES if count == 1 else ():
                    value, which, n = times.percentile(p), f"percentile {p}", len(times.seconds)
                    found[label].append(Record(metric="latency", value=value, unit="seconds", class_=which, n=n))
    finally:
        progress.stop()
    return found


class _Turns:
    """Several sets of calls under one bar, so that the remaining time is that of all."""

    def __init__(self, progress: Progress, title: str, total: int):
        self.progress, self.done = progress, 0
        progress.start(title, total, unit="turns")

    def run(self, calls: dict[str, Call], repeats: int, calls_a_round: int) -> dict[str, Timings]:
        before = self.done

        def report(turns: int) -> None:
            self.done = before + turns
            self.progress.update(self.done)

        return in_rounds(calls, repeats, calls_a_round=calls_a_round, progress=report)


def _speed(metric: str, times: Timings) -> Record:
    speed = times.throughput
    return Record(
        metric=metric,
        value=speed.median,
        unit="images/s",
        n=len(times.seconds),
        spread=(speed.low, speed.high),
        class_=_batch(times.items),
    )


def training(models: list[Built], batch: int, repeats: int, device: str, progress: Progress) -> Found:
    """Peak of memory and images per second of training steps. The networks are changed by it."""
    found: Found = {}
    calls = {}
    for model in models:
        labels = torch.arange(batch, device=device) % len(model.task.classes)
        step = TrainingStep(model.network, model.batch(batch, device), labels)
        calls[model.label] = step.call
        try:
            found[model.label] = _peak("peak_memory_training", step.call, step.resident_bytes, device)
        except (ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise UserError(
                f"{model.label} cannot be trained with batches of {batch} images of {model.image_size} pixels "
                f"({reason}); give another --batch, or --no-train"
            ) from error
    turns = _Turns(progress, "timing training", repeats * len(models))
    try:
        for label, times in turns.run(calls, repeats, 1).items():
            found[label].append(_speed("train_images_per_second", times))
    finally:
        progress.stop()
    return found


def predicted(
    model: Built, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], batch: int,
    device: str, progress: Progress,
) -> np.ndarray:  # fmt: skip
    """Logits (n, classes) of images (n, size, size, 3) uint8, in the order of `classes`."""
    tensors = {"images": torch.from_numpy(images).permute(0, 3, 1, 2), "labels": torch.from_numpy(labels)}
    found = predict(
        model.network,
        model.task,
        BatchedDataset(tensors, unit="images"),
        batch_size=batch,
        compute=ComputeConfig(device=device),
        title=f"testing {model.label}",
        progress=progress,
    )
    own = list(model.task.classes)
    return found.values[:, [own.index(name) for name in classes]]


def quality(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], groups: Groups) -> list[Record]:
    """The numbers of one model with one seed.

    Args:
        labels: (n,) positions in `classes`, or (n, classes) where an image has several.
        groups: of every image.
    """
    numbers = label_metrics if labels.ndim == 2 else classification_metrics
    found = numbers(logits, labels, classes, groups=groups)
    return [r for r in found if r.metric in PARTS and (labels.ndim == 1 or r.class_ in (None, "macro"))]


def differences(models: dict[str, list[np.ndarray]], labels: np.ndarray, groups: Groups) -> list[Record]:
    """Every two models on the same images, over seeds too: effects with intervals, and p-values with Holm's correction.

    Args:
        models: label -> logits of every seed. labels, groups: as of `quality`.
    """
    stacked = {label: np.stack(rows) for label, rows in models.items()}
    several = labels.ndim == 2
    likely = {label: probabilities_of(rows, several=several) for label, rows in stacked.items()}
    if several:
        pairs = label_differences(labels, likely, groups=groups)
    else:
        right = {label: rows.argmax(-1) == labels for label, rows in stacked.items()}
        pairs = class_differences(labels, right, likely, groups=groups)
    return [replace(record, model=pair) for pair, record in pairs]


def with_reason(label: str, what: Callable[[], T]) -> T:
    """The result of a piece of work on a model; an error of torch or timm becomes one line that names the model.

    Raises:
        ModelError: in their place, e.g. for an image size that the network cannot take.
    """
    try:
        return what()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"{label} cannot be measured: {str(error).strip().splitlines()[0]}") from error
