"""Image classification: batches of uint8 images to a loss, and logits to numbers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.tasks.shared.augment import Augment, Mix
from ssmlab.tasks.shared.metrics import loss_and_accuracy


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Cross-entropy on images, with augmentation and normalisation done here, on the batch.

    Args:
        classes: names in the order of the logits.
        mean, std: per channel, of images scaled to 0..1.
        label_smoothing: 0 to 1, in training only.
        class_weights: a factor per class in the training loss, or None.
        augment: applied to training batches only, or None.
        mix: blends the images of a training batch and their labels, or None.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    augment: Augment | None = None
    mix: Mix | None = None

    decides: ClassVar[str] = "accuracy"
    higher: ClassVar[bool] = True

    def prepare(self, images: Tensor, *, training: bool = False) -> Tensor:
        """Images (b, c, h, w) uint8 to what the model reads: float32, augmented in training, normalised."""
        augment = self.augment if training else None
        if augment is not None:
            images = augment.policy(images)
        x = images.contiguous().float() / 255  # images may be a view of (b, h, w, c)
        if augment is not None:
            x = augment(x)
        mean = torch.tensor(self.mean, device=x.device)[:, None, None]
        std = torch.tensor(self.std, device=x.device)[:, None, None]
        x = (x - mean) / std
        return x if augment is None else augment.erase(x)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats (a scalar) and the logits (b, classes) of a batch {"images", "labels"}.

        A model in evaluation mode gets plain cross-entropy, comparable between recipes: no smoothing, no weights.
        """
        x, labels = self.prepare(batch["images"], training=model.training), batch["labels"]
        if not model.training:
            logits = model(x).float()
            return F.cross_entropy(logits, labels), logits
        smoothing = self.label_smoothing
        if self.mix is not None:
            x, labels = self.mix(x, labels, len(self.classes), smoothing)
            smoothing = 0.0  # the mixed labels are smoothed already
        logits = model(x).float()
        weight = None
        if self.class_weights is not None:
            weight = torch.tensor(self.class_weights, device=logits.device)
        loss = F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
        return loss, logits

    def right(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Images classified correctly, and all; of mixed images by their first label."""
        return (outputs.argmax(1) == labels).sum(), len(labels)

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Loss and accuracy of a part."""
        return loss_and_accuracy(outputs, labels)


def balanced_weights(labels, classes: int) -> tuple[float, ...]:
    """Weights inversely proportional to the frequency of each class, n / (classes * count); absent classes get 0."""
    counts = torch.bincount(torch.as_tensor(labels), minlength=classes).double()
    weights = torch.where(counts > 0, counts.sum() / (classes * counts.clamp(min=1)), 0.0)
    return tuple(weights.tolist())
