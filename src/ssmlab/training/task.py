"""What training requires of a task, and network and task as one module."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ssmlab.core.world import ALONE, World
from ssmlab.training.distributed import gather
from ssmlab.training.parameters import frozen_modules


class Task(Protocol):
    """What a batch and an output mean. A batch is a dictionary of tensors, "labels" among them.

    primary_metric: the validation metric by which weights, learning rates and models are chosen.
    higher_is_better: whether more of it is better.

    Two more functions are called where a task has them. `decoded(model) -> dict[str, float]` gives numbers of the
    validation part that outputs do not hold, such as a score of written texts, under the weights that are evaluated.
    `nll(outputs) -> (sum, count)` gives nats without label smoothing, where the loss has some.

    Where a step's batch is computed in pieces, by several processes or one after the other, the pieces' losses are
    added. `counts(model, batch) -> (m,)` says what the task's means are over, such as tokens; `loss` then finds these
    numbers of the whole step in batch["totals"], and divides its sums by them instead. Without `counts` the loss is
    taken for a mean over rows. `rows(batch, part)` takes rows out of a batch whose tensors are not all of its rows.
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


def counts_of(task: Any, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What the means of a task's loss are over, (m,) float64 on the CPU: as its `counts` says, or rows."""
    if hasattr(task, "counts"):
        return task.counts(model, batch).double().cpu()
    return torch.tensor([len(batch["labels"])], dtype=torch.float64)


def loss_of(task: Any, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss and outputs of a batch, or of a piece of a step's: with "totals" that piece's part of the sum."""
    if "totals" not in batch or hasattr(task, "counts"):
        return task.loss(model, batch)
    batch = dict(batch)
    total = batch.pop("totals")[0]
    loss, outputs = task.loss(model, batch)
    return loss * (len(batch["labels"]) / total), outputs


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
        loss, outputs = loss_of(self.task, self.network, batch)
        if self.training and not ("totals" in batch and bool(batch["totals"].isinf().all())):
            name = "accuracy" if self.task.primary_metric == "accuracy" else "token_accuracy"
            found = {name: self.task.count_correct(outputs.detach(), batch["labels"])}
            if hasattr(self.task, "nll"):
                found["nll"] = self.task.nll(outputs.detach())
            for key, (value, count) in found.items():
                before, seen = self.sums.get(key, (0, 0))
                self.sums[key] = before + value, seen + count
        return {"loss": loss, "logits": outputs}

    def summed(self, world: World) -> dict[str, tuple[float, float]]:
        """`sums` of all processes."""
        own = {name: (float(value), float(count)) for name, (value, count) in self.sums.items()}
        parts = gather(world, own)
        names = dict.fromkeys(name for part in parts for name in part)
        found = {name: [part[name] for part in parts if name in part] for name in names}
        return {name: (sum(v for v, _ in pairs), sum(n for _, n in pairs)) for name, pairs in found.items()}

    def take_averages(self, world: World = ALONE) -> dict[str, float]:
        """Accuracy, and nats without smoothing, on the (augmented) training batches since the last call."""
        found = {name: value / count for name, (value, count) in self.summed(world).items() if count}
        self.sums = {}
        return found
