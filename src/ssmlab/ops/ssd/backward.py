"""The gradient of the chunked scan: chunks in reverse, each recomputed from the state before it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops.ssd.parts import Part, Workspace, blocks, cut, make_part, matmul, pieces, regions, to_inner, to_outer
from ssmlab.ops.ssd.reference import restarts


def scan_backward(gy, g_final, saved, x, delta, A, B, C, D, seq_idx, chunk_size):
    """The gradients of x, delta, A, B, C, D and the initial state of the scan without its gate."""
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    g_initial, fresh = delta.new_empty(b, h, p, n), restarts(seq_idx, x)
    gx, gdelta, gB, gC = (t.new_empty(t.shape) for t in (x, delta, B, C))
    gA, gD = delta.new_zeros(g, h // g), delta.new_zeros(g, h // g, p)
    skip = None if D is None else D.reshape(g, h // g, 1, -1)
    saved, workspace = saved.unflatten(4, (h // g, p)), Workspace(delta)
    for rows in blocks(x, n, chunk_size):
        carry = delta.new_zeros(rows.stop - rows.start, g, n, h // g, p)
        if g_final is not None:
            carry.copy_(to_inner(g_final[rows], g))
        end = saved.shape[0] - 1
        for tokens, q in reversed(regions(l, chunk_size)):
            here = (rows, tokens)
            whole = make_part(x[here], delta[here], A, B[here], C[here], None if fresh is None else fresh[here], q)
            heads = whole.x.shape[2:4]
            gy_, gx_, gdelta_ = (cut(t[here], q, heads) for t in (gy, gx, gdelta))
            gB_, gC_ = (cut(t[here], q, heads[:1]) for t in (gB, gC))
            for some in reversed(pieces(whole, b)):
                part, k = whole.take(some), some.stop - some.start
                states = saved[end - k : end + 1, rows]
                near, g_direct, g_log, gB_[some], gC_[some], carry = retreat(part, gy_[some], states, carry, workspace)
                gdelta_[some] = g_direct + A.view(*heads, 1) * g_log
                gA += (part.delta * g_log).sum((0, 1, 4))
                if skip is not None:
                    near.addcmul_(gy_[some], skip)
                    gD += workspace.product("gD", gy_[some], part.x).sum((0, 1, 4))
                gx_[some] = near
                end -= k
        g_initial[rows] = to_outer(carry)
    if D is None:
        gD = x.new_empty(0)
    else:
        gD = (gD if D.dim() == 2 else gD.sum(2)).view(D.shape)
    return gx, gdelta, gA.flatten(), gB, gC, gD, g_initial


def retreat(part: Part, gy: Tensor, states: Tensor, carry: Tensor, workspace: Workspace):
    """The gradients of x, of delta but for its part in the decay, of the log decay, of B, C, and of the state before
    the first chunk, given those of y and of the state after the last."""
    matmul_, scaled, product = workspace.matmul, workspace.scaled, workspace.product
    near, far = part.delta * part.shrink, part.delta * part.until  # what x is multiplied by

    # Within chunks: y_i = sum over j <= i of  C_i B_j  exp(log decay from j to i)  delta_j x_j.
    decay, like = workspace.pairs(part.coarse), matmul_("like", part.C, part.B.mT).unsqueeze(3)
    gy_, added = scaled("gy", gy, part.grow), scaled("x", part.x, near)
    g_pairs = matmul_("g_pairs", gy_, added.mT).mul_(decay)
    g_like = g_pairs.sum(3)
    g_near = matmul_("g_near", decay.mul_(like).mT, gy_)
    g_log = across(g_pairs.mul_(like), workspace)

    # Out of the state before the chunk: y_i += C_i exp(log decay until i) H.
    entering = states[:-1].flatten(4)
    gy_ = scaled("gy by token", gy.transpose(3, 4), part.since.mT)
    recalled = matmul_("by token", part.C, entering).view(gy_.shape)
    g_log += recalled.mul_(gy_).sum(-1).mT.flip(-1).cumsum(-1).flip(-1)
    gC = matmul_("gC", g_like, part.B) + matmul_("gC of states", gy_.flatten(4), entering.mT)

    # Into the state after the chunk: H' = exp(total) H + sum over j of  B_j exp(log decay from j on) delta_j x_j.
    g_states = workspace.room("g_states", states.shape)
    g_states[-1] = carry
    matmul(part.C.mT, gy_.flatten(4), out=g_states[:-1].flatten(4))
    for i in reversed(range(len(part.total))):
        g_states[i].addcmul_(g_states[i + 1], part.total[i][:, :, None, :, None])
    g_leaving = g_states[1:].flatten(4)
    kept = scaled("gy by token", part.x.transpose(3, 4), far.mT)
    gB = matmul_("gB", g_like.mT, part.C) + matmul_("gB of states", kept.flatten(4), g_leaving.mT)
    g_far = matmul_("by token", part.B, g_leaving).view(kept.shape).transpose(3, 4)
    far_x = product("x", part.x, g_far).sum(-1)
    g_log += F.pad((far * far_x)[..., :-1].cumsum(-1), (1, 0))
    g_log += (part.total * product("states", states[:-1], g_states[1:]).sum((3, 5)))[..., None]

    g_direct = part.shrink * product("x", part.x, g_near).sum(-1) + part.until * far_x
    gx = g_near.mul_(near[..., None]).addcmul_(g_far, far[..., None])
    return gx, g_direct, g_log, gB, gC, g_states[0]


def across(g_pairs: Tensor, workspace: Workspace) -> Tensor:
    """The gradient of each token's log decay: the sum over the pairs j < token <= i.

    The difference of sums over rows and columns would be cheaper, but its digits cancel where the decay is strong.
    """
    until = torch.cumsum(g_pairs, -1, out=workspace.room("until", g_pairs.shape)).tril_(-1)
    return F.pad(until.sum(-2)[..., :-1], (1, 0))
