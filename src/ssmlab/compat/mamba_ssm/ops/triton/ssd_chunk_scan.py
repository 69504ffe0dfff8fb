"""The outputs of chunks from the states before them, by the original's signatures. `ssmlab.ops.ssd` is the scan."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.compat._absent import AUTOGRAD, absent
from ssmlab.compat.mamba_ssm.ops.triton.ssd_bmm import _bmm_chunk_fwd, chunked

__all__ = ["ChunkScanFn", "_chunk_scan_fwd", "chunk_scan", "chunk_scan_ref"]
TRITON_22 = True
__getattr__ = absent(
    __name__, "init_to_zero _chunk_scan_fwd_kernel _chunk_scan_fwd_kernel_wip _chunk_scan_bwd_dz_kernel "
    "_chunk_scan_bwd_dstates_kernel _chunk_scan_bwd_dc_kernel _chunk_scan_bwd_dx_kernel _chunk_scan_bwd_dcb_kernel "
    "_chunk_scan_bwd_ddAcs_unstable_kernel _chunk_scan_bwd_ddAcs_stable_kernel_old "
    "_chunk_scan_bwd_ddAcs_stable_kernel _chunk_scan_bwd_ddAcs_prev_kernel _chunk_scan_fwd_wip _chunk_scan_bwd_dz "
    "_chunk_scan_bwd_dstates _chunk_scan_bwd_dC _chunk_scan_bwd_dcb _chunk_scan_bwd_dx _chunk_scan_bwd_ddAcs_unstable "
    "_chunk_scan_bwd_ddAcs_stable_old _chunk_scan_bwd_ddAcs_stable _chunk_scan_bwd_ddAcs_prev",
    f"call chunk_scan, {AUTOGRAD}",
)  # fmt: skip


def chunk_scan(B, C, x, dt, dA_cumsum, prev_states, D=None, z=None):
    """y of every token from the state before its chunk and the tokens before it there.

    Args:
        B, C: (b, l, g, n). x, z: (b, l, h, p). dt, dA_cumsum: (b, h, c, chunk_size). D: (h,) or (h, p).
        prev_states: (b, c, h, p, n).
    Returns:
        (b, l, h, p), in the dtype of x.
    """
    cb = _bmm_chunk_fwd(C, B, dt.shape[-1], output_dtype=torch.promote_types(x.dtype, torch.float32))
    y, _ = _outputs(cb, x, dt, dA_cumsum, C, prev_states, D, z, None)
    return y


def chunk_scan_ref(B, C, x, dt, dA_cumsum, prev_states, D=None, z=None):
    """The same."""
    return chunk_scan(B, C, x, dt, dA_cumsum, prev_states, D, z)


def _chunk_scan_fwd(cb, x, dt, dA_cumsum, C, states, D=None, z=None, seq_idx=None):
    """`chunk_scan` without a gradient, cb = C B^T of `_bmm_chunk_fwd`: y, and y before the gate or None."""
    with torch.no_grad():
        return _outputs(cb, x, dt, dA_cumsum, C, states, D, z, seq_idx)


def _outputs(cb, x, dt, dA_cumsum, C, states, D, z, seq_idx) -> tuple[Tensor, Tensor | None]:
    size, heads, wide = dt.shape[-1], x.shape[2], torch.promote_types(x.dtype, torch.float32)
    total, each = dA_cumsum.to(wide), heads // C.shape[2]
    scores = cb.to(wide).repeat_interleave(each, dim=2)  # (b, c, h, q, q)
    decay = (total[..., :, None] - total[..., None, :]).transpose(1, 2)
    above = torch.ones(size, size, device=x.device, dtype=torch.bool).triu(1)
    scores = scores * decay.masked_fill(above, -torch.inf).exp()
    y = torch.einsum("bchij,bhcj,bcjhp->bcihp", scores, dt.to(wide), chunked(x.to(wide), size))
    past = total.exp()
    if seq_idx is not None:  # the state before a chunk is of its predecessor's last sequence
        run = chunked(seq_idx.long(), size, -1)
        before = torch.cat([torch.zeros_like(run[:, :1, -1:]), run[:, :-1, -1:]], dim=1)
        past = past * (run == before)[:, None]
    maps = chunked(C.to(wide), size).repeat_interleave(each, dim=3)
    y = y + torch.einsum("bcihn,bchpn,bhci->bcihp", maps, states.to(wide), past)
    y = y.flatten(1, 2)[:, : x.shape[1]]
    if D is not None:
        y = y + (D if D.dim() == 2 else D[:, None]).to(wide) * x.to(wide)
    if z is None:
        return y.to(x.dtype), None
    return (y * F.silu(z.to(wide))).to(x.dtype), y.to(x.dtype)


class ChunkScanFn:
    """`chunk_scan` as an autograd function."""

    apply = staticmethod(chunk_scan)
