"""Segmentation: patches to a loss, whole images to what their masks share with the true ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.models.ensemble import Ensemble
from ssmlab.tasks.shared.dice import IGNORE, deep_counts, deep_loss, overlaps
from ssmlab.tasks.shared.regrid import Windows, predict_at


@dataclass(kw_only=True)
class Segment:
    """Dice and cross-entropy over the network's resolutions; Dice on whole images.

    Args:
        classes: names; the first is the background, which no mean counts.
        mean, std: of every channel of the training images (see `normalised`).
        windows: how a whole image is predicted.
        fetch: a validation image by its number: image (c, *spatial), labels (*spatial) with 255 where nothing counts,
            and its spacing.
        spacing: at which networks see images; empty takes them as they are.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    windows: Windows
    fetch: Callable[[int], tuple[Tensor, Tensor, tuple[float, ...]]]
    spacing: tuple[float, ...] = ()

    primary_metric: ClassVar[str] = "dice"
    higher_is_better: ClassVar[bool] = True

    def prepare(self, image: Tensor) -> Tensor:
        """An image (c, *spatial) as the network takes it: float32, normalised."""
        return normalised(image, self.mean, self.std)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of patches, or of whole images by their numbers.

        Args:
            batch: "images" (b, c, *patch), normalised, and "labels" (b, *patch); or "cases" (b,), the numbers of
                validation images.
        Returns:
            in training the loss and logits (b, k, *patch); else the mean cross-entropy of pixels in nats, and `sums`
            (b, 3 k + 2) of whole images or of patches.
        """
        if "cases" in batch:
            sums = torch.stack([self.sums(model, *self.fetch(int(i))) for i in batch["cases"]])
            return _mean_nats(sums), sums
        outputs = model(batch["images"])
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        if model.training:
            return deep_loss(outputs, batch["labels"], batch.get("totals")), logits
        probabilities = logits.float().softmax(1)
        sums = torch.stack([image_sums(p, labels) for p, labels in zip(probabilities, batch["labels"], strict=True)])
        return _mean_nats(sums), sums

    def counts(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the loss in training is a mean over: images and counted pixels, of every resolution of the network."""
        labels = batch["labels"]
        sizes = getattr(model, "scale_sizes", lambda size: [size])(labels.shape[1:])
        return deep_counts(labels, sizes)

    def predict(self, model: nn.Module, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Probabilities (k, *spatial), float32, of a whole image (c, *spatial), on the model's device."""
        image = self.prepare(image.to(next(model.parameters()).device))
        return predict_at(model, image, self.windows, spacing, self.spacing).float()

    def sums(self, model: nn.Module, image: Tensor, labels: Tensor, spacing: Sequence[float]) -> Tensor:
        """Of one whole image: 3 numbers a class (`overlaps`), then nats and counted pixels; float64."""
        probabilities = self.predict(model, image, spacing)
        return image_sums(probabilities, labels.to(probabilities.device))

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of patches (image, labels), normalised images (c, *patch) and labels (*patch) of one size."""
        pairs = [(item["images"], item["labels"]) if isinstance(item, dict) else tuple(item)[:2] for item in items]
        images, labels = zip(*pairs, strict=True)
        return {
            "images": torch.stack([torch.as_tensor(image).float() for image in images]),
            "labels": torch.stack([torch.as_tensor(label) for label in labels]),
        }

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The sums of whole images, or of patches."""
        return self.loss(model, batch)[1]

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[int, int]:
        """Nothing: the share of right pixels says little where most are background."""
        return 0, 0

    def validation(self, outputs: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Cross-entropy in nats a pixel, and Dice, of rows of sums (images, 3 k + 2)."""
        sums = outputs.astype(np.float64)
        found = per_image(sums[:, :-2].reshape(len(sums), -1, 3))
        return {
            "loss": float(sums[:, -2].sum() / max(sums[:, -1].sum(), 1)),
            "dice": mean_of(found["dice"]),
        }


def _mean_nats(sums: Tensor) -> Tensor:
    return sums[:, -2].sum() / sums[:, -1].sum().clamp(min=1)


def normalised(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An image (c, *spatial) as float32; bytes are scaled to 0..1 first.

    Args:
        mean, std: of every channel; where they are empty, the image's own.
    """
    scaled = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    shape = (-1, *(1,) * (image.ndim - 1))
    if not mean:
        flat = scaled.flatten(1)
        return (scaled - flat.mean(1).view(shape)) / flat.std(1).clamp(min=1e-6).view(shape)
    centre, spread = (torch.tensor(values, dtype=torch.float32, device=image.device) for values in (mean, std))
    return (scaled - centre.view(shape)) / spread.view(shape)


def image_sums(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Of probabilities (k, *spatial) and labels (*spatial): overlaps of every class, nats, counted pixels.

    Float64 on the CPU: a volume has more voxels than float32 can count.
    """
    counts = overlaps(probabilities.argmax(0), labels, len(probabilities)).flatten()
    counted = labels != IGNORE
    target = torch.where(counted, labels, 0).long()
    nll = F.nll_loss(probabilities.clamp(min=1e-7).log()[None], target[None], reduction="none")[0] * counted
    return torch.cat([counts.cpu().double(), torch.stack([nll.sum().cpu().double(), counted.sum().cpu().double()])])


def per_image(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Dice, IoU, precision and recall (images, classes) from overlaps (images, classes, 3).

    A class that neither mask of an image has is nan there and left out of every mean; what only one of them has is 0,
    but for the recall of a class that is not there, which is nan.
    """
    correct, wrong, missed = (counts[..., i].astype(np.float64) for i in range(3))
    absent = correct + missed == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "dice": 2 * correct / (2 * correct + wrong + missed),
            "iou": correct / (correct + wrong + missed),
            "precision": np.where(~absent & (correct + wrong == 0), 0.0, correct / (correct + wrong)),
            "recall": correct / (correct + missed),
        }
    return found


def in_total(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers (classes,) with the pixels of all images counted together."""
    return {name: values[0] for name, values in per_image(counts.sum(0, keepdims=True)).items()}


def by_image(values: np.ndarray) -> np.ndarray:
    """The mean of every image (images,) over its classes but the first, of values (images, classes); nan: nothing."""
    return _nanmean(values[..., 1:], -1)


def mean_of(values: np.ndarray) -> float:
    """The mean over images of their means; nan where no image has anything."""
    return float(_nanmean(by_image(values), 0))


def _nanmean(values: np.ndarray, axis: int) -> Any:
    known = np.isfinite(values)
    counts = known.sum(axis)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis) / np.where(counts, counts, np.nan)


def windows_of(
    patch: Sequence[int], *, overlap: float = 0.5, mirror: Sequence[int] = (), batch: int = 4, across: int = 0
) -> Windows:
    """`predict_windows` with these settings; with a patch in 2-D a volume's slices across an axis one by one.

    Of an ensemble the mean of the members' probabilities of the whole image.
    """
    from ssmlab.tasks.shared.sliding import predict_windows

    def predict(model: nn.Module, image: Tensor) -> Tensor:
        if isinstance(model, Ensemble):
            total: Any = 0.0
            for i, member in enumerate(model.members):
                total = total + predict(member, model.seen_by(i, image, axis=0))
            return total / len(model.members)
        if image.ndim == len(patch) + 2:
            return torch.stack([predict(model, plane) for plane in image.unbind(across + 1)], across + 1)
        return predict_windows(model, image, tuple(patch), overlap=overlap, mirror=tuple(mirror), batch=batch)

    return predict
