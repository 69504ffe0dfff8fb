"""C B^T within chunks, by the original's signatures."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.compat._gradients import filled

__all__ = ["_bmm_chunk_bwd", "_bmm_chunk_fwd", "chunked"]
__getattr__ = absent(
    __name__, "_bmm_chunk_fwd_kernel _bmm_chunk_bwd_kernel init_to_zero", "call _bmm_chunk_fwd or _bmm_chunk_bwd"
)


def chunked(t: Tensor, size: int, value: float = 0) -> Tensor:
    """(b, l, ...) -> (b, c, size, ...), the last chunk filled up with `value`."""
    missing = -t.shape[1] % size
    return F.pad(t, (0, 0) * (t.dim() - 2) + (0, missing), value=value).unflatten(1, (-1, size))


def _bmm_chunk_fwd(a, b, chunk_size, seq_idx=None, causal=False, output_dtype=None):
    """a, b (b, l, k) or (b, l, g, k) -> a_i b_j (b, c, chunk_size, chunk_size) or (b, c, g, chunk_size, chunk_size).

    Args:
        seq_idx: (b, l); zero where i and j are of different sequences.
        causal: accepted; all pairs are computed.
    """
    dtype = a.dtype if output_dtype is None else output_dtype
    wide = torch.promote_types(a.dtype, torch.float32)
    a, b = (chunked(t.to(wide), chunk_size) for t in (a, b))
    y = torch.einsum("bci...k,bcj...k->bc...ij", a, b)
    if seq_idx is not None:
        run = chunked(seq_idx.long(), chunk_size, -1)
        same = run[..., :, None] == run[..., None, :]
        y = y * (same if y.dim() == 4 else same[:, :, None])
    return y.to(dtype)


def _bmm_chunk_bwd(a, dout, residual=None, out=None):
    """The gradient of b in `_bmm_chunk_fwd`, plus `residual`: a (b, l, k) or (b, l, g, k) -> the same."""
    wide = torch.promote_types(a.dtype, torch.float32)
    y = torch.einsum("bc...ij,bci...k->bcj...k", dout.to(wide), chunked(a.to(wide), dout.shape[-1]))
    y = y.flatten(1, 2)[:, : a.shape[1]]
    y = y if residual is None else y + residual.to(wide)
    return filled(out, y.to(a.dtype))
