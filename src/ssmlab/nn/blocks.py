"""Blocks with their residual connections, and one after another; what they compute need not be remembered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Residual(nn.Module):
    """A block between a norm and a residual connection: u + block(norm(u)), "pre-norm".

    Args:
        norm: a module on (b, l, d).
        block: a sequence block of this package; its state passes through.
    """

    def __init__(self, norm: nn.Module, block: nn.Module):
        super().__init__()
        self.norm = norm
        self.block = block

    def forward(self, u: Tensor, state=None, *, mask: Tensor | None = None, seq_idx: Tensor | None = None):
        """u (b, l, d) -> (y (b, l, d), the block's state)."""
        y, state = self.block(self.norm(u), state, mask=mask, seq_idx=seq_idx)
        return u + y, state


class Blocks(nn.Sequential):
    """A sequence of blocks with gradient checkpointing.

    While `grad_checkpointing` is true and a gradient is needed, only the inputs of the blocks are kept, and a block is
    computed a second time in the backward pass. The results are those of the ordinary way; the statistics of a
    BatchNorm see every batch once.
    """

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """x -> what the last block makes of it."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, **_options(block))
        return x


def _options(block: nn.Module) -> dict:
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_kept(norms)

    # torch.compile takes no contexts of one's own, so they are given only where a BatchNorm asks for them
    return {"context_fn": contexts} if norms and block.training else {}


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    kept = [count.clone() for count in counts], [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:  # the second computation ends as soon as nothing more is needed, so not every norm has counted
        for count, value in zip(counts, kept[0], strict=True):
            count.copy_(value)
        for norm, momentum in zip(norms, kept[1], strict=True):
            norm.momentum = momentum
