"""One token at a time in Triton: what `ops.steps` calls for CUDA tensors. No gradient; the states change in place.

Each returns None where the operator must be called.
"""

import os

import torch
from torch import Tensor

from ssmlab.ops import _triton
from ssmlab.ops._triton import ceil, launch, power, vector

# Numbers of the state that a program holds, and warps. Not measured.
ROOM, WARPS = 4096, 4


def conv_step(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor | None:
    """See `ssmlab.ops.steps.conv_step`."""
    if not _usable(x, state, weight, bias):
        return None
    from ssmlab.ops import _triton_step_kernels as kernels

    (b, d), width, length, y = x.shape, weight.shape[1], state.shape[2], x.new_empty(x.shape)
    columns = power(length)
    channels = min(power(d), max(1, ROOM // columns))
    launch(
        kernels.conv_step, (ceil(d, channels), b), x, state, weight, x if bias is None else vector(bias), y, d, width,
        length, *x.stride(), *state.stride(), *weight.stride(), SILU=silu, BIAS=bias is not None, CHANNELS=channels,
        LENGTH=columns, num_warps=WARPS,
    )  # fmt: skip
    return y


def scan_step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, dt_softplus: bool, into: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """See `ssmlab.ops.steps.scan_step`."""
    into = state if into is None else into
    if not (_usable(state, x, dt, A, B, C, D, z, dt_bias, into) and state.is_contiguous() and into.is_contiguous()):
        return None
    from ssmlab.ops import _triton_step_kernels as kernels

    (b, d, n), y, A = state.shape, x.new_empty(x.shape), A.float().contiguous()
    columns = power(n)
    channels = min(power(d), max(1, ROOM // columns))
    launch(
        kernels.scan_step, (ceil(d, channels), b), state, into, x, dt, A, B, C, *_given(A, vector(D), z),
        A if dt_bias is None else vector(dt_bias), y, d, n, *x.stride(), *dt.stride(),
        *(x if z is None else z).stride(), *B.stride(), *C.stride(),
        **_options(D, z, dt_bias, dt_softplus), CHANNELS=channels, STATES=columns,
        num_warps=WARPS,
    )  # fmt: skip
    return y


def head_step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, dt_softplus: bool,
) -> Tensor | None:  # fmt: skip
    """See `ssmlab.ops.steps.head_step`."""
    if not (_usable(state, x, dt, A, B, C, D, z, dt_bias) and state.is_contiguous()):
        return None
    from ssmlab.ops import _triton_step_kernels as kernels

    (b, h, p, n), y, A = state.shape, x.new_empty(x.shape), A.float().contiguous()
    columns = power(n)
    channels = min(power(p), max(1, ROOM // columns))
    launch(
        kernels.head_step, (ceil(p, channels), h, b), state, x, dt, A, B, C, *_given(A, vector(D), z),
        A if dt_bias is None else vector(dt_bias), y, h, p, n, h // B.shape[1], *x.stride(), *dt.stride(),
        *(x if z is None else z).stride(), *B.stride(), *C.stride(), **_options(D, z, dt_bias, dt_softplus),
        CHANNELS=channels, STATES=columns, num_warps=WARPS,
    )  # fmt: skip
    return y


def _usable(*tensors: Tensor | None) -> bool:
    """Whether nobody asks for another backend, no gradient is followed, and the kernels take these tensors."""
    if os.environ.get("SSMLAB_BACKEND", "triton") != "triton" or _triton.unusable(tensors) is not None:
        return False
    if tensors[0] is not None and _triton.too_many("rows", len(tensors[0])):
        return False
    return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


def _given(A: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    """Kernels take no None: A stands for what is absent, and is not read."""
    return [A if t is None else t for t in tensors]


def _options(D, z, dt_bias, dt_softplus) -> dict:
    return {"SKIP": D is not None, "GATE": z is not None, "BIAS": dt_bias is not None, "SOFTPLUS": dt_softplus}
