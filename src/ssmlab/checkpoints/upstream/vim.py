"""Vim, hustvl/Vim: `models_mamba.VisionMamba`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.checkpoints.fields import read
from ssmlab.core.errors import ModelError
from ssmlab.models.rules import Rule
from ssmlab.models.vision.vim import Vim, VimConfig

LICENSE = "Apache-2.0"

RULES: list[Rule] = []

# the original's arguments and our fields
FIELDS = {name: name for name in (
    "patch_size", "stride", "depth", "embed_dim", "d_state", "num_classes", "drop_rate", "drop_path_rate",
    "norm_epsilon", "rms_norm", "residual_in_fp32",
)} | {
    "img_size": "image_size", "channels": "in_chans", "bimamba_type": "scans", "if_divide_out": "divide_out",
    "if_abs_pos_embed": "pos_embed",
}  # fmt: skip

# what we have in one form only; whether the sum and the norm are fused changes nothing
ONLY = {
    "if_rope": (False,),
    "if_rope_residual": (False,),
    "if_bidirectional": (False,),
    "if_bimamba": (False,),
    "use_double_cls_token": (False,),
    "flip_img_sequences_ratio": (-1.0,),
    "init_layer_scale": (None,),
    "ssm_cfg": (None,),
    "fused_add_norm": (True, False),
}

DEFAULTS = {"num_classes": 1000, "if_cls_token": True, "use_middle_cls_token": True, "final_pool_type": "none"}


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments.

    Raises:
        ModelError: an argument that the original does not know, or a value that we do not have.
    """
    config = DEFAULTS | config
    with_token, middle, pool = (
        config.pop(name) for name in ("if_cls_token", "use_middle_cls_token", "final_pool_type")
    )
    problems = [f"{name}={config[name]!r}" for name in ONLY if name in config and config[name] not in ONLY[name]]
    problems += [] if with_token or pool == "mean" else [f"final_pool_type={pool!r} without a class token"]
    if problems:
        raise ModelError(f"Vim is not here with {', '.join(problems)}; the published weights need none of that")
    values = read("Vim", config, FIELDS, ignored=ONLY)
    class_token = "none" if not with_token else "middle" if middle else "first"
    return Vim(VimConfig(class_token=class_token, **values))
