"""One token at a time with the state updated in place: the calls that decoding makes for every layer.

The operators do the same with `l = 1`, and return a new state. These write into the one they are given and skip what a
single token does not need, so that a call takes 10 to 20 microseconds instead of 40. They have no gradient. Each takes
float32 tensors on the CPU whose last axis lies side by side in memory, the first three CUDA tensors too, and returns
None for anything else: the caller then takes the operator.
"""

import os

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ssmlab.ops import _native, _triton_steps
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops._native import address
from ssmlab.ops.selective_scan.native import interval

_SCAN, _CONV, _HEAD, _LINEAR = (STRUCTS[f"ssm_{name}"] for name in ("scan", "conv_step", "head_step", "linear"))
_ALONE = 1 << 16  # states; fewer are one thread's work
# Rows (half as many in half precision) and weights: with more of the ones or less of the others torch's product is as
# fast. Two threads of a Zen 4, (1, 768) times (768, 3072): 0.12 ms, torch 0.54; 8 rows: 0.48 and 0.85.
FEW, LARGE = 8, 1 << 15
FEW_OF_INT8 = 32  # rows; torch's product needs the weights as floats first
INT8 = 4  # SSM_INT8


def conv_step(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor | None:
    """Convolve one token with the inputs before it, and move those on.

    Args:
        x: (b, d). state: (b, d, at least width - 1), newest last. weight: (d, width). bias: (d,).
    Returns:
        y (b, d); None where the operator must be called.
    """
    if not (_usable(x, state, weight, bias) and state.is_contiguous() and weight.is_contiguous()):
        return _triton_steps.conv_step(x, state, weight, bias, silu)
    (b, d), y = x.shape, torch.empty(x.shape, dtype=torch.float32)
    _native.run("ssm_conv_step_", _CONV(
        batch=b, dim=d, width=weight.shape[1], length=state.shape[2], silu=silu, x=x.data_ptr(), x_stride=x.stride(0),
        state=state.data_ptr(), weight=weight.data_ptr(), bias=address(bias), y=y.data_ptr(),
    ))  # fmt: skip
    return y


def scan_step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, dt_softplus: bool, into: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """Advance a selective scan by one token.

    Args:
        state: (b, d, n). x, dt, z: (b, d). A: (d, n). B, C: (b, n). D, dt_bias: (d,).
        into: what takes the new state, contiguous and of the same shape; None: `state` itself.
    Returns:
        y (b, d); None where the operator must be called.
    """
    if not (_usable(state, x, dt, A, B, C, D, z, dt_bias) and state.is_contiguous() and A.is_contiguous()):
        return _triton_steps.scan_step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, into)
    (b, d, n), y = state.shape, torch.empty(x.shape, dtype=torch.float32)
    threads = 1 if b * d * n < _ALONE else _native.threads()
    struct = _SCAN(
        batch=b, dim=d, length=1, states=n, groups=1, softplus=dt_softplus, interval=interval(n), threads=threads,
        x=_row(x), dt=_row(dt), z=_row(z), y=_row(y), B=_map(B), C=_map(C), A=A.data_ptr(), D=address(D),
        dt_bias=address(dt_bias), h0=(state.data_ptr(), 0, d * n, n, 1),
        h_final=(state if into is None else into).data_ptr(),
    )  # fmt: skip
    _native.run("ssm_scan_forward", struct, "ssm_scan_forward_workspace")
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
        return _triton_steps.head_step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    if not all(t is None or t.stride(1) == t.shape[2] for t in (x, z, B, C)):
        return None
    (b, h, p, n), y = state.shape, torch.empty(x.shape, dtype=torch.float32)
    _native.run("ssm_head_step_", _HEAD(
        batch=b, heads=h, headdim=p, states=n, groups=B.shape[1], softplus=dt_softplus, threads=_native.threads(),
        x=x.data_ptr(), z=address(z), dt=dt.data_ptr(), x_stride=x.stride(0), z_stride=_stride(z),
        dt_stride=dt.stride(0), dt_head_stride=dt.stride(1), A=A.data_ptr(), D=address(D), dt_bias=address(dt_bias),
        A_stride=A.stride(0), D_stride=_stride(D), dt_bias_stride=_stride(dt_bias), B=B.data_ptr(), C=C.data_ptr(),
        B_stride=B.stride(0), C_stride=C.stride(0), state=state.data_ptr(), y=y.data_ptr(),
    ))  # fmt: skip
    return y


def conv_token(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor] | None:
    """`conv_step` with a new state instead of a changed one, in half precision too.

    Returns:
        y (b, d) and the new state, both in the dtype of x; None where the operator must be called.
    """
    if _on_gpu(x):
        after = state.to(x.dtype, copy=True, memory_format=torch.contiguous_format)
        y = _triton_steps.conv_step(x, after, weight, bias, silu)
        return None if y is None else (y, after)
    if x.dtype not in _native.DTYPES or not x.is_cpu:
        return None
    if x.dtype is torch.float32 is state.dtype:
        after = state.clone(memory_format=torch.contiguous_format)
        y = conv_step(x, after, weight, bias, silu)
        return None if y is None else (y, after)
    after = state.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    y = conv_step(x.float(), after, weight.float(), _native.vector(bias), silu)
    return None if y is None else (y.to(x.dtype), after.to(x.dtype))


def scan_token(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor
) -> tuple[Tensor, Tensor] | None:
    """`scan_step` with softplus, and with a new state instead of a changed one, in half precision too.

    Returns:
        y (b, d) in the dtype of x, and the new state; None where the operator must be called.
    """
    if _on_gpu(x):
        after = torch.empty_like(state, memory_format=torch.contiguous_format)
        y = _triton_steps.scan_step(state.contiguous(), x, dt, A, B, C, D, z, None, True, after)
        return None if y is None else (y, after)
    if x.dtype not in _native.DTYPES or not state.is_cpu:
        return None
    after = torch.empty_like(state, memory_format=torch.contiguous_format)
    if x.dtype is torch.float32:
        y = scan_step(state, x, dt, A, B, C, D, z, None, True, after)
        return None if y is None else (y, after)
    y = scan_step(state, x.float(), dt.float(), A, B.float(), C.float(), D.float(), z.float(), None, True, after)
    return None if y is None else (y.to(x.dtype), after)


def head_token(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None,
    dt_bias: Tensor | None, dt_softplus: bool,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """`head_step` with a new state instead of a changed one, in half precision too; D (h,) alone.

    Returns:
        y (b, h, p) in the dtype of x, and the new state; None where the operator must be called.
    """
    if _on_gpu(x) and D.ndim == 1:
        after = state.clone(memory_format=torch.contiguous_format)
        y = _triton_steps.head_step(after, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
        return None if y is None else (y, after)
    if x.dtype not in _native.DTYPES or D.ndim > 1 or not (state.is_cpu and state.dtype is torch.float32):
        return None
    after = state.clone(memory_format=torch.contiguous_format)
    inputs = (x.float(), dt.float(), A, B.float(), C.float(), D.float(), None if z is None else z.float())
    y = head_step(after, *inputs, _native.vector(dt_bias), dt_softplus)
    return None if y is None else (y.to(x.dtype), after)


def linear_step(x: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Tensor | None:
    """A linear layer for few rows; a product of two matrices reads the weights at half the memory's speed.

    Args:
        x: (..., inputs), float32, bfloat16 or float16; at most `FEW` rows, half as many in half precision.
        weight: (outputs, inputs), of the dtype of x, or int8 with a `scale`.
        bias: (outputs,).
        scale: (outputs,), what a row of int8 weights is multiplied by; as many as `FEW_OF_INT8` rows of x then.
    Returns:
        x weight^T + bias, (..., outputs), in the dtype of x; None where torch's own product must be called.
    """
    (outputs, inputs), dtype, count = weight.shape, x.dtype, x.numel()
    kind = _native.DTYPES.get(dtype)
    if scale is not None:
        few, least = FEW_OF_INT8, 0
    else:
        few, least = FEW if dtype is torch.float32 else FEW // 2, LARGE
    if kind is None or not 0 < count <= few * inputs or outputs * inputs < least:
        return None
    if weight.dtype is not (dtype if scale is None else torch.int8) or not (x.is_cpu and weight.is_cpu):
        return None
    if weight.layout is not torch.strided or weight.stride(1) != 1 or not available():
        return None
    flat = x if dtype is torch.float32 and x.is_contiguous() else x.float().contiguous()
    y = flat.new_empty((*x.shape[:-1], outputs))
    bias, scale = _native.vector(bias), _native.vector(scale)
    _native.run("ssm_linear_", _LINEAR(
        rows=count // inputs, inputs=inputs, outputs=outputs, dtype=kind if scale is None else INT8,
        threads=_native.threads(), x=flat.data_ptr(), x_stride=inputs, weight=weight.data_ptr(),
        weight_stride=weight.stride(0), bias=address(bias), y=y.data_ptr(), scale=address(scale),
    ))  # fmt: skip
    return y if dtype is torch.float32 else y.to(dtype)


def is_plain_inference(x: Tensor, weight: Tensor) -> bool:
    """No gradient in either mode, and `is_plain_eager`: a function without a gradient may take an operator's place."""
    return not torch.is_grad_enabled() and is_plain_eager(x, weight)


def is_plain_eager(x: Tensor, weight: Tensor) -> bool:
    """No compiler, tangent, transformation, counter, tracer, autocast or subclass of Tensor; autograd may record."""
    return not (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or type(weight) not in (nn.Parameter, Tensor)
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )


def _usable(*tensors: Tensor | None) -> bool:
    """Whether `available`, and all are float32 on the CPU with the last axis side by side. A loop, which is faster."""
    if not available():
        return False
    for t in tensors:
        if t is not None and not (t.dtype is torch.float32 and t.is_cpu and t.stride(-1) == 1):
            return False
    return True


def _usable_any(*tensors: Tensor | None) -> bool:
    """The same with any strides."""
    return available() and all(t is None or (t.dtype is torch.float32 and t.is_cpu) for t in tensors)


def _on_gpu(x: Tensor) -> bool:
    """Whether the Triton kernels are taken. Autocast, which `is_plain_inference` sees on the CPU, chooses dtypes."""
    return x.is_cuda and not torch.is_autocast_enabled("cuda")


def available() -> bool:
    """Whether the kernels are there and no other backend is requested."""
    return _native.LIBRARY is not None and not _native.REFUSED and no_other_backend()


def no_other_backend() -> bool:
    """Whether SSMLAB_BACKEND names no other backend than ours."""
    return os.environ.get("SSMLAB_BACKEND", "native") == "native"


def _stride(t: Tensor | None) -> int:
    return 0 if t is None else t.stride(0)


def _row(t: Tensor | None) -> tuple[int, ...]:
    """An `ssm_tensor` (b, d, 1)."""
    return () if t is None else (t.data_ptr(), 0, t.stride(0), 1)


def _map(t: Tensor) -> tuple[int, ...]:
    """An `ssm_tensor` (b, 1, n, 1)."""
    return (t.data_ptr(), 0, t.stride(0), 0, 1)
