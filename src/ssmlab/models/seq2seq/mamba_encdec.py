"""Mamba as encoder and decoder: the encoder reads both ways, the decoder looks at the source by attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ssmlab.models.entry import Preset
from ssmlab.models.seq2seq.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from ssmlab.nn import BiMamba, CrossAttention, GatedMLP, Mamba


@dataclass(frozen=True, kw_only=True)
class MambaEncoderDecoderConfig(EncoderDecoderConfig):
    """Bidirectional Mamba over the source; in the decoder Mamba, attention to the source, and a gated MLP.

    The decoder is that of Pitorro et al. 2024 (arXiv:2407.05489); their encoder is causal, this one is not. As
    `EncoderDecoderConfig`, the arguments of `nn.Mamba`, and:

    d_intermediate: hidden channels of the decoder's MLP, rounded up to a multiple of `mlp_multiple`.
    """

    d_intermediate: int = 1024
    mlp_multiple: int = 8
    d_state: int = 16
    d_conv: int = 4
    expand: float = 2
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def encoder_blocks(self) -> dict[str, nn.Module]:
        """Mamba in both directions."""
        return {"mixer": BiMamba(self.d_model, **self._block())}

    def decoder_blocks(self) -> dict[str, nn.Module]:
        """Mamba, attention to the source, a gated MLP."""
        cross = CrossAttention(self.d_model, self.heads, bias=False, attn_dropout=self.dropout_attention)
        mlp = GatedMLP(self.d_model, self.d_intermediate, multiple_of=self.mlp_multiple, dropout=self.dropout_inner)
        return {"mixer": Mamba(self.d_model, **self._block()), "cross": cross, "mlp": mlp}

    def _block(self) -> dict[str, Any]:
        names = ("d_state", "d_conv", "expand", "dt_min", "dt_max")
        return {name: getattr(self, name) for name in names} | {"inner_dropout": self.dropout_inner}


SIZES = {  # d_model, layers of the encoder and of the decoder, heads, channels of the MLP, tokens
    "tiny": (192, 4, 3, 4, 448, 4000),
    "small": (256, 4, 3, 4, 656, 8000),
    "base": (512, 8, 6, 8, 1424, 32000),
    "paper": (576, 8, 7, 9, 1312, 32000),
}
FIELDS = ("d_model", "n_encoder_layer", "n_layer", "heads", "d_intermediate", "vocab_size")
TEST = {"d_model": 16, "n_encoder_layer": 2, "n_layer": 2, "heads": 2, "d_intermediate": 24, "vocab_size": 61}
CONFIGS: dict[str, Preset] = {
    "translation_mamba_encdec": Preset(EncoderDecoder, MambaEncoderDecoderConfig, {}),
    **{
        f"translation_mamba_encdec_{size}": Preset(
            EncoderDecoder, MambaEncoderDecoderConfig, dict(zip(FIELDS, values, strict=True))
        )
        for size, values in SIZES.items()
    },
    "translation_mamba_encdec_test": Preset(EncoderDecoder, MambaEncoderDecoderConfig, TEST | {"d_state": 4}),
}
