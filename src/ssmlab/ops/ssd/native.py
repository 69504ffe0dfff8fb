"""The state space dual in C++ on the CPU: small matrix products in registers, chunk by chunk."""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops._native import address, vector, view
from ssmlab.ops.ssd import chunked
from ssmlab.ops.ssd.operator import call
from ssmlab.ops.ssd.reference import restarts, step_size


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    return _native.unusable(tensors)


def forward(*arguments):
    """See the contract in `ssmlab.ops.ssd`."""
    return call("native", differentiable, *arguments)


def differentiable(*arguments):
    """The kernels with their gradient."""
    return chunked.by_kernels("native", *arguments)


def scan_forward(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size, save):
    """(y, final state, and if `save` the states before every chunk with y before its gate), without autograd."""
    if x.shape[1] == 1 and not save:
        return chunked.scan_forward(
            x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size, False
        )  # fmt: skip
    b, _, h, p = x.shape
    n = B.shape[3]
    y, final = x.new_empty(x.shape), x.new_empty((b, h, p, n), dtype=torch.float32)
    saved = x.new_empty(saved_size(x, n, z, chunk_size) if save else 0, dtype=torch.float32)
    if 0 in (b, h, p):
        return y, final, saved
    delta, restart = step_size(dt, dt_bias, dt_softplus, x), restarts(seq_idx, x)
    A, D, initial_state = vector(A), _skip(D, x), vector(initial_state)
    struct = _struct(x, delta, A, B, C, D, z, restart, chunk_size, saved if save else None)
    struct.y, struct.h0, struct.h_final = view(y), address(initial_state), address(final)
    _native.run("ssm_ssd_forward", struct, "ssm_ssd_forward_workspace")
    return y, final, saved


def scan_backward(gy, g_final, saved, x, delta, A, B, C, D, seq_idx, chunk_size, z):
    """The gradients of x, delta, A, B, C, D, the initial state and z."""
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    gx, gdelta = x.new_empty(x.shape), torch.empty(b, l, h, dtype=torch.float32)
    gz = x.new_empty(0) if z is None else z.new_empty(z.shape)
    g_initial, gA, gD = (torch.zeros(shape, dtype=torch.float32) for shape in ((b, h, p, n), (b, h), (b, h, p)))
    A32, D32, restart, g_final = vector(A), _skip(D, x), restarts(seq_idx, x), vector(g_final)
    struct = _struct(x, delta, A32, B, C, D32, z, restart, chunk_size, saved)
    segments = _native.size("ssm_ssd_segments", struct)
    gB, gC = torch.empty(2, segments, b, l, g, n, dtype=torch.float32)
    struct.gy, struct.gx, struct.gz = view(gy), view(gx), view(None if z is None else gz)
    struct.g_final, struct.gh0, struct.gdt = address(g_final), address(g_initial), address(gdelta)
    struct.gA, struct.gD, struct.gB, struct.gC = (address(t) for t in (gA, gD, gB, gC))
    if 0 not in (b, h, p):
        _native.run("ssm_ssd_backward", struct, "ssm_ssd_backward_workspace")
    gB, gC = (partial.sum(0).to(map_.dtype) for partial, map_ in ((gB, B), (gC, C)))
    if D is None:
        gD = x.new_empty(0)
    else:
        gD = (gD.sum(0) if D.dim() == 2 else gD.sum((0, 2))).to(D.dtype)
    return gx, gdelta, gA.sum(0).to(A.dtype), gB, gC, gD, g_initial, gz


def saved_size(x: Tensor, n: int, z: Tensor | None, chunk_size: int) -> int:
    """Floats of what a backward pass needs of the forward one: the states, then y before its gate."""
    b, l, h, p = x.shape
    return _states(x, n, chunk_size) + (0 if z is None else b * l * h * p)


def _states(x: Tensor, n: int, chunk_size: int) -> int:
    """A state (n, p) of each head before every chunk, its rows rounded up to 16."""
    b, l, h, p = x.shape
    return -(-l // _chunk(chunk_size)) * b * h * n * (-(-p // 16) * 16)


def _chunk(chunk_size: int) -> int:
    """The tiles of longer chunks would not fit the caches; the result is the same."""
    return min(chunk_size, _native.CHUNK)


def _struct(x, delta, A, B, C, D, z, restart, chunk_size, saved) -> Any:
    """What an `ssm_ssd` has in common forward and backward."""
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    return STRUCTS["ssm_ssd"](
        batch=b, length=l, heads=h, headdim=p, states=n, groups=g, chunk=_chunk(chunk_size), threads=_native.threads(),
        x=view(x), z=view(z), dt=view(delta), B=view(B), C=view(C), A=address(A), D=address(D), saved=address(saved),
        inner=0 if saved is None else address(saved) + 4 * _states(x, n, chunk_size), restart=address(restart),
    )  # fmt: skip


def _skip(D: Tensor | None, x: Tensor) -> Tensor | None:
    """D for every channel, (h, p)."""
    return None if D is None else vector((D if D.dim() == 2 else D[:, None]).expand(x.shape[2:]))
