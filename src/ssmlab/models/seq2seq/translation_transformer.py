"""The opponent: the Transformer of Marian, encoder and decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ssmlab.models.entry import Preset
from ssmlab.models.seq2seq.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from ssmlab.nn import Attention, CrossAttention, FeedForward, SelfAttention


@dataclass(frozen=True, kw_only=True)
class TranslationTransformerConfig(EncoderDecoderConfig):
    """The Transformer as Marian trains it, and as transformers' `MarianMTModel` holds it.

    Norms after the sums, sinusoidal positions of any length, one embedding for source, target and output, a bias on
    the logits. As `EncoderDecoderConfig`, and:

    heads, encoder_heads: of the decoder's attention, and of the encoder's; None: as many.
    d_intermediate, d_encoder_intermediate: hidden channels of the decoder's layers at every position, and of the
        encoder's; None: as many.
    activation: between these layers, of `nn.mlp.ACTIVATIONS`.

    Source: Vaswani et al. 2017 (arXiv:1706.03762); Junczys-Dowmunt et al. 2018 (Marian, arXiv:1804.00344).
    """

    encoder_heads: int | None = None
    d_intermediate: int = 2048
    d_encoder_intermediate: int | None = None
    activation: str = "relu"
    norm: str = "layer"
    post_norm: bool = True
    scale_embedding: bool = True
    logits_bias: bool = True
    positions: ClassVar[bool] = True

    def encoder_blocks(self) -> dict[str, nn.Module]:
        """Attention over the whole source, and two layers at every position."""
        attention = SelfAttention(self.d_model, self.encoder_heads or self.heads, attn_drop=self.dropout_attention)
        return {"mixer": attention, "mlp": self._mlp(self.d_encoder_intermediate or self.d_intermediate)}

    def decoder_blocks(self) -> dict[str, nn.Module]:
        """Causal attention, attention to the source, and two layers at every position."""
        attention = Attention(
            self.d_model,
            self.heads,
            rotary_dim=0,
            qkv_bias=True,
            out_bias=True,
            attn_dropout=self.dropout_attention,
        )
        cross = CrossAttention(self.d_model, self.heads, attn_dropout=self.dropout_attention)
        return {"mixer": attention, "cross": cross, "mlp": self._mlp(self.d_intermediate)}

    def _mlp(self, hidden: int) -> nn.Module:
        return FeedForward(self.d_model, hidden, activation=self.activation, dropout=self.dropout_inner)


def _size(d_model: int, layers: int, heads: int) -> dict[str, int]:
    sizes = {"d_model": d_model, "n_encoder_layer": layers, "n_layer": layers, "heads": heads}
    return sizes | {"d_intermediate": 4 * d_model}


SIZES = {
    "tiny": _size(192, 3, 4) | {"vocab_size": 4000},
    "small": _size(256, 3, 4) | {"vocab_size": 8000},
    "base": _size(512, 6, 8) | {"vocab_size": 32000},
    "paper": _size(576, 6, 9) | {"vocab_size": 32000, "d_intermediate": 2496},
}
TEST = {"vocab_size": 61, "d_model": 16, "n_encoder_layer": 2, "n_layer": 2, "heads": 2, "d_intermediate": 24}
CONFIGS: dict[str, Preset] = {
    "translation_transformer": Preset(EncoderDecoder, TranslationTransformerConfig, {}),
    **{
        f"translation_transformer_{size}": Preset(EncoderDecoder, TranslationTransformerConfig, values)
        for size, values in SIZES.items()
    },
    "translation_transformer_test": Preset(EncoderDecoder, TranslationTransformerConfig, TEST),
}
