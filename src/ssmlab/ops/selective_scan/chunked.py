"""The selective scan in plain PyTorch for any device: chunks side by side, segments recomputed in the backward pass."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssmlab.ops.selective_scan.operator import call
from ssmlab.ops.selective_scan.reference import finish, keeps_state, per_channel, step_size

SEGMENT = 256  # tokens whose states may exist at the same time, forward and backward
# Chunks are stepped side by side while their states together stay this small: beyond it a step is limited by
# memory, not by the calls, and the second pass that the chunks need is lost time.
STATES = {"cpu": 2**18, "other": 2**24}


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here: it always can."""
    return None


def forward(*arguments):
    """See the contract in `ssmlab.ops.selective_scan`."""
    return call("chunked", differentiable, *arguments)


def differentiable(x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, dt_softplus):
    """The computation itself, through autograd."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    u, delta, A = x.to(dtype), step_size(dt.to(dtype), dt_bias, dt_softplus), A.to(torch.promote_types(A.dtype, dtype))
    B, C = (per_channel(map_, u, A) for map_ in (B, C))
    h = A.new_zeros(x.shape[0], *A.shape) if initial_state is None else initial_state.to(A.dtype)
    pieces = [part.split(SEGMENT, dim=-1) for part in (u, delta, keeps_state(seq_idx, x))]
    maps = [map_.split(SEGMENT, dim=-1) if map_.shape[-1] > 1 else [map_] * len(pieces[0]) for map_ in (B, C)]
    # torch.func's transforms refuse the hooks of checkpointing; under them the states of all segments are kept.
    recompute = torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
    outputs = []
    if x.shape[2] > 0:
        for u_, delta_, keep, B_, C_ in zip(*pieces, *maps, strict=True):
            if recompute:  # the states of a segment exist only while it is differentiated
                y, h = checkpoint(_segment, u_, delta_, keep, A, B_, C_, h, use_reentrant=False)
            else:
                y, h = _segment(u_, delta_, keep, A, B_, C_, h)
            outputs.append(y)
    y = torch.cat(outputs, dim=-1) if outputs else torch.zeros_like(u)
    return finish(y, u, D, z).to(x.dtype), h


def _segment(u, delta, keep, A, B, C, h):
    """y (b, d, l) and the state after it: whole chunks side by side, then what remains."""
    budget = STATES.get(u.device.type, STATES["other"])
    chunks = max(1, min(16, budget // max(1, h.numel()), u.shape[2] // 4))
    steps = u.shape[2] // chunks
    whole = chunks * steps
    parts = []
    for begin, end, c in ((0, whole, chunks), (whole, u.shape[2], 1)):
        if begin < end:
            u_, delta_, keep_ = (_cut(t, begin, end, c) for t in (u, delta, keep[:, None]))
            B_, C_ = (_cut(t, begin, end, c) if t.shape[-1] > 1 else t.unsqueeze(-1) for t in (B, C))
            y, h = _chunks(u_, delta_, keep_, A[:, :, None], B_, C_, h)
            parts.append(y)
    return torch.cat(parts, dim=-1), h


def _cut(t: Tensor, begin: int, end: int, chunks: int) -> Tensor:
    """(..., l) to (..., chunks, steps) over begin..end."""
    return t[..., begin:end].unflatten(-1, (chunks, (end - begin) // chunks))


def _chunks(u, delta, keep, A, B, C, h):
    """u, delta (b, d, c, t), keep (b, 1, c, t), A (d, n, 1), B, C (b, d, n, c, t), h (b, d, n): one Python step per t.

    With several chunks a first pass finds what each adds and how it decays, so that the second can start right.
    """
    c, t = u.shape[2:]

    def step(i, state):
        decay = keep[..., i].unsqueeze(2) * torch.exp(delta[..., i].unsqueeze(2) * A)
        added = (delta[..., i] * u[..., i]).unsqueeze(2) * B[..., i if B.shape[-1] > 1 else 0]
        return decay, decay * state + added

    if c > 1:
        total, state = torch.ones_like(h).unsqueeze(-1), torch.zeros_like(h).unsqueeze(-1)
        for i in range(t):
            decay, state = step(i, state)
            total = total * decay
        starts = [h]
        for k in range(c):
            starts.append(total[..., k] * starts[-1] + state[..., k])
        state = torch.stack(starts[:-1], dim=-1)
    else:
        state = h.unsqueeze(-1)
    outputs = []
    for i in range(t):
        _, state = step(i, state)
        y = (state * C[..., i if C.shape[-1] > 1 else 0]).sum(2)
        outputs.append(2 * y.real if y.is_complex() else y)
    return torch.stack(outputs, dim=-1).flatten(2), state[..., -1]
