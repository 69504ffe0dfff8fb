"""What `ssmlab bench ops --device cuda` adds: shapes, other people's kernels, the floor's exponentials, attention."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops._dispatch import example
from ssmlab.profiling.bench.opponents import Missing
from ssmlab.profiling.bench.shapes import Shape

HEAD = 64  # channels
EXP_IN_REGISTERS, ATTENTION = "exp in registers", "attention"
TURNS = 64  # exponentials of a lane for every number that it loads


def shapes(op: str, *, quick: bool = False) -> list[Shape]:
    """Shapes of training on a GPU, and lengths at which attention overtakes a scan or is overtaken by it."""
    found = example(op).gpu_quick if quick else example(op).gpu
    if found is None:
        return []
    kinds = product((False, True), found.dtypes, found.sizes, found.layouts)
    return [
        Shape(op=op, backward=backward, b=b, d=d, l=l, n=n, dtype=dtype, layout=layout)
        for backward, dtype, (b, d, l, n), layout in kinds
    ]


def yardsticks(shape: Shape, inputs: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
    """The floor's exponentials, one for each of the b d l n updates, and causal attention over as many tokens with half
    as many channels (a block has twice as many as the stream), in heads of 64; none for a convolution or a map.

    Together with the copy these are the floor of a scan: the larger of the two.
    """
    wanted = example(shape.op).yardsticks
    like = next(iter(inputs.values()))
    heads = max(1, shape.d // 2 // HEAD)
    q = torch.randn(shape.b, heads, shape.l, HEAD, device=like.device, dtype=like.dtype)
    leaves = [q.detach().requires_grad_(shape.backward) for _ in range(3)]

    def attention():
        y = F.scaled_dot_product_attention(*leaves, is_causal=True)
        return torch.autograd.grad(y, leaves, q) if shape.backward else y

    found: dict[str, Callable[[], object]] = {}
    if ATTENTION in wanted:
        found[ATTENTION] = attention
    if EXP_IN_REGISTERS in wanted:
        found[EXP_IN_REGISTERS] = _exponentials(shape.elements, like.device)
    return found


def _exponentials(count: int, device: torch.device) -> Callable[[], object]:
    """A function that takes `count` exponentials of numbers in registers."""
    from ssmlab.ops._triton import ceil, launch
    from ssmlab.profiling.bench import gpu_kernels

    numbers = torch.full((ceil(count, TURNS),), -1.0, device=device)
    grid = (ceil(len(numbers), gpu_kernels.BLOCK.value),)
    return lambda: launch(gpu_kernels.exponentials, grid, numbers, len(numbers), TURNS=TURNS, BLOCK=gpu_kernels.BLOCK)


def mamba_ssm_scan(shape: Shape) -> Callable[..., Tensor]:
    """The CUDA kernel of state-spaces/mamba.

    Raises:
        Missing: it is not installed, or was built without the kernel.
    """
    scan = _function("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")

    def whole(x, dt, A, B, C, D, z, dt_bias):
        return scan(x, dt, A, B, C, D, z=z, delta_bias=dt_bias, delta_softplus=True)

    return whole


def mamba_ssm_ssd(shape: Shape) -> Callable[..., Tensor]:
    """The Triton kernels of state-spaces/mamba.

    Raises:
        Missing: it is not installed.
    """
    scan = _function("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")

    def whole(x, dt, A, B, C, D, dt_bias):
        return scan(x, dt, A, B, C, chunk_size=256, D=D, dt_bias=dt_bias, dt_softplus=True)

    return whole


def causal_conv1d_conv(shape: Shape) -> Callable[..., Tensor]:
    """The CUDA kernel of Dao-AILab/causal-conv1d.

    Raises:
        Missing: it is not installed.
    """
    convolve = _function("causal_conv1d", "causal_conv1d_fn")

    def whole(x, weight, bias):
        return convolve(x, weight.to(x.dtype), bias.to(x.dtype), activation="silu")

    return whole


def fla_ssd(shape: Shape) -> Callable[..., Tensor]:
    """flash-linear-attention's gated linear attention with one decay a head, which is the same recurrence.

    Raises:
        Missing: it is not installed.
    """
    attend = _function("fla.ops.simple_gla", "chunk_simple_gla")

    def whole(x, dt, A, B, C, D, dt_bias):
        delta, heads = F.softplus(dt.float() + dt_bias), x.shape[2]
        q, k = (map_.expand(-1, -1, heads, -1).contiguous() for map_ in (C, B))
        y, _ = attend(q, k, (delta[..., None] * x).to(x.dtype), g=delta * A, scale=1.0)
        return (y + D[:, None] * x).to(x.dtype)

    return whole


OPPONENTS: dict[str, list] = {
    "selective_scan": [("mamba_ssm", mamba_ssm_scan, {})],
    "causal_conv1d": [("causal_conv1d", causal_conv1d_conv, {})],
    "ssd": [("mamba_ssm", mamba_ssm_ssd, {}), ("fla", fla_ssd, {})],
}


def _function(module: str, name: str) -> Callable:
    """Whatever keeps it from being imported is a reason not to have it."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise Missing(f"{module}.{name}: {error}") from None
