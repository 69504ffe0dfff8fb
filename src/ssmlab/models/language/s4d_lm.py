"""Language models of S4D layers: Mamba's architecture without its selection."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ssmlab.models.entry import Preset
from ssmlab.models.language.language_model import LanguageConfig, LanguageModel
from ssmlab.models.language.mamba_lm import SIZES, TEST
from ssmlab.nn import S4D


@dataclass(frozen=True, kw_only=True)
class S4DLMConfig(LanguageConfig):
    """S4D layers. As `LanguageConfig`, and the arguments of `nn.S4D`; by default with Mamba's gate and convolution."""

    d_state: int = 64
    expand: float = 2
    d_conv: int = 4
    gate: bool = True
    init: str = "lin"
    discretization: str = "zoh"
    bias: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def block(self) -> nn.Module:
        """An S4D block."""
        return S4D(
            self.d_model,
            self.d_state,
            self.expand,
            d_conv=self.d_conv,
            gate=self.gate,
            init=self.init,
            discretization=self.discretization,
            bias=self.bias,
            dt_min=self.dt_min,
            dt_max=self.dt_max,
        )


CONFIGS: dict[str, Preset] = {
    "s4d_lm": Preset(LanguageModel, S4DLMConfig, {}),
    **{f"s4d_lm_{size}": Preset(LanguageModel, S4DLMConfig, values) for size, values in SIZES.items()},
    "s4d_lm_test": Preset(LanguageModel, S4DLMConfig, TEST),
}
