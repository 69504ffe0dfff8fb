"""The states that the chunks of Mamba-2's scan add, by the original's signatures. `ssmlab.ops.ssd` is the scan."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.compat._absent import AUTOGRAD, absent
from ssmlab.compat._gradients import filled, gradients
from ssmlab.compat.mamba_ssm.ops.triton.ssd_bmm import chunked

__all__ = [
    "ChunkStateFn", "_chunk_cumsum_bwd", "_chunk_cumsum_fwd", "_chunk_state_fwd", "chunk_state", "chunk_state_ref",
    "chunk_state_varlen",
]  # fmt: skip
__getattr__ = absent(
    __name__, "init_to_zero _chunk_cumsum_fwd_kernel _chunk_cumsum_bwd_kernel _chunk_state_fwd_kernel "
    "_chunk_state_bwd_dx_kernel _chunk_state_bwd_db_kernel _chunk_state_bwd_ddAcs_stable_kernel "
    "_chunk_state_varlen_kernel _chunk_state_bwd_dx _chunk_state_bwd_db _chunk_state_bwd_ddAcs_stable",
    f"call chunk_state, {AUTOGRAD}",
)  # fmt: skip


def _steps(dt, A, chunk_size, dt_bias, dt_softplus, dt_limit) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(dt.dtype, torch.float32)
    dt = dt.to(wide) if dt_bias is None else dt.to(wide) + dt_bias.to(wide)
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
    dt = chunked(dt, chunk_size).permute(0, 3, 1, 2)
    return (dt * A.to(wide)[:, None, None]).cumsum(-1), dt


def _chunk_cumsum_fwd(dt, A, chunk_size, dt_bias=None, dt_softplus=False, dt_limit=(0.0, float("inf"))):
    """dt (b, l, h), A (h,) -> sums of dt A within chunks, and dt as it is used, (b, h, c, chunk_size)."""
    with torch.no_grad():
        return _steps(dt, A, chunk_size, dt_bias, dt_softplus, dt_limit)


def _chunk_cumsum_bwd(
    ddA, ddt_out, dt, A, dt_bias=None, dt_softplus=False, dt_limit=(0.0, float("inf")), ddt=None
):  # fmt: skip
    """The gradients (ddt, dA, ddt_bias) from those of the two results."""

    def steps(dt, A, dt_bias):
        return _steps(dt, A, ddA.shape[-1], dt_bias, dt_softplus, dt_limit)

    found, dA, dbias = gradients(steps, (dt, A, dt_bias), (ddA, ddt_out))
    return filled(ddt, found), dA, dbias


def chunk_state(B, x, dt, dA_cumsum, states_in_fp32=True):
    """What every chunk adds to the state.

    Args:
        B: (b, l, g, n). x: (b, l, h, p). dt, dA_cumsum: (b, h, c, chunk_size).
        states_in_fp32: the dtype of the result, else that of B.
    Returns:
        (b, c, h, p, n).
    """
    return _states(B, x, dt, dA_cumsum, None, states_in_fp32)


def chunk_state_ref(B, x, dt, dA_cumsum):
    """The same, in the dtype of x."""
    return _states(B, x, dt, dA_cumsum, None, True).to(x.dtype)


def _chunk_state_fwd(B, x, dt, dA_cumsum, seq_idx=None, states=None, states_in_fp32=True):
    """`chunk_state` without a gradient, of the tokens whose sequence is that of their chunk's last; fills `states`."""
    with torch.no_grad():
        return filled(states, _states(B, x, dt, dA_cumsum, seq_idx, states_in_fp32))


def _states(B, x, dt, dA_cumsum, seq_idx, states_in_fp32) -> Tensor:
    size, wide = dt.shape[-1], torch.promote_types(x.dtype, torch.float32)
    scale = dt * (dA_cumsum[..., -1:] - dA_cumsum).exp()
    if seq_idx is not None:
        run = chunked(seq_idx.long(), size, -1)
        last = torch.arange(size - 1, run.shape[1] * size, size, device=x.device).clamp(max=seq_idx.shape[1] - 1)
        own = seq_idx.long()[:, last, None]
        scale = scale * ((run == own) & (own >= 0))[:, None]
    x, B = chunked(x.to(wide), size), chunked(B.to(wide), size)
    B = B.repeat_interleave(x.shape[3] // B.shape[3], dim=3)
    y = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, scale.to(wide), x)
    return y.to(wide if states_in_fp32 else B.dtype)


def chunk_state_varlen(B, x, dt, dA_cumsum, cu_seqlens, chunk_states):
    """The state after each of the sequences packed in one row.

    Args:
        B: (l, g, n). x: (l, h, p). dt, dA_cumsum: (h, c, chunk_size). cu_seqlens: (sequences + 1,).
        chunk_states: (c, h, p, n), the states before the chunks.
    Returns:
        (sequences, h, p, n).
    """
    size, groups = dt.shape[-1], x.shape[1] // B.shape[1]
    bounds = cu_seqlens.tolist()
    states = chunk_states.new_zeros(len(bounds) - 1, *chunk_states.shape[1:])
    for i, (begin, end) in enumerate(pairwise(bounds)):
        if begin == end:
            continue
        chunk = (end - 1) // size
        first = max(begin, chunk * size)  # of the sequence's tokens in the chunk that it ends in
        own = slice(first - chunk * size, end - chunk * size)
        total = dA_cumsum[:, chunk, own.stop - 1]
        scale = dt[:, chunk, own] * (total[:, None] - dA_cumsum[:, chunk, own]).exp()
        maps = B[first:end].repeat_interleave(groups, dim=1).to(scale.dtype)
        state = torch.einsum("lhn,hl,lhp->hpn", maps, scale, x[first:end].to(scale.dtype))
        if begin < chunk * size:
            state = state + total.exp()[:, None, None] * chunk_states[chunk]
        states[i] = state
    return states


class ChunkStateFn:
    """`chunk_state` as an autograd function."""

    apply = staticmethod(chunk_state)
