"""Mamba-2 language models, also with attention, state-spaces/mamba: `MambaLMHeadModel` with the layer Mamba2."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ssmlab.checkpoints.upstream.mamba1 import model_config, model_values
from ssmlab.core.errors import ModelError
from ssmlab.models.language.names import create_language_model
from ssmlab.models.rules import Rule

LICENSE = "Apache-2.0"
RULES: list[Rule] = []  # our names are the original's
INVERSE: list[Rule] = []

BLOCK = {
    name: name
    for name in ("d_state", "d_conv", "expand", "headdim", "d_ssm", "ngroups", "D_has_hdim", "rmsnorm",
                 "norm_before_gate", "dt_limit", "conv_bias", "bias")
}  # fmt: skip
# initial values, the choice between kernels of the original, and the size of its chunks: ours is measured for ours
IGNORED = ("layer", "conv_init", "A_init_range", "dt_min", "dt_max", "dt_init_floor", "use_mem_eff_path", "chunk_size")


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments, those of its `MambaConfig`.

    Raises:
        ModelError: an argument that the original does not know, or one whose effect we do not have.
    """
    layer = config.get("ssm_cfg", {}).get("layer", "Mamba1")
    if layer != "Mamba2":
        raise ModelError(f"the configuration is of {layer} layers, not of Mamba2; choose the family of that name")
    values = model_values(config, BLOCK, IGNORED)
    return create_language_model("mamba2_lm", **values | {"dt_limit": limit(values.get("dt_limit"))})


def export(config: Any) -> dict[str, Any]:
    """The original's arguments for a config of ours.

    Raises:
        ModelError: the original has no name for something in it; all of that is listed.
    """
    return model_config(config, BLOCK, {}, "Mamba2")


def limit(values: Any) -> tuple[float, float] | None:
    """Our limits of the step size for the original's, whose default is a pair that limits nothing."""
    if values is None:
        return None
    # files of Hugging Face write infinity as {"__float__": "Infinity"}
    low, high = (float(v["__float__"] if isinstance(v, dict) else v) for v in values)
    return None if low <= 0 and high == math.inf else (low, high)
