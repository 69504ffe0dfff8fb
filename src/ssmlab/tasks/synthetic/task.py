"""Synthetic tasks: at some places of a sequence something is predicted that occurs earlier in it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.tasks.language.task import CORRECT, COUNT, IGNORE, NLL, collate_tokens, token_loss


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Cross-entropy of the answers; the metric is the share of them that is correct.

    Args:
        vocab_size: tokens of the data.
        label_smoothing: 0 to 1, in training only.
    """

    vocab_size: int
    label_smoothing: float = 0.0

    primary_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of {"tokens", "labels"}."""
        return collate_tokens(items)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The mean over answers in nats, and of every row the sums of nats, answers and correct answers, (b, 3).

        Args:
            batch: "tokens" (b, l), "labels" (b, l), -100 where nothing is predicted.
        """
        logits, _ = model(batch["tokens"])
        labels = batch["labels"]
        totals = batch.get("totals")
        loss, sums = token_loss(logits, labels, totals)
        if model.training and self.label_smoothing:
            flat, wanted, smoothing = logits.flatten(0, 1).float(), labels.flatten(), self.label_smoothing
            if totals is None:
                loss = F.cross_entropy(flat, wanted, label_smoothing=smoothing)
            else:
                loss = F.cross_entropy(flat, wanted, label_smoothing=smoothing, reduction="sum") / totals[0]
        return loss, sums

    def counts(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the loss is a mean over: answers."""
        return (batch["labels"] != IGNORE).sum()[None]

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The sums (b, 3) of every row."""
        return self.loss(model, batch)[1]

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Correct answers, and all."""
        return outputs[:, CORRECT].sum(), outputs[:, COUNT].sum()

    def validation(self, outputs: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Loss in nats an answer, the share of correct answers, and that of faultless sequences; rows (n, 3)."""
        sums = outputs.astype(np.float64)
        nll, count, correct = sums.sum(0)[[NLL, COUNT, CORRECT]]
        return {
            "loss": nll / count,
            "accuracy": correct / count,
            "all_right": float((sums[:, CORRECT] == sums[:, COUNT]).mean()),
        }
