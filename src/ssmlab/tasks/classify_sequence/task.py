"""Classification of sequences: the loss and the metrics."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.tasks.shared.labels import class_number
from ssmlab.tasks.shared.metrics import loss_and_accuracy


@dataclass(frozen=True, kw_only=True)
class ClassifySequences:
    """Cross-entropy of the classes.

    Args:
        classes: names in the order of the logits.
    """

    classes: tuple[str, ...]

    primary_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats and the logits (b, classes) of {"tokens" (b, l), "mask" (b, l) or none, "labels" (b,)}."""
        logits = self.outputs(model, batch)
        if "totals" in batch:
            return F.cross_entropy(logits, batch["labels"], reduction="sum") / batch["totals"][0], logits
        return F.cross_entropy(logits, batch["labels"]), logits

    def counts(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the loss is a mean over: sequences."""
        return torch.tensor([len(batch["labels"])])

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of (tokens, label), or of {"tokens", "labels"}, with a mask where the lengths differ."""
        pairs = [(item["tokens"], item["labels"]) if isinstance(item, dict) else tuple(item)[:2] for item in items]
        rows = [torch.as_tensor(tokens).long() for tokens, _ in pairs]
        found = {
            "tokens": nn.utils.rnn.pad_sequence(rows, batch_first=True),
            "labels": torch.tensor([class_number(label, self.classes) for _, label in pairs]),
        }
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return found if mask.all() else found | {"mask": mask}

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The logits (b, classes) of a batch, whose labels are not read."""
        return model(batch["tokens"], batch.get("mask")).float()

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Sequences classified correctly, and all."""
        return (outputs.argmax(1) == labels).sum(), len(labels)

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Loss and accuracy of a part."""
        return loss_and_accuracy(outputs, labels)
