"""Synthetic tasks: some places of a sequence ask for something that stands earlier in it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.tasks.language.task import COUNT, NLL, CORRECT, token_loss


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Cross-entropy of the answers; the metric is the share of them that is right.

    Args:
        vocab_size: tokens of the data.
        label_smoothing: 0 to 1, in training only.
    """

    vocab_size: int
    label_smoothing: float = 0.0

    primary_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The mean over answers in nats, and of every row the sums of nats, answers and right answers, (b, 3).

        Args:
            batch: "tokens" (b, l), "labels" (b, l), -100 where nothing is asked.
        """
        logits, _ = model(batch["tokens"])
        labels = batch["labels"]
        loss, sums = token_loss(logits, labels)
        if model.training and self.label_smoothing:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=self.label_smoothing)
        return loss, sums

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Right answers, and all."""
        return outputs[:, CORRECT].sum(), outputs[:, COUNT].sum()

    def validation(self, outputs: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Loss in nats an answer, the share of right answers, and that of sequences without a mistake; rows (n, 3)."""
        sums = outputs.astype(np.float64)
        nats, asked, right = sums.sum(0)[[NLL, COUNT, CORRECT]]
        return {
            "loss": nats / asked,
            "accuracy": right / asked,
            "all_right": float((sums[:, CORRECT] == sums[:, COUNT]).mean()),
        }
