"""The definition of the state space dual: a loop over time in plain PyTorch, differentiated by autograd."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops.ssd.operator import call


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here: it always can."""
    return None


def forward(*arguments):
    """See the contract in `ssmlab.ops.ssd`."""
    return call("reference", differentiable, *arguments)


def differentiable(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size):
    """The definition itself, through autograd; it has no chunks."""
    u, delta = widened(x), step_size(dt, dt_bias, dt_softplus, x)
    A, B, C = A.to(u.dtype), per_head(B, u), per_head(C, u)
    b, _, h, p = x.shape
    H = u.new_zeros(b, h, p, B.shape[-1]) if initial_state is None else initial_state.to(u.dtype)
    fresh = restarts(seq_idx, x)
    outputs = []
    for t in range(x.shape[1]):
        if fresh is not None:
            H = torch.where(fresh[:, t, None, None, None], 0, H)
        decay = torch.exp(delta[:, t] * A)[..., None, None]
        H = decay * H + (delta[:, t, :, None] * u[:, t])[..., None] * B[:, t, :, None]
        outputs.append((H * C[:, t, :, None]).sum(-1))
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(u)
    return finish(y, u, D, z).to(x.dtype), H


def widened(x: Tensor) -> Tensor:
    """x in the dtype that everything is computed in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, x: Tensor) -> Tensor:
    """dt plus its bias, through softplus where requested, in the dtype of the computation."""
    dt = dt.to(torch.promote_types(x.dtype, torch.float32))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    return F.softplus(dt) if dt_softplus else dt


def per_head(map_: Tensor, u: Tensor) -> Tensor:
    """B or C as (b, l, h, n), a view where there is one group."""
    heads = u.shape[2] // map_.shape[2]
    return map_.to(u.dtype).unsqueeze(3).expand(-1, -1, -1, heads, -1).flatten(2, 3)


def restarts(seq_idx: Tensor | None, x: Tensor) -> Tensor | None:
    """(b, l), True where a new sequence begins; the first token continues the initial state."""
    if seq_idx is None:
        return None
    first = torch.zeros(x.shape[0], min(1, x.shape[1]), dtype=torch.bool, device=x.device)
    return torch.cat([first, seq_idx[:, 1:] != seq_idx[:, :-1]], dim=1)


def finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """The skip D x and the gate silu(z)."""
    if D is not None:
        y = y + (D if D.dim() == 2 else D[:, None]).to(y.dtype) * u
    return y if z is None else y * F.silu(z.to(y.dtype))
