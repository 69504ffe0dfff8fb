"""Language models of Mamba-3 layers, with gated MLPs and attention in between where requested."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ssmlab.models.entry import Preset
from ssmlab.models.language.language_model import LanguageConfig, LanguageModel
from ssmlab.models.language.mamba_lm import TEST
from ssmlab.nn import Mamba3
from ssmlab.ops.ssd import CHUNK_SIZE


@dataclass(frozen=True, kw_only=True)
class Mamba3LMConfig(LanguageConfig):
    """Mamba-3 layers. As `LanguageConfig`, and the arguments of `nn.Mamba3`."""

    vocab_multiple: int = 16
    d_state: int = 128
    expand: float = 2
    headdim: int = 64
    ngroups: int = 1
    rope_fraction: float = 0.5
    mimo_rank: int | None = None
    outproj_norm: bool = False
    A_activation: str = "heavy_tail"
    A_floor: float = 1e-4
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    chunk_size: int = CHUNK_SIZE

    def block(self) -> nn.Module:
        """A Mamba-3 block."""
        return Mamba3(
            self.d_model,
            self.d_state,
            self.expand,
            self.headdim,
            ngroups=self.ngroups,
            rope_fraction=self.rope_fraction,
            mimo_rank=self.mimo_rank,
            outproj_norm=self.outproj_norm,
            A_activation=self.A_activation,
            A_floor=self.A_floor,
            dt_min=self.dt_min,
            dt_max=self.dt_max,
            chunk_size=self.chunk_size,
        )


# No sizes have names: of those of the paper (arXiv:2603.15569), 180M, 440M, 880M and 1.5B parameters, widths and layers
# are not known here; a checkpoint brings its own in its configuration.
CONFIGS: dict[str, Preset] = {
    "mamba3_lm": Preset(LanguageModel, Mamba3LMConfig, {}),
    "mamba3_lm_test": Preset(LanguageModel, Mamba3LMConfig, TEST | {"headdim": 8}),
    "mamba3_mimo_lm_test": Preset(
        LanguageModel,
        Mamba3LMConfig,
        TEST | {"headdim": 8, "mimo_rank": 2, "rope_fraction": 1, "d_intermediate": 24},
    ),
}
