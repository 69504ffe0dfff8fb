"""The gated layer between the sequence blocks of some models."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.nn.dt import check_sizes
from ssmlab.nn.linear import Linear


class GatedMLP(nn.Module):
    """SwiGLU: two projections, one gating the other, and a third back.

        x, gate = fc1(u)      y = fc2(x * silu(gate))

    Source: Shazeer 2020 (arXiv:2002.05202), section 2. Parameter names and layouts are those of the Mamba code.

    Args:
        d_model: channels of input and output.
        hidden: channels in between, rounded up to a multiple of `multiple_of`.
        multiple_of: see `hidden`.
        bias: bias of both layers.
    Raises:
        ModelError: a size is not positive.
    """

    def __init__(self, d_model: int, hidden: int, *, multiple_of: int = 128, bias: bool = False):
        super().__init__()
        check_sizes("GatedMLP", d_model=d_model, hidden=hidden, multiple_of=multiple_of)
        hidden = -(-hidden // multiple_of) * multiple_of
        self.fc1 = Linear(d_model, 2 * hidden, bias=bias)
        self.fc2 = Linear(hidden, d_model, bias=bias)

    def forward(self, u: Tensor) -> Tensor:
        """u (..., d_model) -> y (..., d_model)."""
        x, gate = self.fc1(u).chunk(2, dim=-1)
        return self.fc2(x * F.silu(gate))
