"""Mamba-2 language models as Hugging Face has them: `transformers.Mamba2ForCausalLM`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.checkpoints.fields import read, refuse, write
from ssmlab.checkpoints.upstream import mamba1_hf
from ssmlab.checkpoints.upstream.mamba1_hf import INVERSE, LICENSE, RULES, check, header, sizes
from ssmlab.checkpoints.upstream.mamba2 import limit
from ssmlab.core.errors import ModelError
from ssmlab.models.language.names import create_language_model

__all__ = ["INVERSE", "LICENSE", "RULES", "build", "export"]

FIELDS = mamba1_hf.FIELDS | {"head_dim": "headdim", "n_groups": "ngroups", "time_step_limit": "dt_limit"}
DEFAULTS = {"vocab_size": 32768, "d_model": 4096, "n_layer": 64, "tie_embeddings": False, "ngroups": 8}
# what the layout has no name for
FIXED = mamba1_hf.FIXED | {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False}


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for a config of Hugging Face.

    Raises:
        ModelError: another activation than silu, quantised weights, or heads that do not make up the channels.
    """
    check(config, "mamba2")
    values = DEFAULTS | read("config", config, FIELDS)
    model = create_language_model("mamba2_lm", vocab_multiple=1, **values | {"dt_limit": limit(values.get("dt_limit"))})
    heads, own = config.get("num_heads", 128), model.config.block().nheads
    if heads != own:
        raise ModelError(f"num_heads={heads} does not fit the other sizes, which make {own} heads")
    return model


def export(config: Any) -> dict[str, Any]:
    """The config of Hugging Face for one of ours.

    Raises:
        ModelError: their class has no name for something in it; all of that is listed.
    """
    refuse("the layout of Hugging Face's Mamba-2", config, FIXED)
    heads = {"num_heads": config.block().nheads}
    return header("mamba2", "Mamba2ForCausalLM") | write(config, FIELDS) | heads | sizes(config)
