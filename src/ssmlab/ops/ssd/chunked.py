"""The state space dual in plain PyTorch for any device: matrix products within chunks, a carried state between them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops.ssd.backward import scan_backward
from ssmlab.ops.ssd.operator import ChunkedScan, call
from ssmlab.ops.ssd.parts import (
    Part,
    Workspace,
    blocks,
    cut,
    make_part,
    matmul,
    pieces,
    regions,
    split_heads,
    to_inner,
    to_outer,
)
from ssmlab.ops.ssd.reference import finish, restarts, step_size, widened

__all__ = ["differentiable", "forward", "scan_backward", "scan_forward", "unusable"]


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here: it always can."""
    return None


def forward(*arguments):
    """See the contract in `ssmlab.ops.ssd`."""
    return call("chunked", differentiable, *arguments)


def differentiable(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size):
    """The computation through autograd. The states between chunks are saved, all else within them is recomputed."""
    u, delta = widened(x), step_size(dt, dt_bias, dt_softplus, x)
    A, B, C, D = (None if t is None else t.to(u.dtype) for t in (A, B, C, D))
    if x.shape[1] == 1:
        (b, _, h, p), n = x.shape, B.shape[3]
        state = u.new_zeros(b, h, p, n) if initial_state is None else initial_state  # so that A has a gradient, of zero
        y, final = one_token(u, delta, A, B, C, state)
        return finish(y, u, D, z).to(x.dtype), final
    y, final, _ = ChunkedScan.apply(u, delta, A, B, C, D, None, initial_state, seq_idx, chunk_size, "chunked")
    return finish(y, u, None, z).to(x.dtype), final


def one_token(x, delta, A, B, C, initial_state):
    """y (b, 1, h, p) and the state after it, which is passed over twice: once to update it, once to multiply it."""
    g, r = split_heads(x, B)
    added = (delta[..., None] * x).view(-1, g, r, x.shape[3], 1) * B.view(-1, g, 1, 1, B.shape[3])
    if initial_state is None:
        state = added
    else:
        decay = torch.exp(delta * A).view(-1, g, r, 1, 1)
        state = torch.addcmul(added, decay, initial_state.to(x.dtype).unflatten(1, (g, r)))
    y = state.flatten(2, 3).flatten(0, 1) @ C.reshape(-1, C.shape[3], 1)
    return y.view(x.shape), state.flatten(1, 2)


def by_kernels(backend, x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size):
    """The scan with the gradient of a backend's kernels, the step sizes through autograd; one token here."""
    if x.shape[1] == 1:
        return differentiable(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size)
    delta = step_size(dt, dt_bias, dt_softplus, x)
    A, D = (None if t is None else t.float() for t in (A, D))
    return ChunkedScan.apply(x, delta, A, B, C, D, z, initial_state, seq_idx, chunk_size, backend)[:2]


def scan_forward(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size, save):
    """(y, final state, the states before every chunk and after the last if `save`), without autograd."""
    delta = step_size(dt, dt_bias, dt_softplus, x)
    if x.shape[1] == 1 and not save:
        A, B, C = (t.to(delta.dtype) for t in (A, B, C))
        y, final = one_token(widened(x), delta, A, B, C, initial_state)
        return finish(y, x, D, z).to(x.dtype).contiguous(), final.contiguous(), x.new_empty(0)
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    y, final, fresh = x.new_empty(x.shape), delta.new_empty(b, h, p, n), restarts(seq_idx, x)
    saved = delta.new_empty(-(-l // chunk_size) + 1 if save else 0, b, g, n, h // g, p)
    workspace = Workspace(delta)
    for rows in blocks(x, n, chunk_size):
        state = delta.new_zeros(1, rows.stop - rows.start, g, n, h // g, p)
        if initial_state is not None:
            state.copy_(to_inner(initial_state[rows], g))
        done = 0
        for tokens, q in regions(l, chunk_size):
            here = (rows, tokens)
            whole = make_part(x[here], delta[here], A, B[here], C[here], None if fresh is None else fresh[here], q)
            y_ = cut(y[here], q, split_heads(x, B))
            z_ = None if z is None else cut(z[here], q, split_heads(x, B))
            for some in pieces(whole, b):
                part, k = whole.take(some), some.stop - some.start
                shape = (k + 1, *state.shape[1:])
                states = saved[done : done + k + 1, rows] if save else workspace.room("states", shape)
                states[0] = state[0]
                inner = advance(part, states, workspace)
                y_[some] = finish_part(inner, part.x, D, None if z_ is None else z_[some])
                state, done = states[k:], done + k
        final[rows] = to_outer(state[0])
    return y, final, saved.flatten(4) if save else x.new_empty(0)


def advance(part: Part, states: Tensor, workspace: Workspace) -> Tensor:
    """y (k, b, g, r, q, p) of the scan proper; `states` (k + 1, b, g, n, r, p) holds the one before the first chunk,
    and those after each are filled in."""
    entering, leaving = states[:-1].flatten(4), states[1:].flatten(4)
    like = workspace.matmul("like", part.C, part.B.mT)
    mixed = workspace.pairs(part.coarse).mul_(like.unsqueeze(3))
    y = workspace.matmul("y", mixed, workspace.scaled("x", part.x, part.delta * part.shrink)).mul_(part.grow[..., None])
    kept = workspace.scaled("x by token", part.x.transpose(3, 4), (part.delta * part.until).mT)
    matmul(part.B.mT, kept.flatten(4), out=leaving)
    for i, total in enumerate(part.total):
        states[i + 1].addcmul_(states[i], total[:, :, None, :, None])
    recalled = workspace.matmul("recalled", part.C, entering).view(kept.shape).transpose(3, 4)
    return y.addcmul_(recalled, part.since[..., None])


def finish_part(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """`finish` in place, chunk by chunk, while y is in the cache."""
    if D is not None:
        skip = D.to(y.dtype).view(*x.shape[2:4], 1, -1)
        y.addcmul_(x.to(y.dtype), skip)
    return y if z is None else y.mul_(F.silu(z.to(y.dtype)))
