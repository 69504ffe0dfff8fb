"""The Mamba-3 block by the original's signature: parameters of the same names, its four states."""

import torch
from torch import Tensor

from ssmlab.compat._absent import absent
from ssmlab.compat.mamba_ssm.modules._cache import states_from_cache
from ssmlab.compat.mamba_ssm.ops.triton.layernorm_gated import RMSNorm as RMSNormGated
from ssmlab.core.errors import UserError
from ssmlab.nn import Mamba3 as Block
from ssmlab.ops import Mamba3State

__all__ = ["Mamba3", "RMSNormGated", "heavy_tail_activation"]
__getattr__ = absent(
    __name__, "mamba3_mimo_combined", "call mamba3_mimo of mamba_ssm.ops.tilelang.mamba3.mamba3_mimo",
    mamba_ssm__ops__cute__mamba3__mamba3_step_fn="mamba3_step_fn",
    mamba_ssm__ops__triton__mamba3__mamba3_mimo_rotary_step="apply_rotary_qk_inference_fwd",
    mamba_ssm__ops__triton__mamba3__mamba3_siso_combined="mamba3_siso_combined",
)  # fmt: skip


def heavy_tail_activation(x: Tensor) -> Tensor:
    """1 + x where x >= 0, else 1 / (1 - x): the activation of the decay rates since June 2026."""
    return x.clamp_min(0) + torch.reciprocal(1 - x.clamp_max(0))


class Mamba3(Block):
    """`ssmlab.nn.Mamba3` as `mamba_ssm.modules.mamba3.Mamba3` is called.

    Args:
        is_outproj_norm, is_mimo, mimo_rank: `outproj_norm`, and `mimo_rank` where `is_mimo`.
        chunk_size: accepted; the operator has a size of its own. layer_idx: the key of this layer's states in
            `inference_params`. n_layer: accepted.
        device, dtype: of the parameters.
        fuse_pregate_headwise_norm: accepted, a choice between the original's kernels.
        A_activation: not the original's, whose versions differ in it without a name for it: "heavy_tail" as since
            June 2026, "softplus" as before.
        The others are those of `ssmlab.nn.Mamba3`.
    """

    def __init__(
        self, d_model, d_state=128, expand=2, headdim=64, ngroups=1, rope_fraction=0.5, dt_min=0.001, dt_max=0.1,
        dt_init_floor=1e-4, A_floor=1e-4, is_outproj_norm=False, is_mimo=False, mimo_rank=4, chunk_size=64, dropout=0.0,
        layer_idx=None, n_layer=None, device=None, dtype=None, A_activation="heavy_tail",
        fuse_pregate_headwise_norm=False, **unknown,
    ):  # fmt: skip
        if unknown:  # the original takes any name and ignores it
            raise UserError(f"Mamba3: unknown argument {min(unknown)!r}; it would have no effect, leave it out")
        super().__init__(
            d_model, d_state, expand, headdim, ngroups=ngroups, rope_fraction=rope_fraction,
            mimo_rank=mimo_rank if is_mimo else None, outproj_norm=is_outproj_norm, A_activation=A_activation,
            A_floor=A_floor, dt_min=dt_min, dt_max=dt_max, dt_init_floor=dt_init_floor,
        )  # fmt: skip
        self.expand, self.layer_idx, self.is_mimo, self.is_outproj_norm = expand, layer_idx, is_mimo, is_outproj_norm
        self.num_bc_heads, self.num_rope_angles = ngroups, self.num_angles
        self.dt_bias._no_weight_decay = self.D._no_weight_decay = True
        for module in (self.in_proj, self.out_proj, self.B_norm, self.C_norm, self.norm):
            if module is not None:  # the others stay in float32, as the original keeps them
                module.to(dtype=dtype)
        self.to(device=device)

    def forward(  # type: ignore[override]
        self, u: Tensor, seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None, inference_params=None
    ) -> Tensor:
        """u (b, l, d_model) -> (b, l, d_model).

        Args:
            seq_idx: accepted and, as in the original, not used; cu_seqlens marks packed sequences.
            cu_seqlens: where sequences begin in one packed row, and the end, (sequences + 1,).
            inference_params: has `key_value_memory_dict` and `seqlen_offset`; where the offset is 0 the states after
                the prompt are written there, afterwards a call takes one token.
        """
        packed = None
        if cu_seqlens is not None:
            if inference_params is not None or u.shape[0] != 1:
                raise UserError(
                    f"Mamba3: cu_seqlens cuts one row without inference_params, got {u.shape[0]} rows; "
                    "give prompts that are continued as rows of their own"
                )
            places = torch.arange(u.shape[1], device=u.device)
            packed = torch.searchsorted(cu_seqlens.to(places), places, right=True)[None]
        if inference_params is None:
            return super().forward(u, seq_idx=packed)[0]
        states = self._get_states_from_cache(inference_params, u.shape[0])
        if inference_params.seqlen_offset > 0:
            if u.shape[1] != 1:
                raise UserError(f"Mamba3 takes one token at a time after a prompt, got {u.shape[1]}")
            return self.step(u[:, 0], *states)[0][:, None]
        y, after = super().forward(u)
        self._keep(states, after, u[:, -1])
        return y

    def step(
        self, u: Tensor, angle_state: Tensor, ssm_state: Tensor, k_state: Tensor, v_state: Tensor, **kwargs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One token (b, d_model) and the states, which are updated; as the original, no (b, 1, d_model).

        Args:
            angle_state: (b, nheads, num_rope_angles). ssm_state: (b, nheads, headdim, d_state).
            k_state: (b, ranks, nheads, d_state). v_state: (b, nheads, headdim), before mimo_x.
        """
        v = v_state[:, :, None].float()
        before = Mamba3State(
            angle_state.float(), ssm_state.float(), k_state.transpose(1, 2).float(),
            v * self.mimo_x.float() if self.mimo else v,
        )  # fmt: skip
        y, after = super().forward(u[:, None], before)
        states = angle_state, ssm_state, k_state, v_state
        self._keep(states, after, u)
        return y[:, 0], *states

    def allocate_inference_cache(
        self, batch_size, max_seqlen, device=None, dtype=None, inplace_state=None, **kwargs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States of zeros, as `step` takes them; angle and ssm in float32."""
        device = self.in_proj.weight.device if device is None else device
        dtype = self.in_proj.weight.dtype if dtype is None else dtype
        b, h, p, n = batch_size, self.nheads, self.headdim, self.d_state
        return (
            torch.zeros(b, h, self.num_angles, device=device, dtype=torch.float32),
            torch.zeros(b, h, p, n, device=device, dtype=torch.float32),
            torch.zeros(b, self.mimo_rank, h, n, device=device, dtype=dtype),
            torch.zeros(b, h, p, device=device, dtype=dtype),
        )

    @torch.no_grad()
    def _keep(self, states: tuple[Tensor, ...], after: Mamba3State, u: Tensor) -> None:
        """Write ours into theirs; their v is the last token's x, which rank after rank is multiplied by mimo_x."""
        angle, ssm, k, v = states
        angle.copy_(after.angle)
        ssm.copy_(after.ssm)
        k.copy_(after.k.transpose(1, 2))
        v.copy_(self.in_proj(u).split(self.parts, -1)[1].unflatten(-1, v.shape[1:]))

    _get_states_from_cache = states_from_cache
