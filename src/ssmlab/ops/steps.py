"""One token at a time with the state updated in place: the calls that decoding makes for every layer.

The operators do the same with `l = 1`, and return a new state. These write into the one they are given and skip what a
single token does not need, so that a call takes 10 to 20 microseconds instead of 40. They have no gradient. Each takes
float32 tensors on the CPU whose last axis lies side by side in memory, and returns None for anything else: the caller
then takes the operator.
"""

import os

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._native import Call, address
from ssmlab.ops.selective_scan.native import WORKSPACE, interval

_ALONE = 1 << 16  # states; fewer are one thread's work
# Rows (half as many in half precision) and weights: with more of the ones or less of the others torch's product is as
# fast. Two threads of a Zen 4, (1, 768) times (768, 3072): 0.12 ms, torch 0.54; 8 rows: 0.48 and 0.85.
FEW, LARGE = 8, 1 << 15


def conv_step(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor | None:
    """Convolve one token with the inputs before it, and move those on.

    Args:
        x: (b, d). state: (b, d, at least width - 1), newest last. weight: (d, width). bias: (d,).
    Returns:
        y (b, d); None where the operator must be called.
    """
    if not (_usable(x, state, weight, bias) and state.is_contiguous() and weight.is_contiguous()):
        return None
    (b, d), y = x.shape, torch.empty(x.shape)
    members = [b, d, weight.shape[1], state.shape[2], silu, x.data_ptr(), x.stride(0), state.data_ptr()]
    members += [weight.data_ptr(), address(bias), y.data_ptr()]
    _run("ssm_conv_step_", members)
    return y


def scan_step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, dt_softplus: bool,
) -> Tensor | None:  # fmt: skip
    """Advance a selective scan by one token.

    Args:
        state: (b, d, n). x, dt, z: (b, d). A: (d, n). B, C: (b, n). D, dt_bias: (d,).
    Returns:
        y (b, d); None where the operator must be called.
    """
    if not (_usable(state, x, dt, A, B, C, D, z, dt_bias) and state.is_contiguous() and A.is_contiguous()):
        return None
    (b, d, n), y = state.shape, torch.empty(x.shape)
    threads = 1 if b * d * n < _ALONE else _native.threads()
    members = [b, d, 1, n, 1, 0, 0, dt_softplus, interval(n), threads, 0, 0]
    members += [*_row(x), *_row(dt), *_row(z), *_row(y), *_map(B), *_map(C)]
    members += [A.data_ptr(), address(D), address(dt_bias), state.data_ptr(), 0, d * n, n, 1, 0, state.data_ptr()]
    Call(members + [0] * 34, WORKSPACE).run("ssm_scan_forward_workspace", "ssm_scan_forward")
    return y


def head_step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, dt_softplus: bool,
) -> Tensor | None:  # fmt: skip
    """Advance a scan with one decay a head by one token.

    Args:
        state: (b, h, p, n). x, z: (b, h, p). dt: (b, h). A, D, dt_bias: (h,). B, C: (b, g, n).
    Returns:
        y (b, h, p); None where the operator must be called.
    """
    if not (_usable(state, x, B, C, z) and _usable_any(dt, A, D, dt_bias) and state.is_contiguous()):
        return None
    if not all(t is None or t.stride(1) == t.shape[2] for t in (x, z, B, C)):
        return None
    (b, h, p, n), y = state.shape, torch.empty(x.shape)
    members = [b, h, p, n, B.shape[1], dt_softplus, _native.threads(), x.data_ptr(), address(z), dt.data_ptr()]
    members += [x.stride(0), 0 if z is None else z.stride(0), *dt.stride(), A.data_ptr(), address(D), address(dt_bias)]
    members += [A.stride(0), 0 if D is None else D.stride(0), 0 if dt_bias is None else dt_bias.stride(0)]
    members += [B.data_ptr(), C.data_ptr(), B.stride(0), C.stride(0), state.data_ptr(), y.data_ptr()]
    _run("ssm_head_step_", members)
    return y


def linear_step(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """A linear layer for few rows; a product of two matrices reads the weights at half the memory's speed.

    Args:
        x: (..., inputs), float32, bfloat16 or float16; at most `FEW` rows. weight: (outputs, inputs), of its dtype.
    Returns:
        x weight^T + bias, (..., outputs), in the dtype of x; None where torch's own product must be called.
    """
    inputs, outputs = weight.shape[1], weight.shape[0]
    rows = x.numel() // max(1, inputs)
    few = FEW if x.dtype is torch.float32 else FEW // 2
    if not (0 < rows <= few and outputs * inputs >= LARGE and _usable_any() and weight.dtype is x.dtype):
        return None
    if x.dtype not in _native.DTYPES or not (x.is_cpu and weight.is_cpu and weight.stride(1) == 1):
        return None
    flat, y = x.reshape(rows, inputs).float().contiguous(), torch.empty(*x.shape[:-1], outputs)
    bias = _native.vector(bias)
    members = [rows, inputs, outputs, _native.DTYPES[x.dtype], _native.threads(), flat.data_ptr(), inputs]
    members += [weight.data_ptr(), weight.stride(0), address(bias), y.data_ptr()]
    _run("ssm_linear_", members)
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def _usable(*tensors: Tensor | None) -> bool:
    return _usable_any(*tensors) and all(t is None or t.stride(-1) == 1 for t in tensors)


def _usable_any(*tensors: Tensor | None) -> bool:
    """Whether the kernels are there, nobody asks for another backend, and all are float32 on the CPU."""
    if _native.LIBRARY is None or _native.REFUSED or os.environ.get("SSMLAB_BACKEND", "native") != "native":
        return False
    return all(t is None or (t.dtype is torch.float32 and t.is_cpu) for t in tensors)


def _run(function: str, members: list) -> None:
    struct = Call(members, 0)  # held until the kernel returns
    getattr(_native.library(), function)(struct.pointer())


def _row(t: Tensor | None) -> tuple[int, ...]:
    """An `ssm_tensor` (b, d, 1)."""
    return (0,) * 6 if t is None else (t.data_ptr(), 0, t.stride(0), 1, 0, 0)


def _map(t: Tensor) -> tuple[int, ...]:
    """An `ssm_tensor` (b, 1, n, 1)."""
    return (t.data_ptr(), 0, t.stride(0), 0, 1, 0)
