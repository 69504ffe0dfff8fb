"""Weights of state-spaces/mamba: `mamba_ssm.models.mixer_seq_simple.MambaLMHeadModel`, with each of its layers.

Parameter names are ours already. Every layer has the arguments of the model in common, and those of its block.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.fields import read, refuse, write
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Original
from ssmlab.nn import Mamba3

LICENCE = "Apache-2.0"

# the original's arguments and our fields
MODEL = {
    "d_model": "d_model",
    "d_intermediate": "d_intermediate",
    "n_layer": "n_layer",
    "vocab_size": "vocab_size",
    "pad_vocab_size_multiple": "vocab_multiple",
    "residual_in_fp32": "residual_in_fp32",
    "tie_embeddings": "tie_embeddings",
    "attn_layer_idx": "attn_layers",
}
ATTENTION = {
    "num_heads": "attn_heads",
    "num_heads_kv": "attn_kv_heads",
    "head_dim": "attn_head_dim",
    "d_conv": "attn_conv",
    "rotary_emb_dim": "attn_rotary",
    "rotary_emb_base": "attn_rope_base",
    "qkv_proj_bias": "attn_qkv_bias",
    "out_proj_bias": "attn_out_bias",
}
MAMBA1 = {name: name for name in ("d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias")}
MAMBA2 = {
    name: name
    for name in ("d_state", "d_conv", "expand", "headdim", "d_ssm", "ngroups", "D_has_hdim", "rmsnorm",
                 "norm_before_gate", "dt_limit", "conv_bias", "bias")
}  # fmt: skip
MAMBA3 = {name: name for name in ("d_state", "expand", "headdim", "ngroups", "rope_fraction", "A_floor")}
MAMBA3 |= {"is_outproj_norm": "outproj_norm"}
MIMO = ("is_mimo", "mimo_rank")
# initial values, the choice between kernels of the original, and the size of its chunks: ours is measured for ours
IGNORED1 = ("layer", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path")
IGNORED2 = ("layer", "conv_init", "A_init_range", "dt_min", "dt_max", "dt_init_floor", "use_mem_eff_path", "chunk_size")
IGNORED3 = ("layer", "dt_min", "dt_max", "dt_init_floor", "fuse_pregate_headwise_norm", "chunk_size", "dropout")

# what the original takes where its configuration is silent
MODEL_DEFAULTS = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "vocab_multiple": 8, "padded_logits": True}
ATTENTION_DEFAULTS = {"attn_rotary": 0, "attn_qkv_bias": True, "attn_out_bias": True}
# what of the original's attention is not in ours, and the value that ours stands for
ATTENTION_FIXED = {"causal": True, "mlp_dim": 0, "softmax_scale": None, "rotary_emb_interleaved": False}
# and the other way round
FIXED = {"norm_eps": 1e-5}
REAL = {"init": "real"}  # no layout holds a complex A


def build_mamba1(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments, those of its `MambaConfig`.

    Raises:
        ModelError: an argument that the original does not know, or one whose effect we do not have.
    """
    return create_model("mamba_lm", **model_values(config, MAMBA1, IGNORED1, "Mamba1"))


def build_mamba2(config: dict[str, Any]) -> nn.Module:
    """As `build_mamba1`, with layers of Mamba-2."""
    values = model_values(config, MAMBA2, IGNORED2, "Mamba2")
    return create_model("mamba2_lm", **values | {"dt_limit": limit(values.get("dt_limit"))})


def build_mamba3(config: dict[str, Any]) -> nn.Module:
    """As `build_mamba1`, with layers of Mamba-3, or the block `mamba_ssm.modules.mamba3` alone for its arguments.

    The original's activation of A changed once; nothing in a configuration says which one weights were trained with.
    They get the newer one, "heavy_tail".
    """
    alone = "vocab_size" not in config and "ssm_cfg" not in config
    block = config if alone else config.get("ssm_cfg", {})
    rank = {"mimo_rank": block.get("mimo_rank", 4)} if block.get("is_mimo", False) else {}  # else it does not count
    if alone:
        own = {name: value for name, value in config.items() if name not in ("d_model", *MIMO)}
        return Mamba3(config["d_model"], **read("Mamba3", own, MAMBA3, IGNORED3), **rank)
    return create_model("mamba3_lm", **model_values(config, MAMBA3, (*IGNORED3, *MIMO), "Mamba3") | rank)


def limit(values: Any) -> tuple[float, float] | None:
    """Our limits of the step size for the original's, whose default is a pair that limits nothing."""
    if values is None:
        return None
    # files of Hugging Face write infinity as {"__float__": "Infinity"}
    low, high = (float(v["__float__"] if isinstance(v, dict) else v) for v in values)
    return None if low <= 0 and high == math.inf else (low, high)


def model_values(config: dict[str, Any], block: dict[str, str], ignored: tuple[str, ...], layer: str) -> dict[str, Any]:
    """Fields of ours from the original's `MambaConfig`, with layers of one kind.

    Raises:
        ModelError: other layers, an argument that the original does not know, or one whose effect we do not have.
    """
    own = config.get("ssm_cfg", {}).get("layer", "Mamba1")
    if own != layer:
        raise ModelError(f"the configuration is of {own} layers, not of {layer}; choose the family of that name")
    model = {name: value for name, value in config.items() if name not in ("ssm_cfg", "attn_cfg", "rms_norm")}
    values = MODEL_DEFAULTS | {"norm": "rms" if config.get("rms_norm", True) else "layer"}
    values |= read("MambaConfig", model, MODEL, ("fused_add_norm",))
    values |= read("ssm_cfg", config.get("ssm_cfg", {}), block, ignored)
    if not values.get("attn_layers"):
        return values
    attention = {"causal": False} | config.get("attn_cfg", {})
    for name, value in ATTENTION_FIXED.items():
        if attention.get(name, value) != value:
            raise ModelError(f"attn_cfg: our attention has no {name}={attention[name]!r}, only {value!r}")
    return values | ATTENTION_DEFAULTS | read("attn_cfg", attention, ATTENTION, tuple(ATTENTION_FIXED))


def export_mamba1(config: Any) -> dict[str, Any]:
    """The original's arguments for a config of ours.

    Raises:
        ModelError: the original has no name for something in it; all of that is listed.
    """
    return model_config(config, MAMBA1, {"mixer_norm_eps": None} | REAL, "Mamba1")


def export_mamba2(config: Any) -> dict[str, Any]:
    """As `export_mamba1`, with layers of Mamba-2."""
    return model_config(config, MAMBA2, {}, "Mamba2")


def export_mamba3(config: Any) -> dict[str, Any]:
    """As `export_mamba1`, with layers of Mamba-3."""
    found = model_config(config, MAMBA3, {"A_activation": "heavy_tail"}, "Mamba3")
    if config.mimo_rank is not None:
        found["ssm_cfg"] |= {"is_mimo": True, "mimo_rank": config.mimo_rank}
    return found


def model_config(config: Any, block: dict[str, str], fixed: dict[str, Any], layer: str) -> dict[str, Any]:
    """The original's `MambaConfig` for a config of ours, with layers of one kind.

    Raises:
        ModelError: the original has no name for something in it; all of that is listed.
    """
    if config.d_intermediate:
        fixed = fixed | {"mlp_multiple": 128}
    refuse("the layout of state-spaces/mamba", config, FIXED | fixed)
    attention = {}
    if config.attn_layers:
        attention = {"rotary_emb_dim": config.attention().rotary_dim} | write(config, ATTENTION) | {"causal": True}
    return {
        **write(config, MODEL),
        "ssm_cfg": {"layer": layer, **write(config, block)},
        "attn_cfg": attention,
        "rms_norm": config.norm == "rms",
        "fused_add_norm": True,
    }


ORIGINALS = {
    "mamba1": Original(licence=LICENCE, build=build_mamba1, export=export_mamba1),
    "mamba2": Original(licence=LICENCE, build=build_mamba2, export=export_mamba2),
    "mamba3": Original(licence=LICENCE, build=build_mamba3, export=export_mamba3),
}
