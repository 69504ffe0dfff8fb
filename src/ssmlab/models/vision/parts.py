"""What families of vision models share besides `VisionModel`: checks of their configs, initial values, layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError
from ssmlab.nn import Linear

IMAGENET: dict[str, Any] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
}


def last_layer(in_features: int, num_classes: int) -> nn.Module:
    """A linear classifier with the initial values that these networks share; the identity for no classes."""
    if num_classes == 0:
        return nn.Identity()
    layer = Linear(in_features, num_classes)
    init_linear(layer)
    return layer


@torch.no_grad()
def init_linear(module: nn.Module) -> None:
    """Truncated normal of 0.02 for the weights of a linear layer, zero for its bias; nothing for other modules."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def channels_last(x: Tensor, in_chans: int) -> Tensor:
    """Images (b, in_chans, h, w) with their channels last in memory, so that no later map has to be turned.

    Raises:
        ShapeError: the channels are others.
    """
    check_shapes("images", x=(x, f"b {in_chans} h w"))
    return x.contiguous(memory_format=torch.channels_last)


def sizes_tuple(config: Any, *names: str) -> None:
    """Make tuples of fields that were read from JSON as lists, so that equal configs are equal."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, (tuple, list)):
            raise ModelError(f"{name} must be a list with one number a stage, got {value!r}")
        object.__setattr__(config, name, tuple(value))


def check_vision_config(config: Any, positive: Sequence[str] = ()) -> None:
    """Refuse sizes that make no network; `positive` names further fields that must be at least 1.

    Raises:
        ModelError: a field is out of its range.
    """
    for name in ("image_size", "in_chans", *positive):
        values = getattr(config, name)
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if value < 1:
                raise ModelError(f"{name} must be at least 1, got {values}")
    if config.num_classes < 0:
        raise ModelError(f"num_classes must not be negative, got {config.num_classes}")
    for name in ("drop_path_rate", "residual_dropout"):
        if not 0 <= getattr(config, name, 0.0) < 1:
            raise ModelError(f"{name} must be in [0, 1), got {getattr(config, name)}")
