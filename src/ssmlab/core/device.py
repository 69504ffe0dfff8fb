"""Where a run computes, and in which precision."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ssmlab.core.errors import UserError, explain_system


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """A device and how it is used: "cuda", "mps" or "cpu"; "float32", "bf16" or "fp16"; memory order of images."""

    device: str
    precision: str = "float32"
    channels_last: bool = False


def same_random(device: str):
    """A context that puts the state of the random number generators back at its end."""
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else [])


def choose_compute(device: str = "auto", precision: str = "auto", channels_last: str = "auto") -> ComputeConfig:
    """The fastest device there is, or the requested one.

    Mixed precision pays on a GPU with bf16, and channels_last for convolutions on tensor cores. On CPUs neither is
    chosen by itself: a ResNet-18 training step took 194 ms, channels_last 218 ms (32 images of 32 x 32, 2 cores).

    Raises:
        UserError: the device is not here, or cannot do the requested precision.
    """
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in usable.items() if there)
    if not usable.get(device):
        there = ", ".join(name for name, yes in usable.items() if yes)
        raise UserError(f"device {device!r} is not available here; there is {there}; use --device auto")
    if precision == "auto":
        bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if bf16 else "float32"
    if precision == "fp16" and device == "cpu":
        raise UserError("training.precision=fp16 needs a GPU; on the CPU use float32 or bf16")
    yes = device == "cuda" if channels_last == "auto" else channels_last == "yes"
    return ComputeConfig(device=device, precision=precision, channels_last=yes)


@contextmanager
def memory_advice(label: str, config: Any):
    """Where memory does not suffice, one line that says what would help.

    Args:
        config: the training table of the recipe.
    Raises:
        UserError: instead of the allocator's error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError) or explain_system(error) is None:
            raise
        size = "tokens_per_batch" if hasattr(config, "tokens_per_batch") else "batch_size"
        now = getattr(config, size)
        advice = f"training.{size}={max(1, now // 2)} (now {now})"
        if pieces := getattr(config, "accumulation", 0):
            advice = f"training.accumulation={2 * pieces}, which is the same update, {advice}"
        if getattr(config, "gradient_checkpointing", True) is False:
            advice += ", training.gradient_checkpointing=true, a smaller data.length"
        raise UserError(
            f"{label}: out of memory; try {advice}, and --resume goes on from the last checkpoint"
        ) from None
