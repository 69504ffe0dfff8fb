"""Images per second, measured so that the number can be repeated."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.profiling.flops import evaluation


class Throughput(NamedTuple):
    """Images per second over the repeats, and the seconds of the first call, which also prepares kernels."""

    median: float
    low: float
    high: float
    cold_seconds: float


def images_per_second(model: nn.Module, batch: Tensor, repeats: int = 10, *, warmup: int = 2) -> Throughput:
    """Time the forward pass of a batch in evaluation and inference mode.

    The first call is timed apart and not counted, `warmup` more are not timed, and on a GPU every timing waits for
    the device.

    Args:
        batch: images (b, c, h, w) on the model's device.
        repeats: timed calls, at least 1.
    """
    if repeats < 1:
        raise ValueError(f"images_per_second: repeats must be at least 1, got {repeats}")

    def seconds() -> float:
        begin = time.perf_counter()
        model(batch)
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        return time.perf_counter() - begin

    with evaluation(model), torch.inference_mode():
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        cold = seconds()
        for _ in range(warmup):
            seconds()
        rates = [len(batch) / seconds() for _ in range(repeats)]
    return Throughput(statistics.median(rates), min(rates), max(rates), cold)
