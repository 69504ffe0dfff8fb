"""Low-rank updates of layers that are called, through Hugging Face PEFT."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.nn import Linear, Linear2d, QuantizedLinear

ADAPTER = "default"  # PEFT's own name for the only adapter


def takes(module: nn.Module) -> bool:
    """Whether PEFT has a layer for this one. A linear layer over another axis than the last is not one."""
    return isinstance(module, (nn.Linear, nn.Embedding)) and not isinstance(module, Linear2d)


def inject(
    model: nn.Module, layers: list[str], *, rank: int, alpha: float, dropout: float, dora: bool, rslora: bool
) -> None:
    """Wrap layers of a model in place.

    Args:
        layers: whole names; their weights get rank-`rank` updates scaled by alpha / rank.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora=dora,
        use_rslora=rslora,
        target_modules="|".join(re.escape(name) for name in layers),
    )
    inject_config(model, config)


def inject_config(model: nn.Module, config: Any) -> None:
    """Wrap the layers that a LoraConfig of PEFT names, in place."""
    from peft.tuners.lora import LoraModel
    from peft.tuners.tuners_utils import cast_adapter_dtype

    class Injected(LoraModel):
        def _check_target_module_compatiblity(self, peft_config, model, target_name):
            """PEFT refuses out_proj and conv1d by the model's type; here it is checked whether they are reached."""

    model.__dict__.pop("peft_config", None)  # PEFT 0.18 leaves it on a model that it has merged
    Injected(model, config, ADAPTER)
    cast_adapter_dtype(model, ADAPTER)  # to float32, where the base has half precision


class Beside(nn.Module):
    """A layer with weights of 8 bits and a low-rank path next to it: base(x) + scale B A x.

    PEFT has no layer for these weights. Merged, it is a layer in float32, as the update is finer than 8 bits.

    Args:
        base_layer: what is frozen.
        rank: r.
        scale: of the path.
        dropout: before it.
    """

    def __init__(self, base_layer: QuantizedLinear, rank: int, scale: float, dropout: float):
        super().__init__()
        self.base_layer, self.scale, self.beside_active = base_layer, scale, True
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.lora_A, self.lora_B = nn.Linear(self.in_features, rank, False), nn.Linear(rank, self.out_features, False)
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=5**0.5)
        nn.init.zeros_(self.lora_B.weight)
        self.to(base_layer.scale.device)

    @property
    def weight(self) -> Tensor:
        """The base's, as of PEFT's layers."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), in the dtype of x."""
        y = self.base_layer(x)
        if not self.beside_active:
            return y
        path = self.lora_B(self.lora_A(self.dropout(x.to(self.lora_A.weight.dtype))))
        return y + (self.scale * path).to(y.dtype)

    def merged(self) -> nn.Linear:
        """The layer in float32, with what 8 bits stand for and the update in its weight."""
        layer = _dequantized(self.base_layer)
        layer.weight.data += self.scale * (self.lora_B.weight @ self.lora_A.weight)
        return layer


def _dequantized(layer: QuantizedLinear) -> nn.Linear:
    made = Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(layer.weight.to(layer.scale.dtype) * layer.scale[:, None])
    made.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach())
    return made.train(layer.training)


@torch.no_grad()
def widen(model: nn.Module) -> None:
    """Put layers in float32 into the places of all with weights of 8 bits, their updates in the weights."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Beside):
            model.set_submodule(name, module.merged())
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            model.set_submodule(name, _dequantized(module))


def put_beside(model: nn.Module, layer: str, rank: int, scale: float, dropout: float) -> None:
    """Wrap a layer with weights of 8 bits in place."""
    parent, _, last = layer.rpartition(".")
    base: Any = model.get_submodule(layer)
    setattr(model.get_submodule(parent), last, Beside(base, rank, scale, dropout))


def wrapped(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that PEFT has wrapped, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def merge_layers(model: nn.Module) -> None:
    """Add the updates to the weights and put the original layers back in their places."""
    for name, layer in list(wrapped(model)):
        layer.merge()  # type: ignore[operator]
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())  # type: ignore[operator]
    model.__dict__.pop("peft_config", None)
