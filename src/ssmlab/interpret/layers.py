"""The layer of a vision model that shows where it looked, and how its output becomes a map (b, c, h, w)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.ensemble import Ensemble
from ssmlab.models.vision.base import VisionModel
from ssmlab.models.vision.maps import CHANNELS_FIRST, CHANNELS_LAST, Layout, MapLayer, token_layout


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

    Our models say it; of timm's that read a class token it is the norm before the last attention, since after it only
    that token counts; of all others the output of the last stage. Of an ensemble it is its first member's.

    Raises:
        ModelError: nothing is known about this network.
    """
    if isinstance(model, Ensemble):
        return _within_first(target_of(model.members[0]))
    if isinstance(model, VisionModel):
        return _target(model, model.last_map())
    return _of_timm(model, within="norm1")


def final_of(model: nn.Module) -> Target:
    """The last map before the last norm and the pooling, for the receptive field; read it, never replace it.

    Raises:
        ModelError: nothing is known about this network.
    """
    if isinstance(model, Ensemble):
        return _within_first(final_of(model.members[0]))
    if isinstance(model, VisionModel):
        return _target(model, model.final_map())
    return _of_timm(model, within="")


def _within_first(target: Target) -> Target:
    return replace(target, name=f"members.0.{target.name}")


def _target(model: nn.Module, layer: MapLayer) -> Target:
    return Target(layer.name, model.get_submodule(layer.name), layer.layout, alike=layer.alike)


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


def _of_timm(model: Any, within: str) -> Target:
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
        patches = token_layout(lambda length, size: list(range(first, length)))
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
