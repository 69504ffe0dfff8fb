"""The opponent: a Transformer as it is built today, with the interface of the other language models."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ssmlab.models.entry import Preset
from ssmlab.models.language.language_model import LanguageConfig, LanguageModel


@dataclass(frozen=True, kw_only=True)
class TransformerLMConfig(LanguageConfig):
    """Attention and SwiGLU in every layer, rotary positions, RMSNorm before each ("Transformer++").

    Source: Gu & Dao 2023 (arXiv:2312.00752), appendix E.2.1; sizes from table 12 there. Fields as `LanguageConfig`.
    """

    n_layer: int = 12
    d_intermediate: int = 2048

    def block(self) -> nn.Module:
        """An attention block."""
        return self.attention()


def _size(d_model: int, n_layer: int, heads: int) -> dict[str, int]:
    return {"d_model": d_model, "n_layer": n_layer, "attn_heads": heads, "d_intermediate": 8 * d_model // 3}


SIZES = {
    "130m": _size(768, 12, 12),
    "370m": _size(1024, 24, 16),
    "790m": _size(1536, 24, 16),
    "1.4b": _size(2048, 24, 32),
    "2.8b": _size(2560, 32, 32),
}
TEST = {"vocab_size": 61, "d_model": 16, "n_layer": 2, "attn_heads": 2, "d_intermediate": 24, "mlp_multiple": 8}
CONFIGS: dict[str, Preset] = {
    "transformer_lm": Preset(LanguageModel, TransformerLMConfig, {}),
    **{f"transformer_lm_{size}": Preset(LanguageModel, TransformerLMConfig, values) for size, values in SIZES.items()},
    "transformer_lm_test": Preset(LanguageModel, TransformerLMConfig, TEST),
}
