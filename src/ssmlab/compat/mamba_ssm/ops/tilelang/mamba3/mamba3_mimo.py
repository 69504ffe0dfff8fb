"""Mamba-3's scan with several inputs and outputs a head, by the original's signature, on `ssmlab.ops.mamba3`."""

import torch
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.core.errors import UserError
from ssmlab.ops import mamba3

__all__ = ["mamba3_mimo"]
__getattr__ = absent(__name__, "_Mamba3Function", "call mamba3_mimo instead")


def mamba3_mimo(
    Q, K, V, ADT, DT, Trap, Q_bias, K_bias, MIMO_V, MIMO_Z, MIMO_Out, Angles, D, Z, chunk_size, rotary_dim_divisor,
    dtype, return_state=False, cu_seqlens=None, fuse_pregate_headwise_rms_norm=False, outproj_norm_weight=None,
    outproj_norm_eps=1e-5,
):  # fmt: skip
    """y (b, l, h, p), or (b, l, r, h, p) without MIMO_Out[, sum of angles, state, k, v after the last token].

    Args:
        Q, K: (b, l, r, g, n), with g groups of heads. V, Z: (b, l, h, p).
        ADT, DT, Trap: (b, h, l), Trap before sigmoid.
        Q_bias, K_bias: (h, r, n). MIMO_V, MIMO_Z, MIMO_Out: (h, r, p). Angles: (b, l, h, s). D: (h,).
        chunk_size, rotary_dim_divisor, dtype: accepted; sizes are read from the tensors, and these keep their dtype.
        cu_seqlens: where sequences begin in the only row, and the end of the last, (sequences + 1,).
        fuse_pregate_headwise_rms_norm: norm every head's outputs before the gate, with `outproj_norm_weight` (h, p) and
            `outproj_norm_eps`.
    """
    seq_idx = None
    if cu_seqlens is not None:
        if return_state:
            raise UserError("mamba3_mimo: return_state gives one state a row, got cu_seqlens too; call it for each")
        places = torch.arange(V.shape[1], device=V.device)
        seq_idx = torch.searchsorted(cu_seqlens.to(places), places, right=True).expand(V.shape[0], -1)
    apart = fuse_pregate_headwise_rms_norm or MIMO_Out is None
    y, state = mamba3(
        V, DT.mT, ADT.mT, Trap.mT, K, Q, Angles, D, z=None if apart else Z, B_bias=K_bias, C_bias=Q_bias, mimo_x=MIMO_V,
        mimo_z=None if apart or Z is None else MIMO_Z, mimo_o=None if apart else MIMO_Out, pairs="halves",
        seq_idx=seq_idx,
    )  # fmt: skip
    if fuse_pregate_headwise_rms_norm:
        y = F.rms_norm(y, y.shape[-1:], eps=outproj_norm_eps)
        y = y if outproj_norm_weight is None else y * outproj_norm_weight.view(V.shape[2:])
    if apart and Z is not None:
        y = y * F.silu(Z[:, :, None] * MIMO_Z.transpose(0, 1))
    if fuse_pregate_headwise_rms_norm and MIMO_Out is not None:
        y = torch.einsum("blrhp,hrp->blhp", y, MIMO_Out)
    return (y, state.angle, state.ssm, state.k.transpose(1, 2), V[:, -1]) if return_state else y
