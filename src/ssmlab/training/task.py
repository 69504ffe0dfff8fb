"""What training requires of a task, and network and task as one module."""

from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from ssmlab.training.parameters import frozen_modules


class Task(Protocol):
    """What a batch and an output mean. A batch is a dictionary of tensors, "labels" among them.

    primary_metric: the validation metric by which weights, learning rates and models are chosen.
    higher_is_better: whether more of it is better.

    Two more functions are called where a task has them. `decoded(model) -> dict[str, float]` gives numbers of the
    validation part that outputs do not hold, such as a score of written texts, under the weights that are evaluated.
    `nll(outputs) -> (sum, count)` gives nats without label smoothing, where the loss has some.
    """

    @property
    def primary_metric(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of items of any dataset, such as (image, label)."""
        ...

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats, a scalar, and the outputs, of which row i belongs to row i of the batch."""
        ...

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The outputs alone, of a model in evaluation mode; a task that needs no labels for them reads none."""
        ...

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor | int, Tensor | int]:
        """How many predictions are correct, and of how many, where training shows its accuracy."""
        ...

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The numbers of a part: "loss", which counts every prediction once, the primary metric, and others."""
        ...


class TaskModule(nn.Module):
    """Network and task as one module that returns {"loss", "logits"}, which is what the Trainer expects of a model.

    It also keeps the network's own `config` away from the Trainer, which writes into it.
    """

    accepts_loss_kwargs = False  # or the Trainer would take **batch for a wish to count tokens

    def __init__(self, network: nn.Module, task: Task):
        super().__init__()
        self.network, self.task = network, task
        self.frozen = frozen_modules(network)
        self.sums: dict[str, tuple[Any, Any]] = {}  # of training batches since the last log: name -> sum and count

    def train(self, mode: bool = True):
        """As of any module, except that what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        loss, outputs = self.task.loss(self.network, batch)
        if self.training:
            name = "accuracy" if self.task.primary_metric == "accuracy" else "token_accuracy"
            found = {name: self.task.count_correct(outputs.detach(), batch["labels"])}
            if hasattr(self.task, "nll"):
                found["nll"] = self.task.nll(outputs.detach())
            for key, (value, count) in found.items():
                before, seen = self.sums.get(key, (0, 0))
                self.sums[key] = before + value, seen + count
        return {"loss": loss, "logits": outputs}

    def take_averages(self) -> dict[str, float]:
        """Accuracy, and nats without smoothing, on the (augmented) training batches since the last call."""
        found = {name: float(value) / float(count) for name, (value, count) in self.sums.items() if count}
        self.sums = {}
        return found
