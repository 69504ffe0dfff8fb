"""B by zero-order hold: the input map that makes Euler's recurrence, which the backends compute, the exact one.

That map, (exp(dt A) - 1) / (dt A) * B, differs between channels and is as large as all states. It is made for a few
tokens at a time, which a backend then scans, and made again in the backward pass.
"""

from functools import partial
from math import factorial

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

from ssmlab.ops._dispatch import load
from ssmlab.ops._torch import differentiates, on_one_device, one_by_one
from ssmlab.ops.selective_scan.operator import (
    _ARGUMENTS,
    KERNELS,
    LIBRARY,
    keep_inputs,
    numbers,
    pull_back_scan,
    refuse_tangents,
    scan_flops,
)
from ssmlab.ops.selective_scan.reference import per_channel, step_size

TOKENS = 64  # tokens whose maps exist at the same time, for up to 16 states; with more as many more, see `interval`
SMALL = 0.5  # below it series, which reach the precision of their dtype there; above it closed forms

LIBRARY.define(f"selective_scan_held({_ARGUMENTS}, bool save, str backend) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"selective_scan_held_backward(Tensor gy, Tensor? g_final, Tensor saved, {_ARGUMENTS}, str backend) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def forward(backend, *arguments):
    """As a backend's `forward`; plain torch is differentiated as it is, the kernels by an operator of their own."""
    if not differentiates(arguments):
        return torch.ops.ssmlab.selective_scan_held(*arguments, False, backend)[:2]
    if backend in KERNELS:
        refuse_tangents(arguments)
        return HeldScan.apply(*arguments, backend)[:2]
    return differentiable(backend, *arguments)


def differentiable(backend, *arguments):
    """The definition, through autograd: the maps of a chunk of tokens exist only while it is differentiated."""
    scan = load("selective_scan", backend).differentiable
    # torch.func's transforms refuse the hooks of checkpointing, forward mode has no use for them.
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    recompute = torch.is_grad_enabled() and not transformed

    def held_scan(*piece):
        return scan(*_with_map(piece))

    def step(*piece):
        return checkpoint(held_scan, *piece, use_reentrant=False) if recompute else held_scan(*piece)

    ys, h = [], arguments[8]
    for begin, end in _chunks(arguments[0], arguments[2]):
        y, h = step(*_piece(arguments, h, begin, end))
        ys.append(y)
    return (torch.cat(ys, dim=-1), h) if ys else scan(*arguments)


def interval(n: int) -> int:
    """Tokens of a chunk for states of n numbers: more for many, since the states between chunks are saved."""
    return TOKENS * -(-n // 16)


def _chunks(x: Tensor, A: Tensor) -> list[tuple[int, int]]:
    length, size = x.shape[2], interval(numbers(A))
    return [(begin, min(begin + size, length)) for begin in range(0, length, size)]


def _piece(arguments: tuple, h: Tensor | None, begin: int, end: int) -> list:
    """The arguments for tokens begin..end, after which h was the state."""
    x, dt, A, B, C, D, z, dt_bias, _, seq_idx, *options = arguments

    def cut(t: Tensor | None) -> Tensor | None:
        if t is None or t.dim() < 3:  # absent or constant
            return t
        width = t.shape[-1] // x.shape[2]  # 2 where real and imaginary parts are interleaved
        return t[..., begin * width : end * width]

    if begin and h is not None and seq_idx is not None:  # a chunk's own first token would continue the state
        h = h * _continues(seq_idx, begin)
    seq_idx = None if seq_idx is None else seq_idx[:, begin:end]
    return [cut(x), cut(dt), A, cut(B), cut(C), D, cut(z), dt_bias, h, seq_idx, *options]


def _continues(seq_idx: Tensor, t: int) -> Tensor:
    return (seq_idx[:, t] == seq_idx[:, t - 1])[:, None, None]


def _spread(C: Tensor, x: Tensor) -> Tensor:
    """C in as many groups as B now has, unless one serves all."""
    return C.repeat_interleave(x.shape[1] // C.shape[1], dim=1) if C.dim() == 4 and C.shape[1] > 1 else C


def held(dt: Tensor, A: Tensor, B: Tensor, dt_bias: Tensor | None, *options) -> Tensor:
    """(exp(dt A) - 1) / (dt A) * B, every channel a group of its own: (b, d, n, l), or 2l numbers with complex A."""
    step, A = _widened(dt, A, dt_bias, *options)
    map_ = per_channel(B, step, A) * _factor(step[:, :, None] * A[:, :, None])
    return torch.view_as_real(map_).flatten(-2) if map_.is_complex() else map_


def _widened(dt, A, dt_bias, *options) -> tuple[Tensor, Tensor]:
    """The step as it is used, and A, in the dtype that the map is computed in."""
    wide = torch.promote_types(dt.dtype, torch.float32)
    return step_size(dt.to(wide), dt_bias, *options), A.to(torch.promote_types(A.dtype, wide))


def _pulled_map(g, dt, A, B, dt_bias, dt_softplus) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of (step before softplus, A, B) by g, that of `held`. B's is summed as B is shared."""
    step, A = _widened(dt, A, dt_bias, dt_softplus)
    if A.is_complex():
        g = torch.complex(*g.unflatten(-1, (-1, 2)).unbind(-1))
    u = step[:, :, None] * A[:, :, None]
    # Compiled graphs lose the lazy conjugation of `conj` within an operator.
    gB = g * _factor(u).conj_physical()
    gu = g * (per_channel(B, step, A) * _slope(u)).conj_physical()
    gA = (gu * step[:, :, None]).sum((0, 3))
    gstep = (gu * A.conj_physical()[:, :, None]).sum(2)
    gstep = gstep.real if gstep.is_complex() else gstep
    if dt_softplus:
        before = step_size(dt.to(step.dtype), dt_bias, False)
        gstep = gstep * torch.sigmoid(before)
    if B.dim() == 2:
        return gstep, gA, gB.sum((0, 3))
    gB = gB.sum(1) if B.dim() == 3 else gB.unflatten(1, (B.shape[1], -1)).sum(2)
    return gstep, gA, torch.view_as_real(gB).flatten(-2) if gB.is_complex() else gB


def _forward(*arguments):
    """(y, final state, the states before every chunk if `save`)."""
    *inputs, save, backend = arguments
    if backend not in KERNELS:
        with torch.no_grad():
            y, final = differentiable(backend, *inputs)
        unmade = inputs[8] is not None and final.data_ptr() == inputs[8].data_ptr()  # no token: no input is returned
        return y, final.clone() if unmade else final, y.new_empty(0)
    x, A, h = inputs[0], inputs[2], inputs[8]
    y, final, saved = load("selective_scan", backend).outputs(x, A, False)
    saved = final.new_empty(_saved_shape(x, A) if save else 0)
    h = torch.zeros_like(final) if h is None else h.to(final.dtype)
    for i, (begin, end) in enumerate(_chunks(x, A)):
        piece = _piece(tuple(inputs), h, begin, end)
        if save:
            saved[i] = piece[8]
        part, h = torch.ops.ssmlab.selective_scan(*_with_map(piece), False, backend)[:2]
        y[..., begin:end] = part
    return y, final.copy_(h), saved


def _with_map(piece: list | tuple) -> list:
    x, dt, A, B, C, _, _, dt_bias, _, _, *options = piece
    return [x, dt, A, held(dt, A, B, dt_bias, *options), _spread(C, x), *piece[5:]]


def _saved_shape(x: Tensor, A: Tensor) -> tuple[int, ...]:
    return (-(-x.shape[2] // interval(numbers(A))), x.shape[0], *A.shape)


def _forward_fake(x, dt, A, *others):
    *_, save, backend = others
    state = torch.promote_types(A.dtype, torch.promote_types(x.dtype, torch.float32))
    if backend in KERNELS:
        y, final, _ = load("selective_scan", backend).outputs(x, A, False)
        return y, final, final.new_empty(_saved_shape(x, A) if save else 0)
    return x.new_empty(x.shape), x.new_empty((x.shape[0], *A.shape), dtype=state), x.new_empty(0)


def _backward(gy, g_final, saved, *arguments):
    *inputs, backend = arguments
    x, dt, A, B, C, D, _, dt_bias, h0, seq_idx, *options = inputs
    kernels, wide = load("selective_scan", backend), saved.real.dtype
    found = list(_backward_fake(gy, g_final, saved, *arguments))
    kept = {}  # what is shared by all tokens is summed in the state's precision
    for i, t in ((2, A), (3, B if B.dim() == 2 else None), (4, C if C.dim() == 2 else None), (5, D), (7, dt_bias)):
        if t is not None:
            kept[i] = torch.zeros(t.shape, dtype=saved.dtype if t.is_complex() else wide, device=x.device)
    gh = g_final
    for i, (begin, end) in reversed(list(enumerate(_chunks(x, A)))):
        piece = _piece(tuple(inputs), saved[i], begin, end)
        piece[8] = saved[i]
        whole = _with_map(piece)
        _, _, states = kernels.scan_forward(*whole, save=True)
        parts = list(kernels.scan_backward(gy[..., begin:end], gh, states, *whole))
        gstep, more, parts[3] = _pulled_map(parts[3].to(wide), piece[1], A, piece[3], dt_bias, *options)
        parts[1], parts[2] = parts[1] + gstep.to(dt.dtype), parts[2] + more
        if dt_bias is not None:
            parts[7] = parts[7] + gstep.sum((0, 2))
        if C.dim() == 4 and C.shape[1] > 1:
            parts[4] = parts[4].unflatten(1, (C.shape[1], -1)).sum(2)
        for j, part in enumerate(parts[:8]):
            if j in kept:
                kept[j] += part
            elif inputs[j] is not None:
                width = inputs[j].shape[-1] // x.shape[2]
                found[j][..., begin * width : end * width] = part
        gh = parts[8] if not begin or seq_idx is None else parts[8] * _continues(seq_idx, begin)
    for i, total in kept.items():
        found[i].copy_(total)
    if h0 is not None:
        gh = torch.zeros_like(h0) if gh is None else gh
        found[8].copy_(gh if h0.is_complex() else gh.real)
    return tuple(found)


def _backward_fake(gy, g_final, saved, x, *arguments):
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, *arguments[:8]))


LIBRARY.impl("selective_scan_held", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("selective_scan_held_backward", _backward, "CompositeExplicitAutograd")
for _name, _fake in (("selective_scan_held", _forward_fake), ("selective_scan_held_backward", _backward_fake)):
    torch.library.register_fake(f"ssmlab::{_name}", on_one_device(_name, _fake), lib=LIBRARY)
    torch.library.register_vmap(f"ssmlab::{_name}", one_by_one(getattr(torch.ops.ssmlab, _name)), lib=LIBRARY)


@register_flop_formula(torch.ops.ssmlab.selective_scan_held, get_raw=True)
def _flops(x, dt, A, *args, **kwargs) -> int:
    """The scan, and 3 b d l n multiply-accumulates for the map: dt A, the quotient, and its product with B."""
    b, d, l = x.shape
    return scan_flops(x.shape, dt.shape, (d, numbers(A))) + 2 * 3 * b * d * l * numbers(A)


@register_flop_formula(torch.ops.ssmlab.selective_scan_held_backward, get_raw=True)
def _backward_flops(gy, g_final, saved, x, dt, A, *args, **kwargs) -> int:
    """By the usual rule, twice the forward."""
    return 2 * _flops(x, dt, A)


class HeldScan(torch.autograd.Function):
    """The kernels of a backend, its last argument, chunk by chunk; further derivatives are the definition's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return torch.ops.ssmlab.selective_scan_held(*arguments[:-1], True, arguments[-1])

    setup_context = staticmethod(keep_inputs)

    @staticmethod
    def backward(ctx, gy, g_final, _):
        definition = partial(differentiable, "chunked")
        return pull_back_scan(ctx, gy, g_final, torch.ops.ssmlab.selective_scan_held_backward, definition)


def _factor(z: Tensor) -> Tensor:
    """(exp(z) - 1) / z, 1 at 0, which autograd differentiates without the cancellation of the quotient near 0."""
    small, rest = _parts(z)
    top = torch.exp(rest) - 1 if z.is_complex() else torch.expm1(rest)
    return torch.where(small, _series(z, lambda k: 1 / factorial(k + 1)), top / rest)


def _slope(z: Tensor) -> Tensor:
    """The derivative of the factor, (exp(z) - factor) / z."""
    small, rest = _parts(z)
    e = torch.exp(rest)
    return torch.where(small, _series(z, lambda k: (k + 1) / factorial(k + 2)), (e - (e - 1) / rest) / rest)


def _parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """Where z is small, and z with numbers there that are not."""
    small = z.abs() < SMALL
    return small, torch.where(small, torch.ones_like(z), z)


def _series(z: Tensor, coefficient) -> Tensor:
    terms = 16 if z.dtype in (torch.float64, torch.complex128) else 8
    total = torch.full_like(z, coefficient(terms - 1))
    for k in range(terms - 2, -1, -1):
        total = total * z + coefficient(k)
    return total
