"""Mamba-3's scan by `ops.ssd`, which has kernels: the trapezoid as one term, the rotation folded into B and C.

With late_t = (1 - w_{t+1}) dt_{t+1}, what the next step will add of this token, and G_t = H_t + late_t v_t k_t^T,

    G_t = a_t G_{t-1} + (w_t dt_t + late_t) v_t k_t^T                   y_t = G_t q_t - late_t (k_t . q_t) v_t

which is the state space dual with a factor of its own for every token. The R inputs and outputs of MIMO are R tokens of
it, of which the first decays; what an output must see of the later ones among them is added.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops._torch import full_precision
from ssmlab.ops.mamba3.parts import finish, per_head, ranks, rates, turn, widest
from ssmlab.ops.ssd import ssd
from ssmlab.ops.ssd.reference import restarts

# The dual multiplies its decay's exponent into the input, so x is divided by it first. No exponent is nearer to zero:
# exp of it is 1, and neither x divided by it nor its gradient overflows.
LEAST = {torch.float32: 2.0**-40, torch.float64: 2.0**-80}


def forward(
    x, dt, log_decay, trap, B, C, angle, D, z, B_bias, C_bias, mimo, pairs, initial_state, seq_idx, lengths, chunk_size,
    backend,
):  # fmt: skip
    """See the contract in `ssmlab.ops.mamba3`."""
    with full_precision(x):
        dtype, (l, h) = widest(x), x.shape[1:3]
        dt, log_decay, weight = dt.to(dtype), log_decay.to(dtype), torch.sigmoid(trap.to(dtype))
        if lengths is not None:
            padding = (torch.arange(l, device=x.device) >= lengths[:, None])[..., None]
            dt, log_decay = dt.masked_fill(padding, 0.0), log_decay.masked_fill(padding, 0.0)
        given = (None,) * 4 if initial_state is None else tuple(t.to(dtype) for t in initial_state)
        fresh = restarts(seq_idx, x)
        theta, angle_state = turned(rates(angle, dtype) * dt[..., None], given[0], fresh, whole=mimo[0] is not None)
        k, q = (
            turn(per_head(map_, bias, h, dtype), theta.unsqueeze(2), pairs) for map_, bias in ((B, B_bias), (C, C_bias))
        )
        v = ranks(x, mimo[0], dtype)
        k_last, v_last = (after_last(t, old, lengths) for t, old in ((k, given[2]), (v, given[3])))
        ssm = None
        if initial_state is not None and l:
            coming = ((1 - weight[:, 0]) * dt[:, 0])[..., None, None]
            ssm = given[1] + coming * (given[3].mT @ given[2])
        elif initial_state is not None:
            ssm = given[1]
        if l == 1:
            y, ssm = one_token(v, k, q, log_decay, weight * dt, ssm)
        else:
            y, ssm = many_tokens(v, k, q, log_decay, weight, dt, fresh, ssm, seq_idx, chunk_size, backend)
        if D is not None:
            y = y + D.to(dtype)[:, None] * v
        if not l and initial_state is not None:  # a state of its own, not the one that was passed in
            ssm = ssm.clone()
        return finish(y, z, mimo).to(x.dtype), (angle_state, ssm, k_last, v_last)


def one_token(v, k, q, log_decay, now, ssm):
    """y (b, 1, r, h, p) and the state after it; the state before it holds the trapezoid's part of its predecessor."""
    v_, k_, q_ = (t[:, 0].transpose(1, 2) for t in (v, k, q))
    added = (now[:, 0, :, None, None] * v_).mT @ k_
    ssm = added if ssm is None else log_decay[:, 0, :, None, None].exp() * ssm + added
    return (q_ @ ssm.mT).transpose(1, 2).unsqueeze(1), ssm


def many_tokens(v, k, q, log_decay, weight, dt, fresh, ssm, seq_idx, chunk_size, backend):
    """y (b, l, r, h, p) and the state after the last token."""
    b, l, r, h, _ = v.shape
    coming = (1 - weight) * dt
    if fresh is not None:
        coming = coming.masked_fill(fresh[..., None], 0.0)
    late = F.pad(coming[:, 1:], (0, 0, 0, 1))
    both = weight * dt + late
    least = LEAST[v.dtype]
    exponent = (-log_decay).clamp(min=least).unsqueeze(2)
    if r > 1:
        exponent = torch.cat([exponent, exponent.new_full((b, l, r - 1, h), least)], dim=2)
        seq_idx = None if seq_idx is None else seq_idx.repeat_interleave(r, dim=1)
    y, ssm = ssd(
        (v * (both.unsqueeze(2) / exponent)[..., None]).flatten(1, 2),
        exponent.flatten(1, 2),
        exponent.new_full((h,), -1.0),
        k.flatten(1, 2),
        q.flatten(1, 2),
        chunk_size=chunk_size,
        initial_state=ssm,
        seq_idx=seq_idx,
        backend=backend,
    )
    y = y.unflatten(1, (l, r))
    if r == 1:
        return y - (late[:, :, None] * (k * q).sum(-1))[..., None] * v, ssm
    like = torch.einsum("blrhn,blshn->blhrs", q, k)
    later = torch.ones(r, r, dtype=like.dtype, device=like.device).triu(1)
    like = like * (both[..., None, None] * later - late[..., None, None])
    return y + torch.einsum("blhrs,blshp->blrhp", like, v), ssm


def turned(step: Tensor, before: Tensor | None, fresh: Tensor | None, whole: bool) -> tuple[Tensor, Tensor]:
    """The angles (b, l, h, s) at every token from how far each turns, and the state of it after the last.

    Summed in float64: in float32 the sum over a long text would lose the digits that its remainder is made of.
    """
    b, l, h, s = step.shape
    start = step.new_zeros(b, h, s, dtype=torch.float64) if before is None else before.double()
    # no padding: torch 2.8 refuses it without angles
    sums = torch.cat([start[:, None], start[:, None] + step.double().cumsum(1)], dim=1)
    if fresh is not None:  # less the sum before the sequence's first token
        places = torch.arange(l, device=step.device).expand(b, l)
        first = torch.where(fresh, places, 0).cummax(1).values[..., None, None]
        begun = fresh.cumsum(1).bool()[..., None, None]
        own = sums[:, 1:] - torch.where(begun, sums.take_along_dim(first, 1), 0.0)
        sums = torch.cat([sums[:, :1], own], dim=1)
    theta = sums.remainder(2 * torch.pi)
    return theta[:, 1:].to(step.dtype), (sums if whole else theta)[:, -1].to(step.dtype, copy=True)


def after_last(t: Tensor, before: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The last token's part of t (b, l, r, h, d) as (b, h, r, d); what was before where a row has none.

    In memory of its own: a view would change with the input, and keep all of it alive.
    """
    older = t.new_zeros(t.shape[0], 1, *t.shape[2:]) if before is None else before.transpose(1, 2)[:, None]
    if lengths is not None:
        last = torch.cat([older, t], dim=1).take_along_dim(lengths.long()[:, None, None, None, None], 1)
    else:
        last = t[:, -1:] if t.shape[1] else older
    return last[:, 0].transpose(1, 2).clone(memory_format=torch.contiguous_format)
