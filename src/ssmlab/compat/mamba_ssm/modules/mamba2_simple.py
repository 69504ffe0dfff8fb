"""The short form of the Mamba-2 block by the original's signature: whole sequences, no states."""

import torch
from torch import Tensor, nn

from ssmlab.compat._absent import absent
from ssmlab.compat.mamba_ssm.ops.triton.layernorm_gated import RMSNorm as RMSNormGated
from ssmlab.core.errors import UserError
from ssmlab.nn import GatedRMSNorm, Mamba2State
from ssmlab.nn import Mamba2 as _Block

__all__ = ["Mamba2Simple", "RMSNormGated"]
NO_LIMIT = (0.0, float("inf"))
__getattr__ = absent(
    __name__, "", "", causal_conv1d="causal_conv1d_fn", mamba_ssm__ops__triton__layernorm_gated="LayerNorm",
    mamba_ssm__ops__triton__ssd_combined="mamba_chunk_scan_combined mamba_split_conv1d_scan_combined",
)  # fmt: skip


class Mamba2Simple(_Block):
    """`ssmlab.nn.Mamba2` as `mamba_ssm.modules.mamba2_simple.Mamba2Simple` is called.

    Args:
        learnable_init_states: start the heads from the parameter `init_states` (nheads, headdim, d_state).
        activation: "silu" or "swish", which are the same.
        use_mem_eff_path: the norm is over groups of d_inner / ngroups channels; without it over all of them.
        layer_idx: accepted. The others are those of `Mamba2`.
    """

    def __init__(
        self, d_model, d_state=64, d_conv=4, conv_init=None, expand=2, headdim=128, ngroups=1, A_init_range=(1, 16),
        dt_min=0.001, dt_max=0.1, dt_init_floor=1e-4, dt_limit=NO_LIMIT, learnable_init_states=False,
        activation="swish", bias=False, conv_bias=True, chunk_size=256, use_mem_eff_path=True, layer_idx=None,
        device=None, dtype=None,
    ):  # fmt: skip
        if activation not in ("silu", "swish"):
            raise UserError(f"Mamba2Simple: activation must be 'silu' or 'swish', got {activation!r}")
        super().__init__(
            d_model, d_state, d_conv, expand, headdim, ngroups=ngroups, A_min=A_init_range[0], A_max=A_init_range[1],
            dt_min=dt_min, dt_max=dt_max, dt_init_floor=dt_init_floor, conv_bias=conv_bias, bias=bias,
            dt_limit=None if tuple(dt_limit) == NO_LIMIT else tuple(dt_limit),
        )  # fmt: skip
        if not use_mem_eff_path:
            self.norm = GatedRMSNorm(self.d_inner)
        self.expand, self.activation, self.conv_init, self.layer_idx = expand, activation, conv_init, layer_idx
        self.learnable_init_states, self.use_mem_eff_path = learnable_init_states, use_mem_eff_path
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        if learnable_init_states:
            self.init_states = nn.Parameter(torch.zeros(self.nheads, headdim, d_state))
            self.init_states._no_weight_decay = True
        self.dt_bias._no_weight_decay = self.A_log._no_weight_decay = self.D._no_weight_decay = True
        self.to(device=device, dtype=dtype)
        self.D.data = self.D.data.float()  # as the original keeps it

    def forward(self, u: Tensor, seq_idx: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """u (b, l, d_model) -> (b, l, d_model); seq_idx (b, l) for several sequences in a row."""
        state = None
        if self.learnable_init_states:
            state = Mamba2State(None, self.init_states.float().expand(u.shape[0], -1, -1, -1))  # type: ignore[arg-type]
        return super().forward(u, state, seq_idx=seq_idx)[0]
