"""Language models of Mamba and Mamba-2 layers, with attention and gated MLPs in between where requested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.models.entry import Preset
from ssmlab.models.language.language_model import LanguageConfig, LanguageModel
from ssmlab.nn import Mamba, Mamba2
from ssmlab.ops.ssd import CHUNK_SIZE


@dataclass(frozen=True, kw_only=True)
class MambaLMConfig(LanguageConfig):
    """Mamba layers. As `LanguageConfig`, the arguments of `nn.Mamba`, and:

    mixer_norm_eps: where given, dt, B and C are each divided by their root mean square, as FalconMamba does.
    """

    d_state: int = 16
    d_conv: int = 4
    expand: float = 2
    dt_rank: int | str = "auto"
    conv_bias: bool = True
    bias: bool = False
    init: str = "real"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    mixer_norm_eps: float | None = None

    def block(self) -> nn.Module:
        """A Mamba block."""
        block: Any = Mamba(
            self.d_model,
            self.d_state,
            self.d_conv,
            self.expand,
            self.dt_rank,
            conv_bias=self.conv_bias,
            bias=self.bias,
            init=self.init,
            dt_min=self.dt_min,
            dt_max=self.dt_max,
            inner_dropout=self.dropout_inner,
        )
        if self.mixer_norm_eps is not None:
            block.x_proj = NormedParts(block.x_proj, (block.dt_rank, self.d_state, self.d_state), self.mixer_norm_eps)
        return block


@dataclass(frozen=True, kw_only=True)
class Mamba2LMConfig(LanguageConfig):
    """Mamba-2 layers. As `LanguageConfig`, and the arguments of `nn.Mamba2`."""

    vocab_multiple: int = 16
    d_state: int = 128
    d_conv: int = 4
    expand: float = 2
    headdim: int = 64
    d_ssm: int | None = None
    ngroups: int = 1
    D_has_hdim: bool = False
    rmsnorm: bool = True
    norm_before_gate: bool = False
    dt_limit: tuple[float, float] | None = None
    conv_bias: bool = True
    bias: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    chunk_size: int = CHUNK_SIZE

    def __post_init__(self):
        if self.dt_limit is not None:
            object.__setattr__(self, "dt_limit", tuple(self.dt_limit))  # a list, where it was read from a file
        super().__post_init__()

    def block(self) -> nn.Module:
        """A Mamba-2 block; its norm has the eps of the layers' norms."""
        return Mamba2(
            self.d_model,
            self.d_state,
            self.d_conv,
            self.expand,
            self.headdim,
            d_ssm=self.d_ssm,
            ngroups=self.ngroups,
            D_has_hdim=self.D_has_hdim,
            rmsnorm=self.rmsnorm,
            norm_before_gate=self.norm_before_gate,
            norm_eps=self.norm_eps,
            dt_limit=self.dt_limit,
            conv_bias=self.conv_bias,
            bias=self.bias,
            dt_min=self.dt_min,
            dt_max=self.dt_max,
            inner_dropout=self.dropout_inner,
            chunk_size=self.chunk_size,
        )


class NormedParts(nn.Module):
    """A linear layer, and its output's parts each divided by its root mean square.

    Args:
        linear: the layer.
        parts: channels of the parts, in order.
        eps: added to the mean square.
    """

    def __init__(self, linear: nn.Module, parts: tuple[int, ...], eps: float):
        super().__init__()
        self.linear, self.parts, self.eps = linear, parts, eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> (..., sum of the parts)."""
        parts = self.linear(x).split(self.parts, dim=-1)
        return torch.cat([F.rms_norm(part, part.shape[-1:], eps=self.eps) for part in parts], dim=-1)


SIZES = {
    "130m": {"d_model": 768, "n_layer": 24},
    "370m": {"d_model": 1024, "n_layer": 48},
    "790m": {"d_model": 1536, "n_layer": 48},
    "1.4b": {"d_model": 2048, "n_layer": 48},
    "2.8b": {"d_model": 2560, "n_layer": 64},
}
PUBLISHED = {"padded_logits": True}
SIZES2 = dict(zip(("130m", "370m", "780m", "1.3b", "2.7b"), SIZES.values(), strict=True))
TEST = {"vocab_size": 61, "d_model": 16, "n_layer": 2, "d_state": 4}
HYBRID = {
    "attn_layers": (9, 18, 27, 36, 45, 56),
    "attn_heads": 30,
    "attn_head_dim": 128,
    "attn_conv": 4,
    "attn_rotary": 64,
}
CONFIGS: dict[str, Preset] = {
    "mamba_lm": Preset(LanguageModel, MambaLMConfig, {}),
    **{f"mamba_lm_{size}": Preset(LanguageModel, MambaLMConfig, values | PUBLISHED) for size, values in SIZES.items()},
    "mamba_lm_test": Preset(LanguageModel, MambaLMConfig, TEST),
    "mamba2_lm": Preset(LanguageModel, Mamba2LMConfig, {}),
    **{
        f"mamba2_lm_{size}": Preset(LanguageModel, Mamba2LMConfig, values | PUBLISHED)
        for size, values in SIZES2.items()
    },
    "mamba2_attention_lm_2.7b": Preset(LanguageModel, Mamba2LMConfig, SIZES2["2.7b"] | HYBRID | PUBLISHED),
    "mamba2_lm_test": Preset(LanguageModel, Mamba2LMConfig, TEST | {"headdim": 8}),
    "mamba2_attention_lm_test": Preset(
        LanguageModel,
        Mamba2LMConfig,
        TEST | {"headdim": 8, "n_layer": 3, "attn_layers": (1,), "attn_heads": 2, "attn_conv": 4, "d_intermediate": 24},
    ),
}
