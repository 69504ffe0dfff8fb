"""The Mamba block by the original's signature and by its forks', and the residual block of mamba_ssm 1.x."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.compat.mamba_ssm.modules import _directions
from ssmlab.compat.mamba_ssm.modules._cache import states_from_cache
from ssmlab.compat.mamba_ssm.modules.block import Block as _Block
from ssmlab.core.errors import UserError
from ssmlab.nn import Mamba as _Mamba
from ssmlab.nn import MambaState

__all__ = ["Block", "Mamba"]
__getattr__ = absent(
    __name__, "", "", causal_conv1d="causal_conv1d_fn causal_conv1d_update",
    mamba_ssm__ops__selective_scan_interface="mamba_inner_fn selective_scan_fn",
    mamba_ssm__ops__triton__layer_norm="RMSNorm layer_norm_fn rms_norm_fn",
    mamba_ssm__ops__triton__selective_state_update="selective_state_update",
)  # fmt: skip


class Mamba(_Mamba):
    """`ssmlab.nn.Mamba` as `mamba_ssm.modules.mamba_simple.Mamba` is called, by its forks too.

    Args:
        dt_init: "random" or "constant", of dt_proj's weight. dt_scale: factor of its range.
        use_fast_path: accepted; there is one path.
        layer_idx: the key of this layer's states in `inference_params`.
        device, dtype: of the parameters.
        bimamba_type: of the forks. "none" is Mamba. The others add directions between one pair of projections: "v1"
            a scan backward with an A of its own, of what the forward convolution gave (Vim); "v2" a backward direction
            with everything of its own, names ending in `_b` (Vim, AuM, VideoMamba); "v3" a third one through the
            tokens of `nslices` slices in turn, names ending in `_s` (SegMamba).
        bimamba: of VideoMamba's fork: True is "v2", False "none".
        if_divide_out, if_devide_out: with "v2" the mean of the two directions instead of their sum.
        init_layer_scale: the output is multiplied by a parameter `gamma` (d_model,), this at first; None leaves it out.
        nslices: of "v3"; divides the length.
        dropout: probability of dropout on the output.
        The others are those of `ssmlab.nn.Mamba`.
    """

    def __init__(
        self, d_model, d_state=16, d_conv=4, expand=2, dt_rank="auto", dt_min=0.001, dt_max=0.1, dt_init="random",
        dt_scale=1.0, dt_init_floor=1e-4, conv_bias=True, bias=False, use_fast_path=True, layer_idx=None, device=None,
        dtype=None, bimamba_type="none", if_divide_out=False, init_layer_scale=None, if_devide_out=False, nslices=5,
        dropout=0.0, bimamba=None, **unknown,
    ):  # fmt: skip
        if unknown:
            raise UserError(
                f"Mamba: unknown argument {min(unknown)!r}, it is of a fork of mamba_ssm; install the fork or put it "
                "on PYTHONPATH, and `ssmlab exec` runs the program with the fork's blocks on our operators"
            )
        super().__init__(
            d_model, d_state, d_conv, expand, dt_rank, dt_min, dt_max, dt_init_floor, conv_bias, bias, dropout
        )
        self.expand, self.use_fast_path, self.layer_idx = expand, use_fast_path, layer_idx
        self.activation = "silu"
        self.bimamba_type = ("v2" if bimamba else "none") if bimamba is not None else bimamba_type
        self.if_divide_out = self.if_devide_out = bool(if_divide_out or if_devide_out)
        self.init_layer_scale, self.nslices = init_layer_scale, nslices
        _directions.add_parameters(self, self.bimamba_type, conv_bias)
        bound = self.dt_rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, bound)
        elif dt_init == "random":
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        else:
            raise UserError(f"Mamba: dt_init must be 'random' or 'constant', got {dt_init!r}")
        self.dt_proj.bias._no_reinit = True
        self.to(device=device, dtype=dtype)
        for parameter in self.parameters(recurse=False):  # A and D, as the original keeps them
            parameter.data = parameter.data.float()
            parameter._no_weight_decay = True
        if init_layer_scale is not None:
            self.gamma = nn.Parameter(torch.full((d_model,), float(init_layer_scale), device=device))

    def forward(self, hidden_states: Tensor, inference_params=None) -> Tensor:  # type: ignore[override]
        """hidden_states (b, l, d_model) -> (b, l, d_model).

        Args:
            inference_params: has `key_value_memory_dict` and `seqlen_offset`; where the offset is 0 the states after
                the prompt are written there, afterwards a call takes one token.
        """
        if self.bimamba_type != "none":
            if inference_params is not None:
                raise UserError(
                    f"Mamba: bimamba_type={self.bimamba_type!r} reads sequences from both ends and has no next token; "
                    "call it without inference_params"
                )
            return self._scaled(self.dropout(_directions.forward(self, hidden_states)))
        if inference_params is None:
            return self._scaled(super().forward(hidden_states)[0])
        conv_state, ssm_state = self._get_states_from_cache(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset > 0:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        y, after = super().forward(hidden_states)
        with torch.no_grad():  # the original keeps d_conv inputs, one more than are needed
            last = self.in_proj(hidden_states[:, -self.d_conv :])[..., : self.d_inner].mT
            conv_state.copy_(F.pad(last, (self.d_conv - last.shape[-1], 0)))
            ssm_state.copy_(after.ssm)
        return self._scaled(y)

    def _scaled(self, y: Tensor) -> Tensor:
        return y if self.init_layer_scale is None else y * self.gamma

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token (b, 1, d_model); conv_state (b, d_inner, d_conv), ssm_state (b, d_inner, d_state) are updated."""
        if hidden_states.shape[1] != 1:
            raise UserError(f"Mamba.step takes one token at a time, got {hidden_states.shape[1]}")
        before = MambaState(conv_state[..., 1:].to(hidden_states.dtype), ssm_state.float())
        y, after = super().forward(hidden_states, before)
        with torch.no_grad():
            conv_state.copy_(torch.cat([before.conv, after.conv[..., -1:]], dim=-1))
            ssm_state.copy_(after.ssm)
        return self._scaled(y), conv_state, ssm_state

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs) -> tuple[Tensor, Tensor]:
        """States of zeros: (b, d_inner, d_conv) and (b, d_inner, d_state)."""
        conv_dtype = self.conv1d.weight.dtype if dtype is None else dtype
        ssm_dtype = self.dt_proj.weight.dtype if dtype is None else dtype
        device = self.out_proj.weight.device
        conv = torch.zeros(batch_size, self.d_inner, self.d_conv, device=device, dtype=conv_dtype)
        return conv, torch.zeros(batch_size, self.d_inner, self.d_state, device=device, dtype=ssm_dtype)

    _get_states_from_cache = states_from_cache


class Block(_Block):
    """The residual block of mamba_ssm 1.x: `modules.block.Block` without a second layer."""

    def __init__(self, dim, mixer_cls, norm_cls=nn.LayerNorm, fused_add_norm=False, residual_in_fp32=False):
        super().__init__(dim, mixer_cls, nn.Identity, norm_cls, fused_add_norm, residual_in_fp32)
