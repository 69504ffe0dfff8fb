"""Mamba language models as Hugging Face has them: `transformers.MambaForCausalLM`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.checkpoints.fields import read, refuse, write
from ssmlab.checkpoints.upstream.mamba1 import REAL
from ssmlab.core.errors import ModelError
from ssmlab.models.language.names import create_language_model
from ssmlab.models.rules import Rule

LICENSE = "Apache-2.0"
RULES = [Rule(r"backbone\.embeddings\.weight", "backbone.embedding.weight")]
INVERSE = [Rule(r"backbone\.embedding\.weight", "backbone.embeddings.weight")]

# the original's fields and ours; its class reads no others that change an output
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
DEFAULTS = {"vocab_size": 50280, "d_model": 768, "n_layer": 32}
# what the layout has no name for
FIXED = {"norm": "rms", "d_intermediate": 0, "attn_layers": ()}


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for a config of Hugging Face.

    Raises:
        ModelError: another activation than silu, or quantised weights.
    """
    check(config, "mamba")
    return create_language_model("mamba_lm", vocab_multiple=1, **DEFAULTS | read("config", config, FIELDS | RANK))


def export(config: Any) -> dict[str, Any]:
    """The config of Hugging Face for one of ours.

    Raises:
        ModelError: their class has no name for something in it; all of that is listed.
    """
    refuse("the layout of Hugging Face's Mamba", config, FIXED | REAL | {"mixer_norm_eps": None})
    own = write(config, FIELDS) | {"time_step_rank": config.block().dt_rank}
    return header("mamba", "MambaForCausalLM") | own | sizes(config)


def check(config: dict[str, Any], model_type: str) -> None:
    """Refuse what our blocks do not have."""
    if config.get("model_type", model_type) != model_type:
        raise ModelError(f"the configuration is of {config['model_type']}, not of {model_type}")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ModelError(f"our blocks have no {config['hidden_act']}, only silu")
    if config.get("quantization_config"):
        raise ModelError("the weights are quantised, which we cannot read; take the model in float or bfloat16")


def header(model_type: str, name: str) -> dict[str, Any]:
    """What every config of Hugging Face begins with."""
    return {"architectures": [name], "model_type": model_type, "hidden_act": "silu"}


def sizes(config: Any) -> dict[str, Any]:
    """Sizes that Hugging Face derives or does not round up."""
    inner = int(config.expand * config.d_model)
    if inner != config.expand * config.d_model or int(config.expand) != config.expand:
        raise ModelError(f"Hugging Face knows whole expansions only, got expand={config.expand}")
    return {"vocab_size": config.padded_vocab, "intermediate_size": inner, "expand": int(config.expand)}
