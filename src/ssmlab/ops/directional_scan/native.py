"""The directional scan in C++ on the CPU: the scan's kernels walk the map by strides and add to one output."""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops._native import address, vector
from ssmlab.ops.directional_scan.operator import KernelDirectional, call
from ssmlab.ops.selective_scan.native import interval, unusable

__all__ = ["forward", "outputs", "scan_backward", "scan_forward", "unusable"]


def forward(*arguments):
    """See the contract in `ssmlab.ops.directional_scan`."""
    result = call("native", differentiable, *arguments)
    return result[0] if isinstance(result, tuple) else result


def differentiable(*arguments):
    """The kernels with their gradient."""
    return KernelDirectional.apply(*arguments, "native")


def outputs(x: Tensor, A: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    """Unfilled y and saved states, also what the operator's fake kernel returns.

    A map of a half type is summed in float32 and rounded once.
    """
    b, d, h, w = x.shape
    k, _, n = A.shape
    shape = (k, b, -(-h * w // interval(n)), n, d) if save else (0,)
    return torch.empty_like(x), x.new_empty(shape, dtype=torch.float32)


def scan_forward(x, dt, A, B, C, D, dt_bias, dt_softplus, save):
    """(y, the states before every interval of every direction if `save`)."""
    y, saved = outputs(x, A, save)
    if not x.numel():
        return y, saved
    total = y if y.dtype == torch.float32 else torch.empty_like(y, dtype=torch.float32)
    final = torch.empty(x.shape[0], *A.shape[1:], dtype=torch.float32)
    A, D, dt_bias = vector(A), vector(D), vector(dt_bias)
    for k in range(A.shape[0]):
        struct = _struct(k, x, dt, A, B, C, D, dt_bias, dt_softplus, saved[k] if save else None)
        struct.y, struct.h_final = _plane(total, k), address(final)
        _native.run("ssm_scan_forward", struct, "ssm_scan_forward_workspace")
    if total is not y:
        y.copy_(total)
    return y, saved


def scan_backward(gy, saved, x, dt, A, B, C, D, dt_bias, dt_softplus):
    """Gradients of (x, dt, A, B, C, D, dt_bias); those of absent arguments are empty."""
    b, d, h, w = x.shape
    directions, _, n = A.shape
    gx, gdt = torch.empty_like(x), torch.empty_like(dt)
    found: dict[str, list[Tensor]] = {name: [] for name in ("A", "B", "C", "D", "dt_bias")}
    total = gx if gx.dtype == torch.float32 else torch.empty_like(gx, dtype=torch.float32)
    A32, D32, bias32 = vector(A), vector(D), vector(dt_bias)
    for k in range(directions if x.numel() else 0):
        struct = _struct(k, x, dt, A32, B, C, D32, bias32, dt_softplus, saved[k])
        segments = _native.size("ssm_scan_segments", struct)
        partial = [torch.empty(segments, b, h * w, n, dtype=torch.float32) for _ in "BC"]
        sums = [torch.empty(b, d, n, dtype=torch.float32) for _ in range(2)]  # of the initial state, and of A
        vectors = [torch.empty(b, d, dtype=torch.float32) for _ in range(2)]  # of D and the bias
        struct.gy, struct.gx, struct.gdt = _plane(gy, k), _plane(total, k), _plane(gdt[:, k], k)
        struct.gh0, struct.gA, struct.gB, struct.gC = (address(t) for t in (*sums, *partial))
        struct.gD, struct.gdt_bias = (address(t) for t in vectors)
        _native.run("ssm_scan_backward", struct, "ssm_scan_backward_workspace")
        parts = {"A": sums[1], "D": vectors[0], "dt_bias": vectors[1]}
        for name, part in parts.items():
            found[name].append(part.sum(0))
        for name, part in zip("BC", partial, strict=True):
            found[name].append(to_map(part.sum(0), k, h, w))
    if total is not gx:
        gx.copy_(total)
    arguments = {"A": A, "B": B, "C": C, "D": D, "dt_bias": dt_bias}
    axes = {"B": 1, "C": 1}  # of the directions; the first of the others
    return gx, gdt, *(stacked(found[name], axes.get(name, 0), t, x) for name, t in arguments.items())


def _struct(k, x, dt, A, B, C, D, dt_bias, dt_softplus, saved) -> Any:
    """What an `ssm_scan` for direction k has in common forward and backward; columns have their lines along h."""
    (b, d, h, w), n = x.shape, A.shape[2]
    return STRUCTS["ssm_scan"](
        batch=b, dim=d, length=h * w, states=n, groups=1, softplus=dt_softplus, interval=interval(n),
        threads=_native.threads(), inner=h if k % 2 else w,
        accumulate=k > 0,  # y, and in the backward pass gx, collect the directions
        x=_plane(x, k), dt=_plane(dt[:, k], k), B=_map_plane(B[:, k], k), C=_map_plane(C[:, k], k),
        A=address(A[k]), D=0 if D is None else address(D[k]), dt_bias=0 if dt_bias is None else address(dt_bias[k]),
        saved=address(saved),
    )  # fmt: skip


def _plane(t: Tensor, k: int) -> tuple[int, ...]:
    """(b, c, h, w) as an `ssm_tensor` with axes (b, c, outer, inner) in the order of direction k."""
    start, outer, inner = _order(t, k)
    return start, _native.DTYPES[t.dtype], t.stride(0), t.stride(1), outer, inner


def _map_plane(t: Tensor, k: int) -> tuple[int, ...]:
    """(b, n, h, w) as an `ssm_tensor` with axes (b, outer, n, inner)."""
    start, outer, inner = _order(t, k)
    return start, _native.DTYPES[t.dtype], t.stride(0), outer, t.stride(1), inner


def _order(t: Tensor, k: int) -> tuple[int, int, int]:
    """Address of the first point, and the strides from line to line and along a line."""
    (h, w), (row, column) = t.shape[-2:], t.stride()[-2:]
    start = t.data_ptr()
    if k >= 2:  # from the last point backwards
        start += ((h - 1) * row + (w - 1) * column) * t.element_size()
        row, column = -row, -column
    return (start, column, row) if k % 2 else (start, row, column)


def to_map(gradient: Tensor, k: int, h: int, w: int) -> Tensor:
    """(b, l, n) in the order of direction k to (b, n, h, w)."""
    gradient = gradient.flip(1) if k >= 2 else gradient
    if k % 2:
        return gradient.unflatten(1, (w, h)).permute(0, 3, 2, 1)
    return gradient.unflatten(1, (h, w)).permute(0, 3, 1, 2)


def stacked(parts: list[Tensor], dim: int, argument: Tensor | None, x: Tensor) -> Tensor:
    """The directions' gradients as one contiguous tensor in the dtype of the argument; empty where it is absent."""
    if argument is None:
        return x.new_empty(0)
    if not parts:
        return argument.new_zeros(argument.shape)
    return torch.stack(parts, dim).to(argument.dtype).contiguous()
