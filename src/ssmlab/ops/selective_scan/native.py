"""The selective scan in C++ on the CPU: one pass forward, a recomputing pass backward."""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops._native import address, vector, view
from ssmlab.ops.selective_scan.operator import KernelScan, call, numbers


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    grouped = [t for t in tensors[3:5] if t is not None and t.dim() == 4]
    if len(grouped) == 2 and len({t.shape[1] for t in grouped} - {1}) > 1:
        return "B and C have different numbers of groups"
    A = tensors[2] if tensors else None
    if A is not None and A.is_complex():  # then constant maps and the initial state may be complex too
        kinds = [None if t is None else t.dtype for t in tensors]
        tensors = tuple(t for i, t in enumerate(tensors) if i not in (2, 3, 4, 8) or kinds[i] != torch.complex64)
    return _native.unusable(tensors)


def forward(*arguments):
    """See the contract in `ssmlab.ops.selective_scan`."""
    return call("native", differentiable, *arguments)


def differentiable(*arguments):
    """The kernels with their gradient."""
    return KernelScan.apply(*arguments, "native")


def scan_forward(x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, *options, save):
    """(y, final state, the states before every interval if `save`)."""
    y, final, saved = outputs(x, A, save)
    _native.touch(y)
    if 0 in x.shape[:2]:
        return y, final, saved
    A, D, dt_bias, restart, B, C = vector(A), vector(D), vector(dt_bias), restarts(seq_idx), _real(B), _real(C)
    if initial_state is not None:
        initial_state = initial_state.to(state_dtype(A))
        initial_state = vector(initial_state) if A.is_complex() else initial_state
    struct = _struct(x, dt, A, B, C, D, z, dt_bias, restart, saved if save else None, *options)
    struct.y, struct.h0, struct.h_final = view(y), _state_view(A, initial_state), address(final)
    _native.run("ssm_scan_forward", struct, "ssm_scan_forward_workspace")
    return y, final, saved


def scan_backward(gy, g_final, saved, x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, *options):
    """Gradients of (x, dt, A, B, C, D, z, dt_bias, initial_state); those of absent arguments are empty."""
    (b, d, _), n = x.shape, A.shape[1]
    gx, gdt = torch.empty_like(x), torch.empty_like(dt)
    gz = x.new_empty(0) if z is None else torch.empty_like(z)
    for gradient in (gx, gdt, gz):
        _native.touch(gradient)
    gA, gD = torch.zeros(b, d, n, dtype=state_dtype(A)), torch.zeros(b, d, dtype=torch.float32)
    gh0, gbias = torch.zeros_like(gA), torch.zeros_like(gD)
    A32, D32, bias32, restart, g_final = vector(A), vector(D), vector(dt_bias), restarts(seq_idx), vector(g_final)
    B32, C32 = _real(B), _real(C)
    struct = _struct(x, dt, A32, B32, C32, D32, z, bias32, restart, saved, *options)
    struct.h0 = _state_view(A, None)
    segments = _native.size("ssm_scan_segments", struct)
    gB, gC = (
        torch.empty(b, d, n, dtype=state_dtype(A))
        if map_.dim() == 2
        else torch.empty(segments, b, map_.shape[-1], n, dtype=torch.float32)
        for map_ in (B, C)
    )
    struct.gy, struct.gx, struct.gdt, struct.gz = view(gy), view(gx), view(gdt), view(None if z is None else gz)
    struct.g_final, struct.gh0, struct.gA, struct.gB, struct.gC = (address(t) for t in (g_final, gh0, gA, gB, gC))
    struct.gD, struct.gdt_bias = address(gD), address(gbias)
    if 0 not in (b, d):
        _native.run("ssm_scan_backward", struct, "ssm_scan_backward_workspace")
    gB, gC = _map_gradient(gB, B), _map_gradient(gC, C)
    gD = x.new_empty(0) if D is None else gD.sum(0).to(D.dtype)
    gbias = x.new_empty(0) if dt_bias is None else gbias.sum(0).to(dt_bias.dtype)
    gh0 = x.new_empty(0) if initial_state is None else _like(gh0, initial_state)
    return gx, gdt, gA.sum(0).to(A.dtype), gB, gC, gD, gz, gbias, gh0


def outputs(x: Tensor, A: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Unfilled y, final state and saved states; also what the operator's fake kernel returns."""
    b, d, l = x.shape
    final = A.new_empty((b, d, A.shape[1]), dtype=state_dtype(A))
    shape = (b, -(-l // interval(numbers(A))), numbers(A), d) if save else 0
    return torch.empty_like(x), final, x.new_empty(shape, dtype=torch.float32)


def state_dtype(A: Tensor) -> torch.dtype:
    return torch.complex64 if A.is_complex() else torch.float32


def interval(n: int) -> int:
    """Tokens between saved states of n numbers: more for many, so that what is saved stays below the size of x."""
    return _native.CHUNK * -(-n // 16)


def restarts(seq_idx: Tensor | None) -> Tensor | None:
    """(b, l) uint8, 1 where a new sequence begins."""
    if seq_idx is None:
        return None
    mark = torch.zeros(seq_idx.shape, dtype=torch.uint8)
    mark[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return mark


def _struct(x, dt, A, B, C, D, z, dt_bias, restart, saved, dt_softplus) -> Any:
    """What an `ssm_scan` has in common forward and backward."""
    (b, d, l), n = x.shape, A.shape[1]
    return STRUCTS["ssm_scan"](
        batch=b, dim=d, length=l, states=n, groups=max(map_.shape[1] if map_.dim() == 4 else 1 for map_ in (B, C)),
        b_constant=B.dim() == 2, c_constant=C.dim() == 2, softplus=dt_softplus, interval=interval(numbers(A)),
        threads=_native.threads(), x=view(x), dt=view(dt), z=view(z), B=_map_view(B), C=_map_view(C),
        A=address(A), D=address(D), dt_bias=address(dt_bias), restart=address(restart), saved=address(saved),
    )  # fmt: skip


def _real(map_: Tensor) -> Tensor:
    """A constant complex map as real and imaginary parts, (d, 2n); any other as it is."""
    return torch.view_as_real(map_.to(torch.complex64).resolve_conj()).flatten(1) if map_.is_complex() else map_


def _state_view(A: Tensor, state: Tensor | None) -> tuple[int, ...]:
    """`h0`, whose dtype says also of an absent one whether the state is complex."""
    strides = () if state is None else state.stride()
    return address(state), _native.COMPLEX64 if A.is_complex() else 0, *strides


def _map_view(map_: Tensor) -> tuple[int, ...]:
    """B or C with axes (b, g, n, l), or (d, -, n, -) where constant."""
    strides = map_.stride()
    if map_.dim() == 2:
        strides = (strides[0], 0, strides[1], 0)
    elif map_.dim() == 3 or map_.shape[1] == 1:  # one group serves all
        strides = (strides[0], 0, *strides[-2:])
    return map_.data_ptr(), _native.DTYPES[map_.dtype], *strides


def _map_gradient(partial: Tensor, map_: Tensor) -> Tensor:
    """Sum what the segments of channels found, to the shape of the map."""
    if map_.dim() == 2:
        return partial.sum(0).to(map_.dtype)
    if map_.dim() == 3:
        return partial.sum(0).mT.to(map_.dtype)
    groups = partial.unflatten(0, (map_.shape[1], -1)).sum(1)  # (g, b, l, n)
    return groups.permute(1, 0, 3, 2).to(map_.dtype)


def _like(gradient: Tensor, tensor: Tensor) -> Tensor:
    """A state's gradient in the dtype of the state; a real one is moved by the real part."""
    return gradient.to(tensor.dtype) if tensor.is_complex() else gradient.real.to(tensor.dtype).contiguous()
