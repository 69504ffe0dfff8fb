"""Classification of sequences: the loss and the metrics."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.tasks.shared.metrics import loss_and_accuracy


@dataclass(frozen=True, kw_only=True)
class ClassifySequences:
    """Cross-entropy of the classes.

    Args:
        classes: names in the order of the logits.
    """

    classes: tuple[str, ...]

    decides: ClassVar[str] = "accuracy"
    higher: ClassVar[bool] = True

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats and the logits (b, classes) of {"tokens" (b, l), "mask" (b, l) or none, "labels" (b,)}."""
        logits = model(batch["tokens"], batch.get("mask")).float()
        return F.cross_entropy(logits, batch["labels"]), logits

    def right(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Sequences classified correctly, and all."""
        return (outputs.argmax(1) == labels).sum(), len(labels)

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Loss and accuracy of a part."""
        return loss_and_accuracy(outputs, labels)
