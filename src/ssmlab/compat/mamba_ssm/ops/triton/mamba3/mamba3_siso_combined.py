"""Mamba-3's scan with one input and output a head, by the original's signature, on `ssmlab.ops.mamba3`.

The original casts its inputs to bfloat16 first; here they keep their dtype.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ssmlab.compat._absent import absent
from ssmlab.core.errors import UserError
from ssmlab.ops import Mamba3State, mamba3

__all__ = ["Mamba3Output", "mamba3_siso_combined"]
__getattr__ = absent(__name__, "_Mamba3Function _triton_alloc_fn", "call mamba3_siso_combined instead")


@dataclass(frozen=True)
class Mamba3Output:
    """The output and the four states after the last token."""

    out: Tensor
    final_angle_state: Tensor | None = None
    final_ssm_state: Tensor | None = None
    final_k_state: Tensor | None = None
    final_v_state: Tensor | None = None


def mamba3_siso_combined(
    Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D=None, Z=None, Input_States=None, chunk_size=64,
    return_final_states=False, cu_seqlens=None,
):  # fmt: skip
    """y (b, l, h, p)[, angle, ssm, k and v after the last token of every sequence].

    Args:
        Q, K: (b, l, g, n), with g groups of heads. V, Z: (b, l, h, p). ADT, DT, Trap: (b, h, l), Trap before sigmoid.
        Q_bias, K_bias: (h, n). Angles: rates of rotation before tanh, (b, l, h, s). D: (h,).
        Input_States: angle (sequences, h, s), ssm (sequences, h, p, n), k (sequences, h, n), v (sequences, h, p).
        chunk_size: accepted; the operator has a size of its own.
        cu_seqlens: where sequences begin in the only row, and the end of the last, (sequences + 1,).
    """
    bounds = [0, V.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    if cu_seqlens is not None and V.shape[0] != 1:
        raise UserError(f"mamba3_siso_combined: cu_seqlens cuts one row, got {V.shape[0]}; give the sequences in one")
    found = []
    for i, (begin, end) in enumerate(pairwise(bounds)):
        state = Input_States
        if state is not None and cu_seqlens is not None:
            state = tuple(t[i : i + 1] for t in state)
        own = slice(begin, end)
        found.append(
            mamba3(
                V[:, own], DT[..., own].mT, ADT[..., own].mT, Trap[..., own].mT, K[:, own, None], Q[:, own, None],
                Angles[:, own], D, z=None if Z is None else Z[:, own], B_bias=K_bias[:, None], C_bias=Q_bias[:, None],
                initial_state=None if state is None else carried(*state),
            )
        )  # fmt: skip
    y = torch.cat([y for y, _ in found], dim=1)
    if not return_final_states:
        return y
    angle, ssm, k, v = (torch.cat(states) for states in zip(*(state for _, state in found), strict=True))
    return y, angle, ssm, k[:, :, 0], v[:, :, 0]


def carried(angle: Tensor, ssm: Tensor, k: Tensor, v: Tensor) -> Mamba3State:
    """The operator's state of the original's four, whose k and v have no rank."""
    return Mamba3State(angle.float(), ssm.float(), k[:, :, None].float(), v[:, :, None].float())
