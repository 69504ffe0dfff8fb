"""Rows that hold several sequences one behind the other."""

from __future__ import annotations

import torch
from torch import Tensor


def runs(seq_idx: Tensor) -> Tensor:
    """The sequences of every row numbered from 0, (b, l): a new one begins wherever the number changes."""
    begins = seq_idx[:, 1:] != seq_idx[:, :-1]
    return torch.cat([torch.zeros_like(seq_idx[:, :1], dtype=torch.int64), begins.cumsum(1)], dim=1)


def places(run: Tensor) -> Tensor:
    """How many positions of its own sequence stand before a position, (b, l), from `runs`."""
    at = torch.arange(run.shape[1], device=run.device).expand_as(run)
    begins = torch.cat([torch.zeros_like(run[:, :1], dtype=torch.bool), run[:, 1:] != run[:, :-1]], dim=1)
    return at - torch.where(begins, at, 0).cummax(1).values
