"""The norm of Mamba-2, with its gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError


class GatedRMSNorm(nn.Module):
    """Root mean square norm within groups of channels, and a gate before or after it.

        y = rms_norm(x * silu(z)) * weight      or, with `norm_before_gate`,      rms_norm(x) * weight * silu(z)

    Source: Dao & Gu 2024 (arXiv:2405.21060), section 7.1. Computed in float32 at least.

    Args:
        channels: d.
        groups: parts of the channels that are normalised each by itself.
        eps: added to the mean square.
        norm_before_gate: whether the gate acts on the normalised values.
    Raises:
        ModelError: the groups do not divide the channels.
    """

    def __init__(self, channels: int, *, groups: int = 1, eps: float = 1e-5, norm_before_gate: bool = False):
        super().__init__()
        if groups < 1 or channels % groups:
            raise ModelError(f"GatedRMSNorm: groups must divide the {channels} channels, got {groups}")
        self.groups, self.eps, self.norm_before_gate = groups, eps, norm_before_gate
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x and its gate z (..., d) -> y (..., d) in the dtype of x."""
        wide = torch.promote_types(x.dtype, torch.float32)
        y, gate = x.to(wide), F.silu(z.to(wide))
        if not self.norm_before_gate:
            y = y * gate
        y = y.unflatten(-1, (self.groups, -1))
        y = F.rms_norm(y, y.shape[-1:], eps=self.eps).flatten(-2) * self.weight.to(wide)
        return (y * gate if self.norm_before_gate else y).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, groups={self.groups}, eps={self.eps}, norm_before_gate={self.norm_before_gate}"
