"""The definition of the selective scan: a loop over time in plain PyTorch, differentiated by autograd."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops.selective_scan.operator import call


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here: it always can."""
    return None


def forward(*arguments):
    """See the contract in `ssmlab.ops.selective_scan`."""
    return call("reference", differentiable, *arguments)


def differentiable(x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, dt_softplus):
    """The definition itself, through autograd."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    u, delta, A = x.to(dtype), step_size(dt.to(dtype), dt_bias, dt_softplus), A.to(torch.promote_types(A.dtype, dtype))
    B, C = (per_channel(map_, u, A) for map_ in (B, C))
    h = A.new_zeros(x.shape[0], *A.shape) if initial_state is None else initial_state.to(A.dtype)
    keep, added = keeps_state(seq_idx, x), delta * u
    outputs = []
    for t in range(x.shape[2]):
        h = h * keep[:, t, None, None] * torch.exp(delta[:, :, t, None] * A)
        h = h + added[:, :, t, None] * B[..., t if B.shape[-1] > 1 else 0]
        y = (h * C[..., t if C.shape[-1] > 1 else 0]).sum(-1)
        outputs.append(2 * y.real if A.is_complex() else y)
    y = torch.stack(outputs, dim=-1) if outputs else torch.zeros_like(u)
    return finish(y, u, D, z).to(x.dtype), h


def widened(x: Tensor) -> Tensor:
    """x in the dtype that the definition computes in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    """dt plus its bias, through softplus where requested."""
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)[:, None]
    return F.softplus(dt) if dt_softplus else dt


def per_channel(map_: Tensor, u: Tensor, A: Tensor) -> Tensor:
    """B or C as (b, d, n, l), or (1, d, n, 1) where constant, in the dtype of A."""
    d = u.shape[1]
    if map_.dim() == 2:
        return map_.to(A.dtype)[None, :, :, None]
    if A.is_complex():
        map_ = torch.complex(*map_.to(u.dtype).unflatten(-1, (-1, 2)).unbind(-1))  # view_as_complex wants even offsets
    if map_.dim() == 3:
        map_ = map_.unsqueeze(1)
    groups = map_.to(A.dtype).unsqueeze(2).expand(-1, -1, d // map_.shape[1], -1, -1)
    return groups.flatten(1, 2)  # a view where there is one group


def keeps_state(seq_idx: Tensor | None, x: Tensor) -> Tensor:
    """(b, l), 0 where a new sequence begins and 1 elsewhere; the first token continues the initial state."""
    keep = x.new_ones(x.shape[0], x.shape[2], dtype=torch.promote_types(x.dtype, torch.float32))
    if seq_idx is not None and x.shape[2] > 1:
        keep[:, 1:] = (seq_idx[:, 1:] == seq_idx[:, :-1]).to(keep.dtype)
    return keep


def finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """The skip D x and the gate silu(z)."""
    if D is not None:
        y = y + D.to(u.dtype)[:, None] * u
    return y if z is None else y * F.silu(z.to(u.dtype))
