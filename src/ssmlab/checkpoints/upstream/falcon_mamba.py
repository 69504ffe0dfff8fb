"""FalconMamba language models as Hugging Face has them: `transformers.FalconMambaForCausalLM`, Mamba with norms."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.checkpoints.fields import read, refuse, write
from ssmlab.checkpoints.upstream import mamba1_hf
from ssmlab.checkpoints.upstream.mamba1 import REAL
from ssmlab.models.language.names import create_language_model
from ssmlab.models.rules import Rule

LICENSE = "TII Falcon-Mamba License 2.0"
RULES = [*mamba1_hf.RULES, Rule(r"(.+)\.x_proj\.weight", r"\1.x_proj.linear.weight")]
INVERSE = [*mamba1_hf.INVERSE, Rule(r"(.+)\.x_proj\.linear\.weight", r"\1.x_proj.weight")]
FIELDS = mamba1_hf.FIELDS | mamba1_hf.RANK | {"mixer_rms_eps": "mixer_norm_eps"}
DEFAULTS = mamba1_hf.DEFAULTS | {"mixer_norm_eps": 1e-6}


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for a config of Hugging Face.

    Raises:
        ModelError: another activation than silu, or quantised weights.
    """
    mamba1_hf.check(config, "falcon_mamba")
    return create_language_model("mamba_lm", vocab_multiple=1, **DEFAULTS | read("config", config, FIELDS))


def export(config: Any) -> dict[str, Any]:
    """The config of Hugging Face for one of ours.

    Raises:
        ModelError: their class has no name for something in it; all of that is listed.
    """
    refuse("the layout of Hugging Face's FalconMamba", config, mamba1_hf.FIXED | REAL)
    own = write(config, FIELDS) | {"time_step_rank": config.block().dt_rank}
    return mamba1_hf.header("falcon_mamba", "FalconMambaForCausalLM") | own | mamba1_hf.sizes(config)
