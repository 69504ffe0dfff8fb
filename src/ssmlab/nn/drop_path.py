"""Stochastic depth: residual branches that are left out at random in training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Set the whole branch of an image to zero with a probability, and scale the others up; only in training.

    Source: Huang et al. 2016 (arXiv:1603.09382), with the scaling of dropout.

    Args:
        probability: of leaving the branch out, in [0, 1).
    """

    def __init__(self, probability: float = 0.0):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """x (b, ...) of any shape."""
        if not self.training or not self.probability:
            return x
        keep = 1 - self.probability
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * kept.div_(keep)

    def extra_repr(self) -> str:
        return f"probability={self.probability:.3f}"


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Probabilities that grow linearly from 0 at the first block to `rate` at the last, for every block of a stage."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [rate * (start + block) / last for block in range(depth)] for start, depth in zip(starts, depths, strict=True)
    ]
