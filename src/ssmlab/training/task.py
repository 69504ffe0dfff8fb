"""What training asks of a task."""

from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn


class Task(Protocol):
    """A batch becomes a loss, outputs, and from these metrics.

    decides: the validation metric by which weights, learning rates and models are chosen.
    higher: whether more of it is better.
    """

    decides: str
    higher: bool

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats, a scalar, and the outputs, of which row i belongs to row i of the batch."""
        ...

    def right(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Any]:
        """How many predictions are right, and of how many, where training shows its accuracy."""
        ...

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The numbers of a part: "loss", which counts every prediction once, the deciding metric, and others."""
        ...
