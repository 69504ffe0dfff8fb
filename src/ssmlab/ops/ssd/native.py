"""The state space dual in C++ on the CPU: small matrix products in registers, chunk by chunk."""

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._native import address, vector, view
from ssmlab.ops.ssd import chunked
from ssmlab.ops.ssd.operator import call
from ssmlab.ops.ssd.reference import restarts, step_size

# Position of `workspace` in ssm_ssd: 8 sizes, 6 tensors, A, D, h0, h_final, saved, inner, restart.
WORKSPACE = 8 + 6 * 6 + 7


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
    members = [*_header(x, B, chunk_size), *view(x), *view(z), *view(y), *view(delta), *view(B), *view(C)]
    members += [address(t) for t in (A, D, initial_state, final)]
    members += [*(_addresses(saved, x, n, chunk_size) if save else (0, 0)), address(restart)]
    members += [0] * (1 + 3 * 6 + 7)
    _native.Call(members, WORKSPACE).run("ssm_ssd_forward_workspace", "ssm_ssd_forward")
    return y, final, saved


def scan_backward(gy, g_final, saved, x, delta, A, B, C, D, seq_idx, chunk_size, z):
    """The gradients of x, delta, A, B, C, D, the initial state and z."""
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    gx, gdelta = x.new_empty(x.shape), torch.empty(b, l, h, dtype=torch.float32)
    gz = x.new_empty(0) if z is None else z.new_empty(z.shape)
    g_initial, gA, gD = (torch.zeros(shape, dtype=torch.float32) for shape in ((b, h, p, n), (b, h), (b, h, p)))
    A32, D32, restart, g_final = vector(A), _skip(D, x), restarts(seq_idx, x), vector(g_final)
    members = [*_header(x, B, chunk_size), *view(x), *view(z), *view(None), *view(delta), *view(B), *view(C)]
    members += [address(A32), address(D32), 0, 0, *_addresses(saved, x, n, chunk_size), address(restart), 0]
    segments = _native.Call(members, WORKSPACE).size("ssm_ssd_segments")
    gB, gC = torch.empty(2, segments, b, l, g, n, dtype=torch.float32)
    members += [*view(gy), *view(gx), *view(None if z is None else gz)]
    members += [address(t) for t in (g_final, g_initial, gdelta, gA, gD, gB, gC)]
    if 0 not in (b, h, p):
        _native.Call(members, WORKSPACE).run("ssm_ssd_backward_workspace", "ssm_ssd_backward")
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


def _addresses(saved: Tensor, x: Tensor, n: int, chunk_size: int) -> tuple[int, int]:
    return saved.data_ptr(), saved.data_ptr() + 4 * _states(x, n, chunk_size)


def _chunk(chunk_size: int) -> int:
    """The tiles of longer chunks would not fit the caches; the result is the same."""
    return min(chunk_size, _native.CHUNK)


def _header(x: Tensor, B: Tensor, chunk_size: int) -> list[int]:
    b, l, h, p = x.shape
    return [b, l, h, p, B.shape[3], B.shape[2], _chunk(chunk_size), _native.threads()]


def _skip(D: Tensor | None, x: Tensor) -> Tensor | None:
    """D for every channel, (h, p)."""
    return None if D is None else vector((D if D.dim() == 2 else D[:, None]).expand(x.shape[2:]))
