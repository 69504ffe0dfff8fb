"""The layer of a vision model that shows where it looked, and how its output becomes a map (b, c, h, w)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.interpret.places import class_token_place
from ssmlab.models.vision.mambavision import MambaVision
from ssmlab.models.vision.medmamba import MedMamba
from ssmlab.models.vision.resnet_mamba import ResNetBaseline, ResNetMamba
from ssmlab.models.vision.vim import Vim
from ssmlab.models.vision.vmamba import VMamba


@dataclass(frozen=True)
class Layout:
    """Between what a layer gives and a map. The default is a layer that gives maps (b, c, h, w).

    to_map: (output, (height, width) of the images) -> (b, c, h, w).
    from_map: (map, output, (height, width)) -> the output with the map in the place of its own.
    """

    to_map: Callable[[Any, tuple[int, int]], Tensor] = lambda out, size: out
    from_map: Callable[[Tensor, Any, tuple[int, int]], Any] = lambda map_, out, size: map_


CHANNELS_FIRST = Layout()
CHANNELS_LAST = Layout(
    to_map=lambda out, size: out.permute(0, 3, 1, 2), from_map=lambda map_, out, size: map_.permute(0, 2, 3, 1)
)
# A pyramid of maps, of which the last one is meant.
LAST_OF_LIST = Layout(to_map=lambda out, size: out[-1], from_map=lambda map_, out, size: [*out[:-1], map_])


@dataclass(frozen=True)
class Target:
    """A layer and the layout of its output. For a network of one's own: `Target("layer4", model.layer4)`.

    alike: whether what comes after reads every position in the same way, as a mean does and a class token does not.
    """

    name: str
    module: nn.Module
    layout: Layout = CHANNELS_FIRST
    alike: bool = True


def target_of(model: nn.Module) -> Target:
    """The layer for Grad-CAM: the last one with a map after which every position still counts for the classes.

    Of models that read a class token that is the norm before the last mixer, since after it only that token counts
    (Vim, timm's ViT); of all others the output of the last stage.

    Raises:
        ModelError: nothing is known about this network.
    """
    if isinstance(model, Vim):
        name = f"layers.{len(model.layers) - 1}.norm"
        return Target(name, model.get_submodule(name), _vim_tokens(model), alike=model.cls_token is None)
    if isinstance(model, ResNetBaseline | ResNetMamba):
        return Target("backbone", model.backbone, LAST_OF_LIST)
    if isinstance(model, VMamba | MedMamba):
        first = isinstance(model, VMamba) and model.config.channel_first
        return _last(model, "layers", CHANNELS_FIRST if first else CHANNELS_LAST)
    if isinstance(model, MambaVision):
        return _last(model, "levels", CHANNELS_FIRST)
    return _of_timm(model, within="norm1")


def final_of(model: nn.Module) -> Target:
    """The last map before the last norm and the pooling, for the receptive field; read it, never replace it.

    Raises:
        ModelError: nothing is known about this network.
    """
    if isinstance(model, Vim):
        name = f"layers.{len(model.layers) - 1}"
        tokens = _vim_tokens(model)
        return Target(name, model.get_submodule(name), Layout(lambda out, size: tokens.to_map(out[0] + out[1], size)))
    if isinstance(model, ResNetMamba) and model.config.tokens == "spatial":
        count = model.level_lengths[-1] if model.config.scales > 1 else None
        tokens = _tokens(lambda length: range(length - (count or length), length))
        name = f"layers.{len(model.layers) - 1}"
        return Target(name, model.get_submodule(name), Layout(lambda out, size: tokens.to_map(out[0], size)))
    if hasattr(model, "num_prefix_tokens"):
        return _of_timm(model, within="")
    return target_of(model)


class Tapped(nn.Module):
    """A model whose target gives maps (b, c, h, w) to the layer `tap`, whatever its own layout is.

    captum's methods for layers work on `tap`. The model itself is not changed.
    """

    def __init__(self, model: nn.Module, target: Target):
        super().__init__()
        self.model, self.target, self.tap = model, target, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, c, h, w) -> the model's output."""
        layout, size = self.target.layout, (images.shape[-2], images.shape[-1])

        def detour(module: nn.Module, inputs: Any, output: Any) -> Any:
            return layout.from_map(self.tap(layout.to_map(output, size)), output, size)

        handle = self.target.module.register_forward_hook(detour)
        try:
            return self.model(images)
        finally:
            handle.remove()


def map_of(model: nn.Module, images: Tensor, target: Target) -> Tensor:
    """The map of a target for some images, (b, c, h', w')."""
    found: list[Tensor] = []
    size = (images.shape[-2], images.shape[-1])
    handle = target.module.register_forward_hook(lambda m, i, out: found.append(target.layout.to_map(out, size)))
    try:
        model(images)
    finally:
        handle.remove()
    return found[-1]


def _last(model: nn.Module, stages: str, layout: Layout) -> Target:
    name = f"{stages}.{len(model.get_submodule(stages)) - 1}"  # type: ignore[arg-type]
    return Target(name, model.get_submodule(name), layout)


def _of_timm(model: nn.Module, within: str) -> Target:
    """By timm's description of a network's last stage; `within` is the part of a block that has all tokens."""
    info = getattr(model, "feature_info", None)
    if not info:
        raise ModelError(
            f"{type(model).__name__} is no network of the table or of timm, so that its last map is not known; "
            'give one, Target("name", module)'
        )
    name, channels = info[-1]["module"], info[-1]["num_chs"]
    if hasattr(model, "num_prefix_tokens"):
        name = f"{name}.{within}".rstrip(".")
        first = model.num_prefix_tokens
        patches = _tokens(lambda length: range(first, length))
        return Target(name, model.get_submodule(name), patches, alike=getattr(model, "global_pool", "") == "avg")
    return Target(name, model.get_submodule(name), _either(channels))


def _either(channels: int) -> Layout:
    """Maps whose channels are first or last, recognised by their number."""

    def layout(out: Tensor) -> Layout:
        if out.dim() != 4 or channels not in (out.shape[1], out.shape[3]):
            raise ModelError(f"expected a map with {channels} channels, got {tuple(out.shape)}; give a Target")
        return CHANNELS_FIRST if out.shape[1] == channels else CHANNELS_LAST

    return Layout(
        to_map=lambda out, size: layout(out).to_map(out, size),
        from_map=lambda map_, out, size: layout(out).from_map(map_, out, size),
    )


def _vim_tokens(model: Vim) -> Layout:
    def patches(length: int, size: tuple[int, int]) -> list[int]:
        grid = model.patch_embed.grid(*size)
        own = -1 if model.cls_token is None else class_token_place(model, grid)
        return [token for token in range(length) if token != own]

    return _sequence(patches, lambda count, size: model.patch_embed.grid(*size))


def _tokens(patches: Callable[[int], range]) -> Layout:
    return _sequence(lambda length, size: list(patches(length)), _grid)


def _sequence(
    patches: Callable[[int, tuple[int, int]], list[int]], grid: Callable[[int, tuple[int, int]], tuple[int, int]]
) -> Layout:
    """Tokens (b, l, c), of which `patches` are on a grid, row by row."""

    def places(out: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.tensor(patches(out.shape[1], size), device=out.device)

    def to_map(out: Tensor, size: tuple[int, int]) -> Tensor:
        own = out[:, places(out, size)]
        return own.mT.unflatten(-1, grid(own.shape[1], size))

    def from_map(map_: Tensor, out: Tensor, size: tuple[int, int]) -> Tensor:
        return out.index_copy(1, places(out, size), map_.flatten(2).mT)

    return Layout(to_map, from_map)


def _grid(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of `count` patches of an image, by its proportions."""
    rows = max(1, round((count * size[0] / size[1]) ** 0.5))
    if count % rows:
        raise ModelError(f"{count} tokens are no grid over an image of {size[0]} x {size[1]}; give a Target")
    return rows, count // rows
