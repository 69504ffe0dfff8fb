"""Mamba language models, state-spaces/mamba: `mamba_ssm.models.mixer_seq_simple.MambaLMHeadModel`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.checkpoints.fields import read, refuse, write
from ssmlab.core.errors import ModelError
from ssmlab.models.language.names import create_language_model
from ssmlab.models.rules import Rule

LICENSE = "Apache-2.0"
RULES: list[Rule] = []  # our names are the original's
INVERSE: list[Rule] = []

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
BLOCK = {name: name for name in ("d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias")}
# initial values, and the choice between kernels of the original
IGNORED = ("layer", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path")

# what the original takes where its configuration is silent
MODEL_DEFAULTS = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "vocab_multiple": 8, "padded_logits": True}
ATTENTION_DEFAULTS = {"attn_rotary": 0, "attn_qkv_bias": True, "attn_out_bias": True}
# what of the original's attention is not in ours, and the value that ours stands for
ATTENTION_FIXED = {"causal": True, "mlp_dim": 0, "softmax_scale": None, "rotary_emb_interleaved": False}
# and the other way round
FIXED = {"norm_eps": 1e-5}
REAL = {"init": "real"}  # no layout holds a complex A


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments, those of its `MambaConfig`.

    Raises:
        ModelError: an argument that the original does not know, or one whose effect we do not have.
    """
    layer = config.get("ssm_cfg", {}).get("layer", "Mamba1")
    if layer != "Mamba1":
        raise ModelError(f"the configuration is of {layer} layers, not of Mamba1; choose the family of that name")
    return create_language_model("mamba_lm", **model_values(config, BLOCK, IGNORED))


def export(config: Any) -> dict[str, Any]:
    """The original's arguments for a config of ours.

    Raises:
        ModelError: the original has no name for something in it; all of that is listed.
    """
    return model_config(config, BLOCK, {"mixer_norm_eps": None} | REAL, "Mamba1")


def model_values(config: dict[str, Any], block: dict[str, str], ignored: tuple[str, ...]) -> dict[str, Any]:
    """Fields of ours from the original's `MambaConfig`, with either layer."""
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


def model_config(config: Any, block: dict[str, str], fixed: dict[str, Any], layer: str) -> dict[str, Any]:
    """The original's `MambaConfig` for a config of ours, with either layer."""
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
