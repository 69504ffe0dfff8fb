"""The directional scan in Triton on a GPU: the scan's kernels walk the map by strides and add to one output."""

import torch
from torch import Tensor

from ssmlab.ops import _triton
from ssmlab.ops._triton import ceil, vector
from ssmlab.ops.directional_scan.native import stacked, to_map
from ssmlab.ops.directional_scan.operator import KernelDirectional, call
from ssmlab.ops.selective_scan.triton import OFFSETS, Arguments, Form, View, map_view, rates, run_backward, run_forward


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    if tensors and tensors[0] is not None and tensors[0][:1].numel() >= OFFSETS:
        return f"a map has {OFFSETS:,} numbers or more, the kernels count up to there"
    return _triton.unusable(tensors)


def forward(*arguments):
    """See the contract in `ssmlab.ops.directional_scan`."""
    result = call("triton", differentiable, *arguments)
    return result[0] if isinstance(result, tuple) else result


def differentiable(*arguments):
    """The kernels with their gradient."""
    return KernelDirectional.apply(*arguments, "triton")


def outputs(x: Tensor, A: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    """Unfilled y and saved states, also what the operator's fake kernel returns.

    A map of a half type is summed in float32 and rounded once.
    """
    b, d, h, w = x.shape
    k, _, n = A.shape
    shape = (k, b, ceil(h * w, _form(x, A, 0, False).tile(x.dtype)[0]), n, d) if save else (0,)
    return torch.empty_like(x), x.new_empty(shape, dtype=torch.float32)


def scan_forward(x, dt, A, B, C, D, dt_bias, dt_softplus, save):
    """(y, the states before every chunk of every direction if `save`)."""
    y, saved = outputs(x, A, save)
    if not x.numel():
        return y, saved
    total = y if y.dtype == torch.float32 else torch.empty_like(y, dtype=torch.float32)
    final = torch.empty(x.shape[0], *A.shape[1:], dtype=torch.float32, device=x.device)
    for k in range(A.shape[0]):
        given = _arguments(k, x, dt, A, B, C, D, dt_bias)
        run_forward(_form(x, A, k, dt_softplus), given, walk(total, k), None, final, saved[k] if save else None)
    if total is not y:
        y.copy_(total)
    return y, saved


def scan_backward(gy, saved, x, dt, A, B, C, D, dt_bias, dt_softplus):
    """Gradients of (x, dt, A, B, C, D, dt_bias); those of absent arguments are empty."""
    b, _, h, w = x.shape
    gx, gdt = torch.empty_like(x), torch.empty_like(dt)
    total = gx if gx.dtype == torch.float32 else torch.empty_like(gx, dtype=torch.float32)
    found: dict[str, list[Tensor]] = {name: [] for name in ("A", "B", "C", "D", "dt_bias")}
    g_start = torch.empty(b, *A.shape[1:], dtype=torch.float32, device=x.device)
    for k in range(A.shape[0] if x.numel() else 0):
        form, given = _form(x, A, k, dt_softplus), _arguments(k, x, dt, A, B, C, D, dt_bias)
        views = (walk(gy, k), walk(total, k), walk(gdt[:, k], k))
        gA, gB, gC, gD, gbias = run_backward(form, given, *views, None, saved[k], None, g_start)
        for name, part in {"A": gA, "D": gD, "dt_bias": gbias}.items():
            found[name].append(part)
        for name, part in {"B": gB, "C": gC}.items():
            found[name].append(to_map(part[:, 0].mT, k, h, w))
    if total is not gx:
        gx.copy_(total)
    arguments = {"A": A, "B": B, "C": C, "D": D, "dt_bias": dt_bias}
    axes = {"B": 1, "C": 1}  # of the directions; the first of the others
    return gx, gdt, *(stacked(found[name], axes.get(name, 0), t, x) for name, t in arguments.items())


def _form(x: Tensor, A: Tensor, k: int, softplus: bool) -> Form:
    """Columns have their lines along h; y, and in the backward pass gx, collect the directions."""
    b, d, h, w = x.shape
    return Form(b, d, h * w, A.shape[2], line=h if k % 2 else w, softplus=softplus, add=k > 0)


def _arguments(k, x, dt, A, B, C, D, dt_bias) -> Arguments:
    """The maps, which are small, in the order of direction k, so that their tokens lie side by side."""
    tokens = _form(x, A, k, False).tile(x.dtype)[0]
    B_, C_ = (map_view(_in_order(map_[:, k], k), x, tokens) for map_ in (B, C))
    skip, bias = (None if t is None else vector(t[k]) for t in (D, dt_bias))
    return Arguments(walk(x, k), walk(dt[:, k], k), None, B_, C_, rates(A[k]), skip, bias, None)


def walk(t: Tensor, k: int) -> View:
    """(b, c, h, w) in the order of direction k: from its first point, by the strides of lines and along a line."""
    row, column = t.stride()[-2:]
    if k >= 2:  # from the last point backwards
        t, row, column = t[..., -1:, -1:], -row, -column
    return View(t, (t.stride(0), t.stride(1), *((column, row) if k % 2 else (row, column))))


def _in_order(t: Tensor, k: int) -> Tensor:
    """(b, n, h, w) -> (b, n, h w)."""
    t = (t.mT if k % 2 else t).flatten(2)
    return t.flip(-1) if k >= 2 else t
