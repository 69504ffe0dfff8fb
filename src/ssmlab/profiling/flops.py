"""Operations of a forward pass, the scan's among them, counted by torch's own counter."""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Counts(NamedTuple):
    """Cost of one forward pass. A multiply-accumulate (MAC) is two floating-point operations (FLOP).

    macs, flops: of everything, the scan included.
    scan_macs, scan_flops: of the selective scans alone, 9 b d l n + b d l MACs each.
    """

    macs: int
    flops: int
    scan_macs: int
    scan_flops: int


def count_flops(model: nn.Module, inputs: Tensor | tuple) -> Counts:
    """Count one forward pass in evaluation mode; for the cost per image give one image.

    Products, convolutions, attention and scans are counted; norms, activations and sums are not, as is the custom.

    Args:
        inputs: the model's argument, or a tuple of them, on the model's device.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    with FlopCounterMode(display=False) as counter, evaluation(model), torch.no_grad():
        model(*inputs)
    flops = counter.get_total_flops()
    by_op = counter.get_flop_counts().get("Global", {})
    scans = sum(count for op, count in by_op.items() if "selective_scan" in str(op))
    return Counts(flops // 2, flops, scans // 2, scans)


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameter values; shared parameters count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


@contextmanager
def evaluation(model: nn.Module):
    """Evaluation mode for the block's duration; every module gets back the mode that it had."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in training:
            module.training = mode
