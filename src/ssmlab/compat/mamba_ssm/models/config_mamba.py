"""The sizes of a language model, as config.json has them."""

from dataclasses import dataclass, field

__all__ = ["MambaConfig"]


@dataclass
class MambaConfig:
    """What `MambaLMHeadModel` is made of.

    Args:
        d_intermediate: channels of the gated layer after every mixer; 0 leaves it out.
        ssm_cfg: arguments of the mixers; "layer" is "Mamba1" (the default), "Mamba2" or "Mamba3".
        attn_layer_idx: layers whose mixer is `MHA`, with the arguments `attn_cfg`.
        pad_vocab_size_multiple: the vocabulary is rounded up to a multiple of it.
    """

    d_model: int = 2560
    d_intermediate: int = 0
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict = field(default_factory=dict)
    attn_layer_idx: list = field(default_factory=list)
    attn_cfg: dict = field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True
