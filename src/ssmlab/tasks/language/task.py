"""Next-token prediction: rows of tokens to a loss, and to the bits that a byte, a base or a sample costs."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

NLL, COUNT, CORRECT = range(3)  # columns of the outputs
IGNORE = -100  # the label where nothing is predicted


@dataclass(kw_only=True)
class Language:
    """Cross-entropy of the next token, where labels are not -100.

    The outputs of a row are three sums: nats, tokens that were predicted, tokens that were correct.

    Args:
        vocab_size: tokens of the data.
        unit: what bits are counted by, such as "byte"; the primary metric is `bits_per_<unit>`.
        tokens_per_unit: predicted tokens for each of them; 1 where tokens are bytes.
        stateful: hand the state of every step on to the next one, without gradient (truncated back-propagation).
        states: that state, of training and of evaluation.
    """

    vocab_size: int
    unit: str = "byte"
    tokens_per_unit: float = 1.0
    stateful: bool = False
    states: dict[bool, Any] = field(default_factory=lambda: {True: None, False: None}, repr=False)

    higher_is_better: ClassVar[bool] = False

    @property
    def primary_metric(self) -> str:
        return f"bits_per_{self.unit}"

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of sequences of tokens, of any lengths: each one's next tokens are predicted.

        Args:
            items: a sequence of at least two numbers of tokens, or {"tokens", "labels"} of one length.
        """
        return collate_tokens(items)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The mean over the batch's predicted tokens in nats, and the sums (b, 3) float32 of every row.

        Args:
            batch: "tokens" (b, l), "labels" (b, l); where documents meet in rows, "seq_idx" (b, l); where states are
                handed on, "fresh" (b,), the rows whose state begins anew.
        """
        state = self._state(model.training, batch["fresh"]) if self.stateful else None
        logits, after = model(batch["tokens"], state, seq_idx=batch.get("seq_idx"))
        if self.stateful:
            self.states[model.training] = tree_map(lambda tensor: tensor.detach(), after)
        return token_loss(logits, batch["labels"], batch.get("totals"))

    def counts(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the loss is a mean over: predicted tokens."""
        return (batch["labels"] != IGNORE).sum()[None]

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The sums (b, 3) of every row."""
        return self.loss(model, batch)[1]

    def _state(self, training: bool, fresh: Tensor) -> Any:
        """The state of the step before; zero, which is where a recurrence starts, in fresh rows."""
        state = self.states[training]
        if state is None or bool(fresh.all()):
            return None
        return tree_map(lambda tensor: tensor * (~fresh).view(-1, *(1,) * (tensor.ndim - 1)), state)

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Correct tokens, and all that were predicted."""
        return outputs[:, CORRECT].sum(), outputs[:, COUNT].sum()

    def validation(self, outputs: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Loss in nats a token, perplexity, bits a unit and the share of correct tokens, of all rows (n, 3)."""
        nll, count, correct = outputs.astype(np.float64).sum(0)
        loss = nll / max(count, 1)
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            self.primary_metric: loss / math.log(2) * self.tokens_per_unit,
            "token_accuracy": correct / max(count, 1),
        }


def collate_tokens(items: list[Any]) -> dict[str, Tensor]:
    """Sequences of tokens, or {"tokens", "labels"} of each, as a batch that is filled up at the end."""
    pairs = []
    for item in items:
        if isinstance(item, dict):
            pairs.append((torch.as_tensor(item["tokens"]).long(), torch.as_tensor(item["labels"]).long()))
        else:
            row = torch.as_tensor(item).long()
            pairs.append((row[:-1], row[1:]))
    return {
        "tokens": nn.utils.rnn.pad_sequence([tokens for tokens, _ in pairs], batch_first=True),
        "labels": nn.utils.rnn.pad_sequence([labels for _, labels in pairs], batch_first=True, padding_value=IGNORE),
    }


def token_loss(logits: Tensor, labels: Tensor, totals: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats over the labels that are not -100, and every row's sums (b, 3).

    Args:
        logits: (b, l, v). labels: (b, l), int64.
        totals: (1,), by which the sum is divided instead of by the number of these labels.
    """
    nll = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    counted = labels != IGNORE
    with torch.no_grad():
        correct = (logits.argmax(-1) == labels).float().sum(1)
        sums = torch.stack([nll.detach().sum(1), counted.float().sum(1), correct], 1)
    return nll.sum() / (counted.sum().clamp(min=1) if totals is None else totals[0]), sums
