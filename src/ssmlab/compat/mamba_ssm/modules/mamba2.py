"""The Mamba-2 block by the original's signature: parameters of the same names, states of the original's widths."""

from itertools import pairwise

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.compat.mamba_ssm.distributed.distributed_utils import one_process
from ssmlab.compat.mamba_ssm.modules._cache import states_from_cache
from ssmlab.compat.mamba_ssm.ops.triton.layernorm_gated import RMSNorm as RMSNormGated
from ssmlab.core.errors import UserError
from ssmlab.nn import Mamba2 as _Block
from ssmlab.nn import Mamba2State

__all__ = ["Mamba2", "RMSNormGated"]
NO_LIMIT = (0.0, float("inf"))
__getattr__ = absent(
    __name__, "", "", causal_conv1d="causal_conv1d_fn causal_conv1d_update",
    causal_conv1d__causal_conv1d_varlen="causal_conv1d_varlen_states",
    mamba_ssm__distributed__distributed_utils="all_reduce reduce_scatter",
    mamba_ssm__distributed__tensor_parallel="ColumnParallelLinear RowParallelLinear",
    mamba_ssm__ops__triton__selective_state_update="selective_state_update",
    mamba_ssm__ops__triton__ssd_combined="mamba_chunk_scan_combined mamba_split_conv1d_scan_combined",
)  # fmt: skip


class Mamba2(_Block, PyTorchModelHubMixin):
    """`ssmlab.nn.Mamba2` as `mamba_ssm.modules.mamba2.Mamba2` is called.

    Args:
        conv_init: the convolution's weights are uniform between -conv_init and conv_init; None: as `nn.Conv1d`.
        d_ssm: channels that are scanned; the others of `d_inner` are a gated layer. None: all.
        A_init_range: the initial decay rates are uniform in it.
        dt_limit: the least and the largest step size.
        use_mem_eff_path: accepted; there is one path. sequence_parallel: accepted; there is one process.
        layer_idx: the key of this layer's states in `inference_params`.
        process_group: None, or a group of one process.
        device, dtype: of the parameters.
        The others are those of `ssmlab.nn.Mamba2`.
    """

    def __init__(
        self, d_model, d_state=128, d_conv=4, conv_init=None, expand=2, headdim=64, d_ssm=None, ngroups=1,
        A_init_range=(1, 16), D_has_hdim=False, rmsnorm=True, norm_before_gate=False, dt_min=0.001, dt_max=0.1,
        dt_init_floor=1e-4, dt_limit=NO_LIMIT, bias=False, conv_bias=True, chunk_size=256, use_mem_eff_path=True,
        layer_idx=None, process_group=None, sequence_parallel=True, device=None, dtype=None,
    ):  # fmt: skip
        one_process("Mamba2", process_group)
        limit = None if tuple(dt_limit) == NO_LIMIT else tuple(dt_limit)
        super().__init__(
            d_model, d_state, d_conv, expand, headdim, d_ssm=d_ssm, ngroups=ngroups, D_has_hdim=D_has_hdim,
            rmsnorm=rmsnorm, norm_before_gate=norm_before_gate, A_min=A_init_range[0], A_max=A_init_range[1],
            dt_min=dt_min, dt_max=dt_max, dt_init_floor=dt_init_floor, dt_limit=limit, conv_bias=conv_bias, bias=bias,
        )  # fmt: skip
        self.expand, self.layer_idx, self.D_has_hdim, self.rmsnorm = expand, layer_idx, D_has_hdim, rmsnorm
        self.norm_before_gate, self.use_mem_eff_path, self.conv_init = norm_before_gate, use_mem_eff_path, conv_init
        self.process_group, self.sequence_parallel, self.activation = process_group, sequence_parallel, "silu"
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.dt_bias._no_weight_decay = self.A_log._no_weight_decay = self.D._no_weight_decay = True
        self.to(device=device, dtype=dtype)
        self.D.data = self.D.data.float()  # as the original keeps it

    def forward(  # type: ignore[override]
        self, u: Tensor, seqlen=None, seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None,
        inference_params=None,
    ) -> Tensor:  # fmt: skip
        """u (b, l, d_model) -> (b, l, d_model).

        Args:
            seqlen: then u and the output are (b l, d_model), rows of this length.
            seq_idx: (b, l), the number of the sequence of a position, for several in a row; negative ones are padding.
            cu_seqlens: where sequences begin in the only row, and the end of the last, (sequences + 1,); what comes
                after them is padding. Without `seq_idx` they separate the sequences too.
            inference_params: has `key_value_memory_dict` and `seqlen_offset`; where the offset is 0 the states after
                the prompts are written there, afterwards a call takes one token of each.
        """
        if seqlen is not None:
            return self.forward(u.unflatten(0, (-1, seqlen)), None, seq_idx, cu_seqlens, inference_params).flatten(0, 1)
        if inference_params is not None:
            rows = u.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
            states = self._get_states_from_cache(inference_params, rows)
            if inference_params.seqlen_offset > 0:
                return self.step(u, *states)[0]
            if cu_seqlens is not None:
                return self._prompts_in_one_row(u, cu_seqlens, *states)
            y, after = super().forward(u, seq_idx=seq_idx)
            self._keep(u, after, *states)
            return y
        if seq_idx is None and cu_seqlens is not None:
            places = torch.arange(u.shape[1], device=u.device)
            seq_idx = torch.searchsorted(cu_seqlens.to(places), places, right=True).expand(u.shape[0], -1)
        return super().forward(u, seq_idx=seq_idx)[0]

    def _prompts_in_one_row(self, u: Tensor, cu_seqlens: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Tensor:
        """Every sequence by itself, since each has a state to keep; zeros after the last."""
        if u.shape[0] != 1:
            raise UserError(f"Mamba2: cu_seqlens cuts one row, got {u.shape[0]}; give the sequences in one")
        y = torch.zeros_like(u)
        for i, (begin, end) in enumerate(pairwise(cu_seqlens.tolist())):
            own = u[:, begin:end]
            y[:, begin:end], after = super().forward(own)
            self._keep(own, after, conv_state[i : i + 1], ssm_state[i : i + 1])
        return y

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token (b, 1, d_model) and the states, which are updated.

        Args:
            conv_state: (b, d_ssm + 2 ngroups d_state, d_conv), newest last. ssm_state: (b, nheads, headdim, d_state).
        """
        if hidden_states.shape[1] != 1:
            raise UserError(f"Mamba2.step takes one token at a time, got {hidden_states.shape[1]}")
        before = Mamba2State(conv_state[..., 1:].to(hidden_states.dtype), ssm_state.float())
        y, after = super().forward(hidden_states, before)
        with torch.no_grad():
            conv_state.copy_(torch.cat([before.conv, after.conv[..., -1:]], dim=-1))
            ssm_state.copy_(after.ssm)
        return y, conv_state, ssm_state

    @torch.no_grad()
    def _keep(self, u: Tensor, after: Mamba2State, conv_state: Tensor, ssm_state: Tensor) -> None:
        """Write the states after u; the original keeps d_conv inputs, one more than are needed."""
        xBC = self.in_proj(u[:, max(0, u.shape[1] - self.d_conv) :])[..., -len(self.conv1d.weight) - self.nheads :]
        last = xBC[..., : -self.nheads].mT
        conv_state.copy_(F.pad(last, (self.d_conv - last.shape[-1], 0)))
        ssm_state.copy_(after.ssm)

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs) -> tuple[Tensor, Tensor]:
        """States of zeros, as `step` takes them."""
        device = self.out_proj.weight.device
        conv_dtype = self.conv1d.weight.dtype if dtype is None else dtype
        ssm_dtype = self.in_proj.weight.dtype if dtype is None else dtype
        conv = torch.zeros(batch_size, len(self.conv1d.weight), self.d_conv, device=device, dtype=conv_dtype)
        ssm = torch.zeros(batch_size, self.nheads, self.headdim, self.d_state, device=device, dtype=ssm_dtype)
        return conv, ssm

    _get_states_from_cache = states_from_cache
