"""The directional scan in C++ on the CPU: the scan's kernels walk the map by strides and add to one output."""

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._native import address, vector
from ssmlab.ops.directional_scan.operator import KernelDirectional, call
from ssmlab.ops.selective_scan.native import WORKSPACE, interval, unusable

__all__ = ["forward", "outputs", "scan_backward", "scan_forward", "unusable"]

NO_TENSOR = [0] * 6


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
        members = _members(k, x, dt, A, B, C, D, dt_bias, dt_softplus, y=total, saved=saved[k] if save else None)
        members[_FINAL] = address(final)
        call_ = _native.Call(members + [0] * (4 * 6 + 7), WORKSPACE)
        call_.run("ssm_scan_forward_workspace", "ssm_scan_forward")
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
        members = _members(k, x, dt, A32, B, C, D32, bias32, dt_softplus, y=None, saved=saved[k])
        segments = _native.Call(members, WORKSPACE).size("ssm_scan_segments")
        partial = [torch.empty(segments, b, h * w, n, dtype=torch.float32) for _ in "BC"]
        sums = [torch.empty(b, d, n, dtype=torch.float32) for _ in range(2)]  # of the initial state, and of A
        vectors = [torch.empty(b, d, dtype=torch.float32) for _ in range(2)]  # of D and the bias
        members += [*_plane(gy, k), *_plane(total, k), *_plane(gdt[:, k], k), *NO_TENSOR, 0]
        members += [address(t) for t in (*sums, *partial, *vectors)]
        _native.Call(members, WORKSPACE).run("ssm_scan_backward_workspace", "ssm_scan_backward")
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


_FINAL = 12 + 6 * 6 + 3 + 6  # position of `h_final` in ssm_scan


def _members(k, x, dt, A, B, C, D, dt_bias, dt_softplus, *, y, saved) -> list[int]:
    """The forward part of an `ssm_scan` for direction k; columns have their lines along h."""
    b, d, h, w = x.shape
    n = A.shape[2]
    line, add = (h if k % 2 else w), int(k > 0)  # y, and in the backward pass gx, collect the directions
    header = [b, d, h * w, n, 1, 0, 0, int(dt_softplus), interval(n), _native.threads(), line, add]
    tensors = [*_plane(x, k), *_plane(dt[:, k], k), *NO_TENSOR, *(NO_TENSOR if y is None else _plane(y, k))]
    tensors += [*_map_plane(B[:, k], k), *_map_plane(C[:, k], k)]
    vectors = [address(A[k]), 0 if D is None else address(D[k]), 0 if dt_bias is None else address(dt_bias[k])]
    return header + tensors + vectors + NO_TENSOR + [0, address(saved), 0, 0]


def _plane(t: Tensor, k: int) -> list[int]:
    """(b, c, h, w) as an `ssm_tensor` with axes (b, c, outer, inner) in the order of direction k."""
    start, outer, inner = _order(t, k)
    return [start, _native.DTYPES[t.dtype], t.stride(0), t.stride(1), outer, inner]


def _map_plane(t: Tensor, k: int) -> list[int]:
    """(b, n, h, w) as an `ssm_tensor` with axes (b, outer, n, inner)."""
    start, outer, inner = _order(t, k)
    return [start, _native.DTYPES[t.dtype], t.stride(0), outer, t.stride(1), inner]


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
