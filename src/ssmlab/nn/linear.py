"""Linear layers that decode at the memory's speed, with weights of any precision or of 8 bits."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.ops.linear import linear


class Linear(nn.Linear):
    """`torch.nn.Linear`, with its parameters, names and initial values; its products are `ops.linear`'s."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(input, self.weight, self.bias)


ROWS = 256  # of a weight that are rounded at once, so that a large one needs no second copy


class QuantizedLinear(nn.Module):
    """A linear layer with weights of 8 bits and one scale for every output: w = scale * q.

    q is w / scale rounded to the nearest, scale the row's largest |w| / 127: no weight moves by more than half a scale.
    Inputs, sums and outputs keep their precision. `weight` (int8) and `scale` (float32) are buffers; a gradient
    flows into the input and the bias.

    Args:
        in_features, out_features: channels of input and output.
        bias: whether there is one.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def of(cls, linear: nn.Linear) -> QuantizedLinear:
        """The layer with its weights rounded; the bias is shared."""
        with torch.device("meta"):
            layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        weight = linear.weight.detach()
        layer.weight = torch.empty_like(weight, dtype=torch.int8)
        layer.scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
        for begin in range(0, len(weight), ROWS):
            rows = slice(begin, begin + ROWS)
            own = weight[rows].float()
            scale = own.abs().amax(1) / 127
            layer.scale[rows] = scale = torch.where(scale > 0, scale, 1.0)
            layer.weight[rows] = (own / scale[:, None]).round().to(torch.int8)
        layer.bias = linear.bias
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), in the dtype of the input."""
        return linear(input, self.weight, self.bias, self.scale)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def use_fast_linear_(module: nn.Module) -> nn.Module:
    """Make a `Linear` of every `torch.nn.Linear` of a module, in place: its parameters, names and hooks stay.

    Comparisons of models take it for those of other packages, so that times differ by the architecture alone.
    """
    for child in module.modules():
        if type(child) is nn.Linear:
            child.__class__ = Linear
    return module


def quantize_linear_(module: nn.Module, skip: Collection[str] = ()) -> nn.Module:
    """Put a `QuantizedLinear` in the place of every `Linear` of a module: a quarter of float32's memory to read.

    The embedding that a head shares stays as it is; the head gets weights of its own. To load weights that were saved
    after this, build the model, call this, then `load_state_dict`.

    Args:
        module: changed in place.
        skip: layers that keep their weights, by their whole name or its last part, such as "dt_proj".
    Returns:
        The module.
    Raises:
        ModelError: the module has no `Linear`, or a name in `skip` is none.
    """
    found = [
        name
        for name, child in module.named_modules(remove_duplicate=False)
        if name and isinstance(child, Linear) and type(child).forward is Linear.forward  # over the last axis
    ]
    unknown = [name for name in skip if not any(name in (full, full.rpartition(".")[2]) for full in found)]
    if not found:
        raise ModelError(f"{type(module).__name__} has no layers of ssmlab.nn.Linear inside to quantize")
    if unknown:
        known = sorted({name.rpartition(".")[2] for name in found})
        raise ModelError(f"skip names no linear layer: {', '.join(unknown)}; there are {', '.join(known)}")
    done: dict[nn.Module, QuantizedLinear] = {}
    for name in found:
        parent, _, last = name.rpartition(".")
        if name in skip or last in skip:
            continue
        linear = module.get_submodule(name)
        if linear not in done:
            done[linear] = QuantizedLinear.of(linear)  # type: ignore[arg-type]
        setattr(module.get_submodule(parent), last, done[linear])
    return module
