"""The definition of Mamba-3's scan: a loop over time in plain PyTorch, differentiated by autograd."""

import torch
from torch import Tensor

from ssmlab.ops._torch import full_precision
from ssmlab.ops.mamba3.parts import finish, per_head, ranks, rates, turn, widest
from ssmlab.ops.ssd.reference import restarts

TURN = 2 * torch.pi


def forward(x, dt, log_decay, trap, B, C, angle, D, z, B_bias, C_bias, mimo, pairs, initial_state, seq_idx, lengths):
    """See the contract in `ssmlab.ops.mamba3`."""
    with full_precision(x):
        dtype, (b, l, h, p) = widest(x), x.shape
        dt, decay, weight = dt.to(dtype), log_decay.to(dtype).exp(), torch.sigmoid(trap.to(dtype))
        v, rate = ranks(x, mimo[0], dtype), rates(angle, dtype)
        k, q = (per_head(map_, bias, h, dtype) for map_, bias in ((B, B_bias), (C, C_bias)))
        sizes = ((b, h, rate.shape[-1]), (b, h, p, B.shape[-1]), (b, h, *B.shape[2::2]), (b, h, B.shape[2], p))
        given = (None,) * 4 if initial_state is None else initial_state
        state = [
            x.new_zeros(size, dtype=dtype) if t is None else t.to(dtype) for t, size in zip(given, sizes, strict=True)
        ]
        fresh, outputs = restarts(seq_idx, x), []
        for t in range(l):
            if fresh is not None:
                state = [torch.where(_like(fresh[:, t], part), 0.0, part) for part in state]
            y, new = _step(dt[:, t], decay[:, t], weight[:, t], rate[:, t], v[:, t], k[:, t], q[:, t], pairs, state)
            if mimo[0] is None:
                new[0] = new[0].remainder(TURN)
            if lengths is not None:
                new = [torch.where(_like(t < lengths, n), n, old) for n, old in zip(new, state, strict=True)]
            state = new
            outputs.append(y)
        y = torch.stack(outputs, dim=1) if outputs else v
        if D is not None:
            y = y + D.to(dtype)[:, None] * v
        return finish(y, z, mimo).to(x.dtype), [t.clone(memory_format=torch.contiguous_format) for t in state]


def _step(dt, decay, weight, rate, v, k, q, pairs, state):
    """One token of all heads: y (b, r, h, p) and the four states after it."""
    theta, H, k_before, v_before = state
    theta = theta + rate * dt[..., None]
    k, q = (turn(map_, theta[:, None], pairs).transpose(1, 2) for map_ in (k, q))
    v = v.transpose(1, 2)
    before, now = (torch.einsum("bhrp,bhrn->bhpn", *pair) for pair in ((v_before, k_before), (v, k)))
    H = decay[..., None, None] * (H + ((1 - weight) * dt)[..., None, None] * before)
    H = H + (weight * dt)[..., None, None] * now
    return torch.einsum("bhpn,bhrn->brhp", H, q), [theta, H, k, v]


def _like(flag: Tensor, part: Tensor) -> Tensor:
    return flag.view(-1, *[1] * (part.dim() - 1))
