"""The residual branch of a sequence model."""

from __future__ import annotations

from torch import Tensor, nn


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
