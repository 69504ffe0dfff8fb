"""The selective scan in C++ on the CPU: one pass forward, a recomputing pass backward."""

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._native import address, vector, view
from ssmlab.ops.selective_scan.operator import NativeScan, call


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    if any(tensor is not None and tensor.is_complex() for tensor in tensors):
        return "A is complex"
    return _native.unusable(tensors)


def forward(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx):
    """See the contract in `ssmlab.ops.selective_scan`."""
    return call("native", NativeScan.apply, x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx)


def scan_forward(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, save):
    """(y, final state, the states before every interval if `save`)."""
    y, final, saved = outputs(x, A, save)
    _native.touch(y)
    if 0 in x.shape[:2]:
        return y, final, saved
    A, D, dt_bias, restart = vector(A), vector(D), vector(dt_bias), restarts(seq_idx)
    initial_state = None if initial_state is None else initial_state.float()
    members = _header(x, A, B, C, dt_softplus)
    members += [*view(x), *view(dt), *view(z), *view(y), *_map_view(B), *_map_view(C)]
    members += [address(A), address(D), address(dt_bias), *view(initial_state), address(final)]
    members += [address(saved) if save else 0, address(restart), 0] + [0] * (4 * 6 + 7)
    _native.Call(members, WORKSPACE).run("ssm_scan_forward_workspace", "ssm_scan_forward")
    return y, final, saved


def scan_backward(gy, g_final, saved, x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx):
    """Gradients of (x, dt, A, B, C, D, z, dt_bias, initial_state); those of absent arguments are empty."""
    b, d, l = x.shape
    n = A.shape[1]
    gx, gdt = torch.empty_like(x), torch.empty_like(dt)
    gz = x.new_empty(0) if z is None else torch.empty_like(z)
    for gradient in (gx, gdt, gz):
        _native.touch(gradient)
    float32 = {"dtype": torch.float32, "device": x.device}
    gA, gh0 = torch.zeros(b, d, n, **float32), torch.zeros(b, d, n, **float32)
    gD, gbias = torch.zeros(b, d, **float32), torch.zeros(b, d, **float32)
    A32, D32, bias32, restart, g_final = vector(A), vector(D), vector(dt_bias), restarts(seq_idx), vector(g_final)
    members = _header(x, A, B, C, dt_softplus)
    members += [*view(x), *view(dt), *view(z), *view(None), *_map_view(B), *_map_view(C)]
    members += [address(A32), address(D32), address(bias32), *view(None), 0, address(saved), address(restart), 0]
    segments = _native.Call(members, WORKSPACE).size("ssm_scan_segments")
    gB, gC = (torch.empty((segments, b, l, n) if map_.dim() > 2 else (b, d, n), **float32) for map_ in (B, C))
    members += [*view(gy), *view(gx), *view(gdt), *view(gz if z is not None else None), address(g_final)]
    members += [address(t) for t in (gh0, gA, gB, gC, gD, gbias)]
    if 0 not in (b, d):
        _native.Call(members, WORKSPACE).run("ssm_scan_backward_workspace", "ssm_scan_backward")
    gB, gC = _map_gradient(gB, B), _map_gradient(gC, C)
    gD = x.new_empty(0) if D is None else gD.sum(0).to(D.dtype)
    gbias = x.new_empty(0) if dt_bias is None else gbias.sum(0).to(dt_bias.dtype)
    gh0 = x.new_empty(0) if initial_state is None else gh0.to(initial_state.dtype)
    return gx, gdt, gA.sum(0).to(A.dtype), gB, gC, gD, gz, gbias, gh0


# Position of `workspace` in ssm_scan: 12 sizes, 6 tensors, 3 pointers, h0, h_final, saved, restart.
WORKSPACE = 12 + 6 * 6 + 3 + 6 + 3


def outputs(x: Tensor, A: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Unfilled y, final state and saved states; also what the operator's fake kernel returns."""
    b, d, l = x.shape
    final = x.new_empty(b, d, A.shape[1], dtype=torch.float32)
    shape = (b, -(-l // interval(A.shape[1])), A.shape[1], d) if save else (0,)
    return torch.empty_like(x), final, x.new_empty(shape, dtype=torch.float32)


def interval(n: int) -> int:
    """Tokens between saved states: more for large states, so that what is saved stays below the size of x."""
    return _native.CHUNK * -(-n // 16)


def restarts(seq_idx: Tensor | None) -> Tensor | None:
    """(b, l) uint8, 1 where a new sequence begins."""
    if seq_idx is None:
        return None
    mark = torch.zeros(seq_idx.shape, dtype=torch.uint8)
    mark[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return mark


def _header(x, A, B, C, dt_softplus) -> list[int]:
    groups = next((map_.shape[1] for map_ in (B, C) if map_.dim() == 4), 1)
    constant = [int(map_.dim() == 2) for map_ in (B, C)]
    b, d, l = x.shape
    n = A.shape[1]
    return [b, d, l, n, groups, *constant, int(dt_softplus), interval(n), _native.threads(), 0, 0]


def _map_view(map_: Tensor) -> list[int]:
    """B or C with axes (b, g, n, l), or (d, -, n, -) where constant."""
    strides = map_.stride()
    if map_.dim() == 2:
        strides = (strides[0], 0, strides[1], 0)
    elif map_.dim() == 3:
        strides = (strides[0], 0, *strides[1:])
    return [map_.data_ptr(), _native.DTYPES[map_.dtype], *strides]


def _map_gradient(partial: Tensor, map_: Tensor) -> Tensor:
    """Sum what the segments of channels found, to the shape of the map."""
    if map_.dim() == 2:
        return partial.sum(0).to(map_.dtype)
    if map_.dim() == 3:
        return partial.sum(0).mT.to(map_.dtype)
    groups = partial.unflatten(0, (map_.shape[1], -1)).sum(1)  # (g, b, l, n)
    return groups.permute(1, 0, 3, 2).to(map_.dtype)
