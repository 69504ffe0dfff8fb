"""Images with several labels: batches to a loss of every label by itself, and logits to numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import UserError
from ssmlab.core.statistics import roc_area
from ssmlab.tasks.classify.task import Classify


@dataclass(frozen=True, kw_only=True)
class ClassifySeveral:
    """Binary cross-entropy, the mean over labels; an image may have any number of them.

    Args:
        images: what images go through, the classes, and what training does to both. Its class weights count what is
            missed of a label so many times.
    """

    images: Classify

    primary_metric: ClassVar[str] = "label_auc"
    higher_is_better: ClassVar[bool] = True

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def mean(self) -> tuple[float, ...]:
        return self.images.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.images.std

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of (image, labels), or of {"images": image, "labels": labels}; labels are 0 or 1 for every class.

        Raises:
            UserError: images differ in size, or labels are no 0 and 1 for every class.
        """
        pairs = [(item["images"], item["labels"]) if isinstance(item, dict) else tuple(item)[:2] for item in items]
        labels = torch.stack([torch.as_tensor(label) for _, label in pairs])
        if labels.shape[1:] != (len(self.classes),) or not ((labels == 0) | (labels == 1)).all():
            raise UserError(f"labels must be 0 or 1 for each of {len(self.classes)} classes, got {labels[0].tolist()}")
        return self.images.collate([(image, 0) for image, _ in pairs]) | {"labels": labels}

    def prepare(self, images: Tensor, *, training: bool = False) -> Tensor:
        """As `Classify.prepare`."""
        return self.images.prepare(images, training=training)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats a label and the logits (b, classes); in evaluation without weights and smoothing."""
        logits = model(self.prepare(batch["images"], training=model.training)).float()
        labels, weight = batch["labels"].to(logits.dtype), None
        if model.training:
            smoothing, weights = self.images.label_smoothing, self.images.class_weights
            labels = labels * (1 - smoothing) + smoothing / 2
            weight = None if weights is None else torch.tensor(weights, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight), logits

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The logits (b, classes) of a batch, whose labels are not read."""
        return self.images.outputs(model, batch)

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Labels that are decided correctly at a probability of 1/2, and all."""
        return ((outputs > 0) == (labels > 0)).sum(), labels.numel()

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Loss and mean area under the ROC curve of a part; 1/2 where no label occurs."""
        known = [k for k in range(labels.shape[1]) if 0 < labels[:, k].sum() < len(labels)]
        areas = [float(roc_area(labels[:, k] > 0, outputs[:, k]).value) for k in known]
        return {"loss": label_loss(outputs, labels), "label_auc": float(np.mean(areas)) if areas else 0.5}


def positive_weights(counts: Sequence[int], images: int) -> tuple[float, ...]:
    """What makes the images with and without a label weigh the same: without / with; 1 for a label that none has.

    Args:
        counts: images with every label.
    """
    return tuple((images - n) / n if n else 1.0 for n in counts)


def label_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Binary cross-entropy in nats, the mean over images and labels."""
    values = logits.astype(np.float64)
    return float((np.logaddexp(0, values) - values * labels).mean())
