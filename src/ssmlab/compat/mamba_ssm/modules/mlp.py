"""The gated layer between mixers, by the original's signature."""

from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.nn.linear import Linear

__all__ = ["GatedMLP"]


class GatedMLP(nn.Module):
    """fc2(x * activation(gate)) with x, gate = fc1(u).

    Args:
        hidden_features: channels in between, rounded up to a multiple of `multiple_of`; None: 8 / 3 of the inputs.
        out_features: None: as many as inputs.
        activation: of the gate; silu makes it `ssmlab.nn.GatedMLP`, weights included.
    """

    def __init__(
        self, in_features, hidden_features=None, out_features=None, activation=F.silu, bias=False, multiple_of=128,
        device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        hidden = int(8 * in_features / 3) if hidden_features is None else hidden_features
        hidden = -(-hidden // multiple_of) * multiple_of
        factory = {"device": device, "dtype": dtype}
        self.activation = activation
        self.fc1 = Linear(in_features, 2 * hidden, bias=bias, **factory)
        self.fc2 = Linear(hidden, in_features if out_features is None else out_features, bias=bias, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(y * self.activation(gate))
