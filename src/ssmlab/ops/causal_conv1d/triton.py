"""The causal convolution in Triton on a GPU: one pass forward, one backward, no copies of the input."""

import torch
from torch import Tensor

from ssmlab.ops import _triton
from ssmlab.ops._triton import ceil, launch, vector
from ssmlab.ops.causal_conv1d.native import final_state, like_input, state_gradients, taps_inside
from ssmlab.ops.causal_conv1d.operator import KernelConv, call

MAX_WIDTH = 16  # taps, each of which is written out in the kernels
# Tokens and channels of a tile, and warps, by which of the two lies side by side in memory. Not measured. The backward
# pass takes twice the warps: with wide offsets its registers spill otherwise.
TILES = {"channels": (32, 64, 4), "tokens": (256, 8, 4)}


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here, or None."""
    if len(tensors) > 1 and tensors[1] is not None and tensors[1].shape[1] > MAX_WIDTH:
        return f"the filter has {tensors[1].shape[1]} taps, the kernel takes up to {MAX_WIDTH}"
    rows, d = tensors[0].shape[:2] if tensors and tensors[0] is not None else (0, 0)
    tiles = ceil(d, min(channels for _, channels, _ in TILES.values()))
    return _triton.unusable(tensors) or _triton.too_many("rows", rows) or _triton.too_many("tiles of channels", tiles)


def forward(*arguments):
    """See the contract in `ssmlab.ops.causal_conv1d`."""
    return call("triton", differentiable, *arguments)


def differentiable(*arguments):
    """The kernels with their gradient."""
    return KernelConv.apply(*arguments, "triton")


def conv_forward(x, weight, bias, activation, initial_state, seq_idx):
    """(y, final state)."""
    from ssmlab.ops.causal_conv1d import triton_kernels as kernels

    y, taps = torch.empty_like(x), taps_inside(seq_idx, x, weight.shape[1])
    filters, bias, past = vector(weight.t()), vector(bias), like_input(initial_state, x)
    (tokens, channels, warps), (b, d, l) = _tile(x), x.shape
    launch(
        kernels.conv_forward, (ceil(l, tokens), ceil(d, channels), b), x, y, filters, *_given(x, bias, past, taps), l,
        d, *x.stride(), *y.stride(), *(x if past is None else past).stride(),
        **_options(weight, activation, bias, past, taps), TOKENS=tokens, CHANNELS=channels, num_warps=warps,
    )  # fmt: skip
    return y, final_state(x, weight.shape[1], past, taps)


def conv_backward(gy, g_final, x, weight, bias, activation, initial_state, seq_idx):
    """Gradients of (x, weight, bias, initial_state); those of absent arguments are empty."""
    from ssmlab.ops.causal_conv1d import triton_kernels as kernels

    width, (b, d, l), taps = weight.shape[1], x.shape, taps_inside(seq_idx, x, weight.shape[1])
    filters, bias32, past = vector(weight.t()), vector(bias), like_input(initial_state, x)
    gx = torch.empty_like(x)
    gpast = torch.zeros(b, d, width - 1, dtype=torch.float32, device=x.device)
    tokens, channels, warps = _tile(x)
    tiles = ceil(l + width - 1, tokens)
    partial = torch.empty(b, tiles, width + 1, d, dtype=torch.float32, device=x.device)
    bias_, past_, taps_ = _given(x, bias32, past, taps)
    launch(
        kernels.conv_backward, (tiles, ceil(d, channels), b), x, gy, gx, filters, bias_, past_, gpast, taps_, partial,
        l, d, *x.stride(), *gy.stride(), *gx.stride(), *(x if past is None else past).stride(),
        **_options(weight, activation, bias32, past, taps), TOKENS=tokens, CHANNELS=channels, num_warps=2 * warps,
    )  # fmt: skip
    state_gradients(gx, gpast, g_final, taps, width)
    partial = partial.flatten(0, 1).sum(0)
    gbias = x.new_empty(0) if bias is None else partial[width].to(bias.dtype)
    gpast = x.new_empty(0) if initial_state is None else gpast.to(initial_state.dtype)
    return gx, partial[:width].t().contiguous().to(weight.dtype), gbias, gpast


def _tile(x: Tensor) -> tuple[int, int, int]:
    return TILES["channels" if x.stride(1) == 1 else "tokens"]


def _given(x: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    """Kernels take no None: x stands for what is absent, and is not read."""
    return [x if t is None else t for t in tensors]


def _options(weight, activation, bias, past, taps) -> dict:
    given = {"BIAS": bias is not None, "PAST": past is not None, "TAPS": taps is not None}
    return {"WIDTH": weight.shape[1], "SILU": activation == "silu", **given}
