"""What the Triton kernels share: where they can run and how they are launched. Importing it loads no triton."""

import os
from contextlib import nullcontext
from importlib.util import find_spec

import torch
from torch import Tensor

# Read once: triton decides when it is imported, and decorates its own functions then.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MISSING = None if find_spec("triton") else "triton is not installed"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = 65_535  # the most programs along the second and third axis of a grid


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why the Triton kernels cannot take these tensors, or None.

    They run on CUDA tensors, and on tensors of the CPU where TRITON_INTERPRET=1 was set when this was imported.
    """
    if MISSING is not None:
        return MISSING
    given = [t for t in tensors if t is not None]
    if not given and not INTERPRETED:
        return "it runs on CUDA tensors; on the CPU only with TRITON_INTERPRET=1 in the environment, for tests"
    for tensor in given:
        if not (tensor.is_cuda or (tensor.is_cpu and INTERPRETED)):
            return f"a tensor is on {tensor.device}; the kernels take CUDA tensors (TRITON_INTERPRET=1: the CPU's)"
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype not in DTYPES:
            return f"a tensor is {tensor.dtype}, the kernels take float32, bfloat16 and float16"
    return None


def too_many(what: str, count: int) -> str | None:
    """Why the size of a grid's second or third axis is too much, or None."""
    return f"{count:,} {what}, and a grid takes {ROWS:,}" if count > ROWS else None


def launch(kernel, grid: tuple[int, ...], tensor: Tensor, *arguments, **options) -> None:
    """Run a kernel on the device of `tensor`, its first argument; nothing where the grid is empty."""
    if 0 in grid:
        return
    with torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext():
        kernel[grid](tensor, *arguments, enable_fp_fusion=True, **options)


def vector(tensor: Tensor | None) -> Tensor | None:
    """Contiguous float32, as the small parameters are passed."""
    return None if tensor is None else tensor.float().contiguous()


def restarts(seq_idx: Tensor | None) -> Tensor | None:
    """(b, l) uint8, 1 where a new sequence begins."""
    if seq_idx is None:
        return None
    mark = torch.zeros(seq_idx.shape, dtype=torch.uint8, device=seq_idx.device)
    mark[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return mark


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power(n: int, least: int = 1) -> int:
    """The smallest power of two that is at least n and `least`."""
    return max(least, 1 << max(n - 1, 0).bit_length())
