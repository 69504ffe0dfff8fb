"""The Mamba block by the original's signature: parameters of the same names, states of the original's widths."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.errors import UserError
from ssmlab.nn import Mamba as Block
from ssmlab.nn import MambaState

__all__ = ["Mamba"]


class Mamba(Block):
    """`ssmlab.nn.Mamba` as `mamba_ssm.modules.mamba_simple.Mamba` is called.

    Args:
        dt_init: "random" or "constant", of dt_proj's weight. dt_scale: factor of its range.
        use_fast_path: accepted; there is one path.
        layer_idx: the key of this layer's states in `inference_params`.
        device, dtype: of the parameters.
        The others are those of `ssmlab.nn.Mamba`.
    """

    def __init__(
        self, d_model, d_state=16, d_conv=4, expand=2, dt_rank="auto", dt_min=0.001, dt_max=0.1, dt_init="random",
        dt_scale=1.0, dt_init_floor=1e-4, conv_bias=True, bias=False, use_fast_path=True, layer_idx=None, device=None,
        dtype=None,
    ):  # fmt: skip
        super().__init__(d_model, d_state, d_conv, expand, dt_rank, dt_min, dt_max, dt_init_floor, conv_bias, bias)
        self.expand, self.use_fast_path, self.layer_idx = expand, use_fast_path, layer_idx
        self.activation = "silu"
        bound = self.dt_rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, bound)
        elif dt_init == "random":
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        else:
            raise UserError(f"Mamba: dt_init must be 'random' or 'constant', got {dt_init!r}")
        self.A_log._no_weight_decay = self.D._no_weight_decay = True
        self.dt_proj.bias._no_reinit = True
        self.to(device=device, dtype=dtype)
        self.A_log.data, self.D.data = self.A_log.data.float(), self.D.data.float()  # as the original keeps them

    def forward(self, hidden_states: Tensor, inference_params=None) -> Tensor:  # type: ignore[override]
        """hidden_states (b, l, d_model) -> (b, l, d_model).

        Args:
            inference_params: has `key_value_memory_dict` and `seqlen_offset`; where the offset is 0 the states after
                the prompt are written there, afterwards a call takes one token.
        """
        if inference_params is None:
            return super().forward(hidden_states)[0]
        conv_state, ssm_state = self._states_of(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset > 0:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        y, after = super().forward(hidden_states)
        with torch.no_grad():  # the original keeps d_conv inputs, one more than are needed
            last = self.in_proj(hidden_states[:, -self.d_conv :])[..., : self.d_inner].mT
            conv_state.copy_(F.pad(last, (self.d_conv - last.shape[-1], 0)))
            ssm_state.copy_(after.ssm)
        return y

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token (b, 1, d_model); conv_state (b, d_inner, d_conv), ssm_state (b, d_inner, d_state) are updated."""
        if hidden_states.shape[1] != 1:
            raise UserError(f"Mamba.step takes one token at a time, got {hidden_states.shape[1]}")
        before = MambaState(conv_state[..., 1:].to(hidden_states.dtype), ssm_state.float())
        y, after = super().forward(hidden_states, before)
        with torch.no_grad():
            conv_state.copy_(torch.cat([before.conv, after.conv[..., -1:]], dim=-1))
            ssm_state.copy_(after.ssm)
        return y, conv_state, ssm_state

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs) -> tuple[Tensor, Tensor]:
        """States of zeros: (b, d_inner, d_conv) and (b, d_inner, d_state)."""
        conv_dtype = self.conv1d.weight.dtype if dtype is None else dtype
        ssm_dtype = self.dt_proj.weight.dtype if dtype is None else dtype
        device = self.out_proj.weight.device
        conv = torch.zeros(batch_size, self.d_inner, self.d_conv, device=device, dtype=conv_dtype)
        return conv, torch.zeros(batch_size, self.d_inner, self.d_state, device=device, dtype=ssm_dtype)

    def _states_of(self, inference_params, batch_size: int) -> tuple[Tensor, Tensor]:
        if self.layer_idx is None:
            raise UserError("Mamba: inference_params need a layer_idx to find their states, got layer_idx=None")
        memory = inference_params.key_value_memory_dict
        if self.layer_idx not in memory:
            memory[self.layer_idx] = self.allocate_inference_cache(batch_size, None)
        return memory[self.layer_idx]
