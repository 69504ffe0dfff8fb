"""Translation by language models: they read the source, a separator, and go on with the target.

Sizes are within 2 % of the parameters of `translation_transformer`'s, at 4,000 tokens (tiny), 8,000 (small) and 32,000.
"""

from __future__ import annotations

from typing import Any

from ssmlab.models.entry import Preset
from ssmlab.models.language import mamba_lm, transformer_lm
from ssmlab.models.language.language_model import LanguageConfig, LanguageModel
from ssmlab.models.language.mamba_lm import Mamba2LMConfig, MambaLMConfig
from ssmlab.models.language.transformer_lm import TransformerLMConfig

VOCABULARY = {"tiny": 4000, "small": 8000, "base": 32000, "paper": 32000}
MAMBA = {"tiny": (224, 9), "small": (272, 11), "base": (512, 26), "paper": (610, 24)}  # d_model, n_layer
MAMBA2 = {"tiny": (208, 11), "small": (256, 13), "base": (512, 27), "paper": (608, 25)}
HEADS = {"tiny": 32, "small": 32, "base": 64, "paper": 32}  # channels of a head of Mamba-2
DECODER = {  # d_model, n_layer, heads, channels of the MLP
    "tiny": (192, 7, 4, 512),
    "small": (256, 7, 4, 688),
    "base": (512, 14, 8, 1368),
    "paper": (576, 15, 9, 1504),
}
HYBRID = {  # d_model, n_layer, heads and channels of one in the attention in the middle and at the end
    "tiny": (208, 11, 4, 64),
    "small": (280, 11, 5, 56),
    "base": (512, 27, 8, 64),
    "paper": (624, 24, 13, 48),
}
STATE = {"d_state": 32}  # a Mamba-2 of 128 would hold eight times as much of every sentence


def _presets(name: str, config: type[LanguageConfig], sizes: dict[str, dict[str, Any]]) -> dict[str, Preset]:
    """The models of a family: of any size, which takes base's, and of every other."""
    values = {size: {"vocab_size": VOCABULARY.get(size, 61)} | own for size, own in sizes.items()}
    whole = {name: Preset(LanguageModel, config, values["base"])}
    return whole | {f"{name}_{size}": Preset(LanguageModel, config, own) for size, own in values.items()}


CONFIGS: dict[str, Preset] = {
    **_presets(
        "translation_mamba",
        MambaLMConfig,
        {size: {"d_model": d, "n_layer": n} for size, (d, n) in MAMBA.items()} | {"test": mamba_lm.TEST},
    ),
    **_presets(
        "translation_mamba2",
        Mamba2LMConfig,
        {
            **{size: {"d_model": d, "n_layer": n, "headdim": HEADS[size]} | STATE for size, (d, n) in MAMBA2.items()},
            "test": mamba_lm.TEST | {"headdim": 8},
        },
    ),
    **_presets(
        "translation_decoder",
        TransformerLMConfig,
        {
            **{
                size: {"d_model": d, "n_layer": n, "attn_heads": heads, "d_intermediate": hidden, "mlp_multiple": 8}
                for size, (d, n, heads, hidden) in DECODER.items()
            },
            "test": transformer_lm.TEST,
        },
    ),
    **_presets(
        "translation_hybrid",
        MambaLMConfig,
        {
            **{
                size: {"d_model": d, "n_layer": n, "attn_heads": heads, "attn_head_dim": width}
                | {"attn_layers": (n // 2 - 1, n - 1)}
                for size, (d, n, heads, width) in HYBRID.items()
            },
            "test": mamba_lm.TEST | {"n_layer": 4, "attn_layers": (1, 3), "attn_heads": 2},
        },
    ),
}
