"""What training requires of a task."""

from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn


class Task(Protocol):
    """What a batch and an output mean. A batch is a dictionary of tensors, "labels" among them.

    primary_metric: the validation metric by which weights, learning rates and models are chosen.
    higher_is_better: whether more of it is better.
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
