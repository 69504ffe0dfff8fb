"""Convolutional backbones from timm, as pyramids of feature maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean
from ssmlab.models.catalogue import hub_address
from ssmlab.models.network import check_hub
from ssmlab.models.weights import one_line, read_state_dict
from ssmlab.nn.linear import use_fast_linear_

STRIDES = (32, 16, 8)
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")  # timm's, on the hub


def build_backbone(
    name: str, *, output_stride: int, in_chans: int = 3, pretrained: bool = False, weights: Path | None = None
) -> Any:
    """A timm network without its classifier, that returns its feature maps from fine to coarse.

    Args:
        name: a timm model that has `features_only`, for example resnet18, resnet50 or convnext_atto.
        output_stride: 32, 16 or 8; below 32 the last stages are dilated instead of strided.
        in_chans: channels of the images; pretrained weights are adapted.
        pretrained: download the weights that timm publishes.
        weights: a file of weights of the whole timm network instead.
    Raises:
        ModelError: timm has no such backbone, the hub cannot be reached, or the file does not fit.
    """
    options: dict[str, Any] = {"output_stride": output_stride, "in_chans": in_chans}
    if weights is not None:
        # the feature network is loaded without complaint even if nothing fits, so the whole network goes first
        timm_with_weights(name, weights, **options)
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    elif pretrained:
        return published_timm(name, features_only=True, **options)
    return call_timm(
        name, lambda: timm.create_model(name, features_only=True, pretrained=weights is not None, **options)
    )


def published_timm(name: str, **options: Any) -> Any:
    """A timm network with the weights that timm publishes, from the hub's cache or the network.

    Raises:
        ModelError: timm has no such network, or its weights cannot be had.
    """

    def build() -> Any:
        cfg = timm.get_pretrained_cfg(name)
        if cfg is not None and cfg.hf_hub_id:
            files = {cfg.hf_hub_filename or WEIGHTS_FILES[0], *WEIGHTS_FILES}
            if not any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str) for file in files):
                check_hub(cfg.hf_hub_id, hub_address(cfg.hf_hub_id, WEIGHTS_FILES[0]))
        return timm.create_model(name, pretrained=True, **options)

    return call_timm(name, build)


@lru_cache
def map_sizes(name: str, output_stride: int, image_size: int) -> tuple[tuple[int, int, int], ...]:
    """(channels, height, width) of every feature map for square images, found without computing anything.

    Raises:
        ModelError: timm has no such backbone, or the backbone refuses the stride.
    """
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=output_stride).eval()
        try:
            maps = backbone(torch.zeros(1, 3, image_size, image_size))
        except RuntimeError as error:
            raise ModelError(f"{name} cannot take images of {image_size} x {image_size}: {one_line(error)}") from error
    return tuple((m.shape[1], m.shape[2], m.shape[3]) for m in maps)


def choose_output_stride(name: str, image_size: int) -> int:
    """The largest of 32, 16 and 8 that leaves 4 x 4 positions in the last feature map; 8 where none does."""
    for stride in STRIDES:
        _, height, width = map_sizes(name, stride, image_size)[-1]
        if min(height, width) >= 4:
            return stride
    return STRIDES[-1]


def timm_with_weights(name: str, weights: Path, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """A whole timm network filled from a file, which must fit exactly.

    Args:
        weights: in timm's format or in one that timm converts.
        num_classes: classes wanted. A file with another number fills everything but the classifier.
        options: further arguments of `timm.create_model`.
    Raises:
        ModelError: the file does not fit; every key that disagrees is listed.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise ModelError(f"timm has no published configuration of {name!r}, so it cannot read weights for it")
    state = read_state_dict(weights)
    if (classifier := state.get(f"{cfg.classifier}.weight")) is not None:
        classes = classifier.shape[0]
    else:
        with torch.device("meta"):
            bare = call_timm(name, lambda: timm.create_model(name, num_classes=0))
        classes = 0 if state.keys() == bare.state_dict().keys() else cfg.num_classes
    overlay = {"file": str(weights), "num_classes": classes}
    model = call_timm(
        name,
        lambda: timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes, **options
        ),
        f"{weights} does not fit {name}",
    )
    if num_classes is not None and num_classes != classes:
        model.reset_classifier(num_classes)
    return model


def check_timm(name: str) -> None:
    """Refuse a name that timm does not have, before anything is built.

    Raises:
        ModelError: with the nearest names.
    """
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")


def call_timm(name: str, build: Callable[[], Any], purpose: str | None = None) -> Any:
    """Build a timm network, with our linear layers, and turn what goes wrong into one line that says what to do.

    Raises:
        ModelError: in the place of the errors of timm, torch and the hub's client.
    """
    check_timm(name)
    try:
        return use_fast_linear_(build())
    except OSError as error:  # the hub's own errors and those of the network are all children of it
        cfg = timm.get_pretrained_cfg(name)
        place = f"huggingface.co/{cfg.hf_hub_id}" if cfg is not None and cfg.hf_hub_id else "its page"
        raise ModelError(
            f"the pretrained weights of {name} cannot be downloaded ({one_line(error)}). Without a connection: fetch "
            f"model.safetensors from {place} on another machine and give weights=FILE"
        ) from error
    except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
        raise ModelError(f"{purpose or f'timm cannot build {name}'}: {error}") from error
