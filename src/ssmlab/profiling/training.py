"""A training step, to be timed and to have its memory measured."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.profiling.rounds import Call

RATE = 1e-5  # so small that random labels do not drive a model to values that are slow to compute with


class TrainingStep:
    """Forward, cross-entropy, backward, AdamW. The model stays in training mode and its weights change.

    Gradients are kept from step to step and set to zero, so that after the first step all that stays in memory between
    steps is there.

    Args:
        batch: (b, ...). labels: (b,) int64, on the model's device.
    """

    def __init__(self, model: nn.Module, batch: Tensor, labels: Tensor):
        self.model, self.batch, self.labels = model, batch, labels
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)

    def __call__(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(self.model(self.batch).float(), self.labels).backward()
        self.optimizer.step()

    @property
    def call(self) -> Call:
        """The step as something to be timed."""
        return Call(self, len(self.batch), self.batch.device)

    def resident_bytes(self) -> int:
        """Bytes of what stays between steps: weights, buffers, gradients and the optimiser's moments."""
        gradients = (p.grad for p in self.model.parameters() if p.grad is not None)
        moments = (t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor))
        return weight_bytes(self.model) + _bytes(chain(gradients, moments))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers; shared ones count once."""
    return _bytes({id(t): t for t in (*model.parameters(), *model.buffers())}.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
