"""The causal convolution in C++ on the CPU: channels in vectors, tokens in pieces, no copies of the input."""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops._native import address, vector, view
from ssmlab.ops.causal_conv1d.operator import KernelConv, call

MAX_WIDTH = 64


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    if len(tensors) > 1 and tensors[1] is not None and tensors[1].shape[1] > MAX_WIDTH:
        return f"the filter has {tensors[1].shape[1]} taps, the kernel takes up to {MAX_WIDTH}"
    return _native.unusable(tensors)


def forward(x, weight, bias, activation, initial_state, seq_idx):
    """See the contract in `ssmlab.ops.causal_conv1d`."""
    return call("native", differentiable, x, weight, bias, activation, initial_state, seq_idx)


def differentiable(*arguments):
    """The kernels with their gradient."""
    return KernelConv.apply(*arguments, "native")


def conv_forward(x, weight, bias, activation, initial_state, seq_idx):
    """(y, final state)."""
    y, taps = torch.empty_like(x), taps_inside(seq_idx, x, weight.shape[1])
    filters, bias, past = weight.float().t().contiguous(), vector(bias), like_input(initial_state, x)
    if x.numel():
        struct = _struct(x, weight, activation, filters, bias, past, taps)
        struct.y = view(y)
        _native.run("ssm_conv_forward", struct, "ssm_conv_workspace")
    return y, final_state(x, weight.shape[1], past, taps)


def conv_backward(gy, g_final, x, weight, bias, activation, initial_state, seq_idx):
    """Gradients of (x, weight, bias, initial_state); those of absent arguments are empty."""
    width = weight.shape[1]
    taps = taps_inside(seq_idx, x, width)
    filters, bias32, past = weight.float().t().contiguous(), vector(bias), like_input(initial_state, x)
    gx = torch.empty_like(x)
    gpast = torch.zeros(*x.shape[:2], width - 1, dtype=torch.float32)
    struct = _struct(x, weight, activation, filters, bias32, past, taps)
    struct.gy, struct.gx, struct.gpast = view(gy), view(gx), view(gpast)
    pieces = _native.size("ssm_conv_pieces", struct)
    partial = torch.empty(x.shape[0] * pieces, width + 1, x.shape[1], dtype=torch.float32)
    if x.numel():
        struct.gweight = address(partial)
        _native.run("ssm_conv_backward", struct, "ssm_conv_workspace")
    state_gradients(gx, gpast, g_final, taps, width)
    gweight = partial[:, :width].sum(0).t().contiguous().to(weight.dtype)
    gbias = x.new_empty(0) if bias is None else partial[:, width].sum(0).to(bias.dtype)
    gpast = x.new_empty(0) if initial_state is None else gpast.to(initial_state.dtype)
    return gx, gweight, gbias, gpast


def state_gradients(gx: Tensor, gpast: Tensor, g_final: Tensor | None, taps: Tensor | None, width: int) -> None:
    """Add what the final state, a copy of inputs, hands back to them."""
    if g_final is None:
        return
    length, kept = gx.shape[2], _kept(taps, gx, width)
    g_final = g_final if kept is None else torch.where(kept, g_final, 0.0)
    from_past = max(0, width - 1 - length)
    gx[:, :, length - (width - 1 - from_past) :] += g_final[:, :, from_past:].to(gx.dtype)
    if from_past:
        gpast[:, :, length:] += g_final[:, :, :from_past]


def taps_inside(seq_idx: Tensor | None, x: Tensor, width: int) -> Tensor | None:
    """(b, l) uint8: how many taps (1..width) of a token stay inside its own sequence; the past counts to the first."""
    if seq_idx is None:
        return None
    position = torch.arange(x.shape[2], device=seq_idx.device)
    begins = torch.zeros(seq_idx.shape, dtype=torch.int64, device=seq_idx.device)
    begins[:, 1:] = torch.where(seq_idx[:, 1:] != seq_idx[:, :-1], position[1:], 0)
    start = begins.cummax(dim=1).values
    inside = position - start + 1
    return torch.where(start == 0, width, inside.clamp(max=width)).to(torch.uint8)


def like_input(initial_state: Tensor | None, x: Tensor) -> Tensor | None:
    """The past in the dtype of x, as the definition has it."""
    return None if initial_state is None else initial_state.to(x.dtype)


def final_state(x: Tensor, width: int, past: Tensor | None, taps: Tensor | None) -> Tensor:
    """The last width - 1 inputs of the last sequence, (b, d, width - 1)."""
    last = x[:, :, max(0, x.shape[2] - (width - 1)) :]
    missing = width - 1 - last.shape[2]
    if missing:
        before = x.new_zeros(*x.shape[:2], missing) if past is None else past[:, :, width - 1 - missing :]
        last = torch.cat([before, last], dim=2)
    kept = _kept(taps, x, width)
    return (
        last.clone(memory_format=torch.contiguous_format) if kept is None else torch.where(kept, last, 0.0).contiguous()
    )


def _kept(taps: Tensor | None, x: Tensor, width: int) -> Tensor | None:
    """Which of the last width - 1 inputs belong to the last token's sequence, (b, 1, width - 1)."""
    if taps is None or not x.shape[2]:
        return None
    return (torch.arange(width - 1, 0, -1, device=taps.device) <= taps[:, -1:])[:, None]


def _struct(x, weight, activation, filters, bias, past, taps) -> Any:
    """What an `ssm_conv` has in common forward and backward."""
    b, d, l = x.shape
    return STRUCTS["ssm_conv"](
        batch=b, dim=d, length=l, width=weight.shape[1], silu=activation == "silu", threads=_native.threads(),
        x=view(x), weight=address(filters), bias=address(bias), past=view(past), taps=address(taps),
    )  # fmt: skip
