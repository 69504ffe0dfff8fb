"""Weights as transformers has them: `MambaForCausalLM`, `Mamba2ForCausalLM` and `FalconMambaForCausalLM`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.fields import read, refuse, write
from ssmlab.models.language.state_spaces import REAL, limit
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Original, Rule

RULES = [Rule(r"backbone\.embeddings\.weight", "backbone.embedding.weight")]
INVERSE = [Rule(r"backbone\.embedding\.weight", "backbone.embeddings.weight")]

# the original's fields and ours; its classes read no others that change an output
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layer",
    "layer_norm_epsilon": "norm_eps",
    "residual_in_fp32": "residual_in_fp32",
    "tie_word_embeddings": "tie_embeddings",
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "expand": "expand",
    "use_bias": "bias",
    "use_conv_bias": "conv_bias",
}
RANK = {"time_step_rank": "dt_rank"}
FALCON_FIELDS = FIELDS | RANK | {"mixer_rms_eps": "mixer_norm_eps"}
MAMBA2_FIELDS = FIELDS | {"head_dim": "headdim", "n_groups": "ngroups", "time_step_limit": "dt_limit"}
# what the originals take where their configuration is silent
DEFAULTS = {"vocab_size": 50280, "d_model": 768, "n_layer": 32}
FALCON_DEFAULTS = DEFAULTS | {"mixer_norm_eps": 1e-6}
MAMBA2_DEFAULTS = {"vocab_size": 32768, "d_model": 4096, "n_layer": 64, "tie_embeddings": False, "ngroups": 8}
# what the layouts have no name for
FIXED = {"norm": "rms", "d_intermediate": 0, "attn_layers": ()}
MAMBA2_FIXED = FIXED | {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False}


def build_mamba(config: dict[str, Any]) -> nn.Module:
    """Our network for a config of Hugging Face.

    Raises:
        ModelError: another model, another activation than silu, or quantised weights.
    """
    check(config, "mamba")
    return create_model("mamba_lm", vocab_multiple=1, **DEFAULTS | read("config", config, FIELDS | RANK))


def build_falcon(config: dict[str, Any]) -> nn.Module:
    """As `build_mamba`, for FalconMamba: Mamba with norms in its blocks."""
    check(config, "falcon_mamba")
    return create_model("mamba_lm", vocab_multiple=1, **FALCON_DEFAULTS | read("config", config, FALCON_FIELDS))


def build_mamba2(config: dict[str, Any]) -> nn.Module:
    """As `build_mamba`, for Mamba-2.

    Raises:
        ModelError: besides, heads that do not make up the channels.
    """
    check(config, "mamba2")
    values = MAMBA2_DEFAULTS | read("config", config, MAMBA2_FIELDS)
    model = create_model("mamba2_lm", vocab_multiple=1, **values | {"dt_limit": limit(values.get("dt_limit"))})
    heads, own = config.get("num_heads", 128), model.config.block().nheads
    if heads != own:
        raise ModelError(f"num_heads={heads} does not fit the other sizes, which make {own} heads")
    return model


def check(config: dict[str, Any], model_type: str) -> None:
    """Refuse what our blocks do not have."""
    if config.get("model_type", model_type) != model_type:
        raise ModelError(f"the configuration is of {config['model_type']}, not of {model_type}")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ModelError(f"our blocks have no {config['hidden_act']}, only silu")
    if config.get("quantization_config"):
        raise ModelError("the weights are quantised, which we cannot read; take the model in float or bfloat16")


def export_mamba(config: Any) -> dict[str, Any]:
    """The config of Hugging Face for one of ours.

    Raises:
        ModelError: their class has no name for something in it; all of that is listed.
    """
    refuse("the layout of Hugging Face's Mamba", config, FIXED | REAL | {"mixer_norm_eps": None})
    own = write(config, FIELDS) | {"time_step_rank": config.block().dt_rank}
    return exported(config, "mamba", "MambaForCausalLM", own)


def export_falcon(config: Any) -> dict[str, Any]:
    """As `export_mamba`, for FalconMamba."""
    refuse("the layout of Hugging Face's FalconMamba", config, FIXED | REAL)
    own = write(config, FALCON_FIELDS) | {"time_step_rank": config.block().dt_rank}
    return exported(config, "falcon_mamba", "FalconMambaForCausalLM", own)


def export_mamba2(config: Any) -> dict[str, Any]:
    """As `export_mamba`, for Mamba-2."""
    refuse("the layout of Hugging Face's Mamba-2", config, MAMBA2_FIXED)
    own = write(config, MAMBA2_FIELDS) | {"num_heads": config.block().nheads}
    return exported(config, "mamba2", "Mamba2ForCausalLM", own)


def exported(config: Any, model_type: str, name: str, own: dict[str, Any]) -> dict[str, Any]:
    """A whole config: what every one begins with, `own`, and sizes that Hugging Face derives or does not round up."""
    inner = int(config.expand * config.d_model)
    if inner != config.expand * config.d_model or int(config.expand) != config.expand:
        raise ModelError(f"Hugging Face knows whole expansions only, got expand={config.expand}")
    sizes = {"vocab_size": config.padded_vocab, "intermediate_size": inner, "expand": int(config.expand)}
    return {"architectures": [name], "model_type": model_type, "hidden_act": "silu"} | own | sizes


ORIGINALS = {
    "mamba1_hf": Original(licence="Apache-2.0", build=build_mamba, rules=RULES, export=export_mamba, inverse=INVERSE),
    "mamba2_hf": Original(licence="Apache-2.0", build=build_mamba2, rules=RULES, export=export_mamba2, inverse=INVERSE),
    "falcon_mamba": Original(
        licence="TII Falcon-Mamba License 2.0",
        build=build_falcon,
        rules=[*RULES, Rule(r"(.+)\.x_proj\.weight", r"\1.x_proj.linear.weight")],
        export=export_falcon,
        inverse=[*INVERSE, Rule(r"(.+)\.x_proj\.linear\.weight", r"\1.x_proj.weight")],
    ),
}
