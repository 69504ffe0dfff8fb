"""The layers at every position that stand between the sequence blocks of some models."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError
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
        dropout: probability of dropout on the gated hidden channels.
    Raises:
        ModelError: a size is not positive.
    """

    def __init__(self, d_model: int, hidden: int, *, multiple_of: int = 128, bias: bool = False, dropout: float = 0.0):
        super().__init__()
        check_sizes("GatedMLP", d_model=d_model, hidden=hidden, multiple_of=multiple_of)
        hidden = -(-hidden // multiple_of) * multiple_of
        self.fc1 = Linear(d_model, 2 * hidden, bias=bias)
        self.dropout = dropout
        self.fc2 = Linear(hidden, d_model, bias=bias)

    def forward(self, u: Tensor) -> Tensor:
        """u (..., d_model) -> y (..., d_model)."""
        x, gate = self.fc1(u).chunk(2, dim=-1)
        return self.fc2(F.dropout(x * F.silu(gate), self.dropout, self.training))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "swish": F.silu}


class FeedForward(nn.Module):
    """Two layers with an activation between, at every position: fc2(activation(fc1(u))).

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.3. Parameter names are those of transformers.

    Args:
        d_model: channels of input and output.
        hidden: channels in between.
        activation: of `ACTIVATIONS`.
        dropout: probability of dropout on the hidden channels.
    Raises:
        ModelError: a size is not positive, or an unknown activation.
    """

    def __init__(self, d_model: int, hidden: int, *, activation: str = "relu", dropout: float = 0.0):
        super().__init__()
        check_sizes("FeedForward", d_model=d_model, hidden=hidden)
        if activation not in ACTIVATIONS:
            raise ModelError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.fc1 = Linear(d_model, hidden)
        self.activation, self.dropout = activation, dropout
        self.fc2 = Linear(hidden, d_model)

    def forward(self, u: Tensor) -> Tensor:
        """u (..., d_model) -> y (..., d_model)."""
        hidden = ACTIVATIONS[self.activation](self.fc1(u))
        return self.fc2(F.dropout(hidden, self.dropout, self.training))

    def extra_repr(self) -> str:
        return f"activation={self.activation}"
