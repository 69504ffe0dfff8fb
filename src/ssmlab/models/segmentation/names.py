"""The segmentation networks by name, and how one is built. Nothing heavy is imported before that.

They stand apart from the table of classifiers, whose function asks for an image size: these are built from a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean
from ssmlab.models.registry import ModelEntry
from ssmlab.models.segmentation.plans import Plan, plan_from, read_plan

SEGMENTATION_MODELS: dict[str, ModelEntry] = {
    "umamba_bot": ModelEntry("umamba", "umamba", "U-Mamba, Mamba at the bottleneck"),
    "umamba_enc": ModelEntry("umamba", "umamba", "U-Mamba, Mamba in the encoder"),
    "residual_unet": ModelEntry("umamba", "umamba", "residual U-Net"),
}


def list_segmentation_models() -> list[str]:
    """The names in the table."""
    return list(SEGMENTATION_MODELS)


def create_segmenter(
    name: str,
    *,
    plan: Plan | Mapping[str, Any] | str | Path,
    num_classes: int,
    in_chans: int = 3,
    seed: int | None = None,
) -> Any:
    """Build a segmentation network by name, with initial weights.

    Args:
        name: of `list_segmentation_models()`.
        plan: the sizes: a `Plan`, a table of them, or the path of a file that `read_plan` reads.
        num_classes: logits of a position, the background's included.
        in_chans: channels of the images.
        seed: of the initial weights, which then leaves torch's own generator where it was; None draws from that one.
    Returns:
        The network, with `registry_name` and `config`, which `save_model` writes and `load_model` reads.
    Raises:
        ModelError: unknown name, or a plan that makes no network.
    """
    if name not in SEGMENTATION_MODELS:
        hint = did_you_mean(name, SEGMENTATION_MODELS) or f"; there are {', '.join(SEGMENTATION_MODELS)}"
        raise ModelError(f"unknown segmentation model {name!r}{hint}")
    if not isinstance(plan, Plan):
        plan = read_plan(plan) if isinstance(plan, str | Path) else plan_from(plan)
    module = import_module(f"ssmlab.models.segmentation.{SEGMENTATION_MODELS[name].module}")
    config = module.UMambaConfig(plan=plan, num_classes=num_classes, in_chans=in_chans, **module.CONFIGS[name])
    import torch

    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = module.UMamba(config)
    model.registry_name = name
    return model


def rebuild_segmenter(name: str, config: Mapping[str, Any]) -> Any:
    """The network whose config `save_model` wrote, with initial weights.

    Raises:
        ModelError: a field is missing, or the sizes make no network.
    """
    try:
        return create_segmenter(name, **{field: config[field] for field in ("plan", "num_classes", "in_chans")})
    except KeyError as error:
        raise ModelError(f"the config of {name} has no {error.args[0]}") from error
