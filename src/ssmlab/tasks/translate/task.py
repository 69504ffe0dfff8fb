"""Translation as a task: batches of pairs to a loss, and to BLEU of what the model writes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ssmlab.data.pairs.batches import NO_LABEL, pad_pairs
from ssmlab.tasks.language.task import CORRECT, COUNT, NLL
from ssmlab.tasks.translate.batches import OURS, Marks, marked


@dataclass(frozen=True, kw_only=True)
class Translate:
    """Cross-entropy of the target's tokens after the source, a mean over all of a batch.

    The outputs of a row are three sums: nats without smoothing, tokens that were predicted, tokens that were correct.

    Args:
        vocab_size: tokens of the vocabulary; logits after them only fill it up.
        label_smoothing: 0 to 1, in training only.
        marks: tokens that begin and end a target.
        decode: scores of the validation part as a model translates it, "bleu" among them; None leaves them out.
    """

    vocab_size: int
    label_smoothing: float = 0.0
    marks: Marks = OURS
    decode: Callable[[nn.Module], dict[str, float]] | None = None

    higher_is_better: ClassVar[bool] = True
    primary_metric: ClassVar[str] = "bleu"

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of (source, target), each a sequence of tokens without marks."""
        sources, targets = zip(*((np.asarray(source), np.asarray(target)) for source, target in items), strict=True)
        batch = marked(pad_pairs(sources, targets), self.marks)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The mean over the batch's predicted tokens in nats, in training with label smoothing, and the sums (b, 3).

        Args:
            batch: "source" (b, s), "source_mask" (b, s), True = token; "tokens" (b, t), which begin with the separator;
                "labels" (b, t), -100 where nothing is predicted.
        """
        network: Any = model
        labels = batch["labels"]
        logits, _ = network(batch["tokens"], network.read_source(batch["source"], batch["source_mask"]))
        counted = labels != NO_LABEL
        logs = logits[..., : self.vocab_size].float().log_softmax(-1)
        nll = -logs.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * counted
        total = nll.sum()
        if model.training and self.label_smoothing:
            uniform = -(logs.mean(-1) * counted).sum()
            total = (1 - self.label_smoothing) * total + self.label_smoothing * uniform
        with torch.no_grad():
            correct = (logs.argmax(-1) == labels).float().sum(1)
            sums = torch.stack([nll.detach().sum(1), counted.float().sum(1), correct], 1)
        return total / (batch["totals"][0] if "totals" in batch else counted.sum().clamp(min=1)), sums

    def counts(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the loss is a mean over: predicted tokens."""
        return (batch["labels"] != NO_LABEL).sum()[None]

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The sums (b, 3) of every row."""
        return self.loss(model, batch)[1]

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Correct tokens, and all that were predicted."""
        return outputs[:, CORRECT].sum(), outputs[:, COUNT].sum()

    def nll(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Nats without smoothing, and the tokens that they are of."""
        return outputs[:, NLL].sum(), outputs[:, COUNT].sum()

    def validation(self, outputs: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Loss in nats a token, without smoothing, perplexity and the share of correct tokens, of all rows (n, 3)."""
        nll, count, correct = outputs.astype(np.float64).sum(0)
        loss = nll / max(count, 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "token_accuracy": correct / max(count, 1)}

    def decoded(self, model: nn.Module) -> dict[str, float]:
        """BLEU and what else `decode` finds in the model's own translations of the validation part."""
        return self.decode(model) if self.decode else {}
