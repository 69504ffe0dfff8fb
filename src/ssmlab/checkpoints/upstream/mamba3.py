"""Mamba-3, state-spaces/mamba: `MambaLMHeadModel` with the layer Mamba3, and the block `mamba_ssm.modules.mamba3`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.checkpoints.fields import read
from ssmlab.checkpoints.upstream.mamba1 import model_config, model_values
from ssmlab.core.errors import ModelError
from ssmlab.models.language.names import create_language_model
from ssmlab.models.rules import Rule
from ssmlab.nn import Mamba3

LICENSE = "Apache-2.0"
RULES: list[Rule] = []  # our names are the original's
INVERSE: list[Rule] = []

SIZES = {name: name for name in ("d_state", "expand", "headdim", "ngroups", "rope_fraction", "A_floor")}
BLOCK = SIZES | {"is_outproj_norm": "outproj_norm"}
MIMO = ("is_mimo", "mimo_rank")
# initial values, the choice between kernels of the original, and the size of its chunks: ours is measured for ours
IGNORED = ("layer", "dt_min", "dt_max", "dt_init_floor", "fuse_pregate_headwise_norm", "chunk_size", "dropout")


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments: those of its `MambaConfig`, or of the block alone.

    The original's activation of A changed once; nothing in a configuration says which one weights were trained with.
    They get the newer one, "heavy_tail".

    Raises:
        ModelError: an argument that the original does not know, or one whose effect we do not have.
    """
    if "vocab_size" not in config and "ssm_cfg" not in config:
        own = {name: value for name, value in config.items() if name not in ("d_model", *MIMO)}
        return Mamba3(config["d_model"], **read("Mamba3", own, BLOCK, IGNORED), **_rank(config))
    layer = config.get("ssm_cfg", {}).get("layer", "Mamba1")
    if layer != "Mamba3":
        raise ModelError(f"the configuration is of {layer} layers, not of Mamba3; choose the family of that name")
    block = config["ssm_cfg"]
    values = model_values(config, BLOCK, (*IGNORED, *MIMO))
    return create_language_model("mamba3_lm", **values | _rank(block))


def export(config: Any) -> dict[str, Any]:
    """The original's arguments for a config of ours.

    Raises:
        ModelError: the original has no name for something in it; all of that is listed.
    """
    found = model_config(config, BLOCK, {"A_activation": "heavy_tail"}, "Mamba3")
    if config.mimo_rank is not None:
        found["ssm_cfg"] |= {"is_mimo": True, "mimo_rank": config.mimo_rank}
    return found


def _rank(block: dict[str, Any]) -> dict[str, int]:
    """The original's rank counts only where it is told to use it."""
    return {"mimo_rank": block.get("mimo_rank", 4)} if block.get("is_mimo", False) else {}
