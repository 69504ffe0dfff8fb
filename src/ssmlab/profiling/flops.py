"""Operations of a forward pass, the scan's and attention's among them, counted by torch's own counter."""

from __future__ import annotations

from contextlib import contextmanager
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssmlab.ops._dispatch import BACKENDS, example

PARTS = ("convolutions", "linear layers", "batched products", "scans")
# Operators by their part; whatever else the counter knows, such as bmm and attention kernels, is a batched product.
_PART = {
    "aten.convolution": "convolutions", "aten._convolution": "convolutions", "aten.mm": "linear layers",
    "aten.addmm": "linear layers",
} | {f"ssmlab.{name}": example(op).part for op in BACKENDS for name in example(op).counted}  # fmt: skip
# The kernels of scaled_dot_product_attention. Which of them torch's counter knows depends on its version;
# without a kernel the products are computed one by one, and counted as such.
_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)


class Counts(NamedTuple):
    """Cost of one forward pass. A multiply-accumulate (MAC) is two floating-point operations (FLOP).

    macs, flops: of everything, the scan included.
    scan_macs, scan_flops: of the scans alone: 9 b d l n + b d l MACs for a selective scan and for every direction of a
        directional one, 3 b d l n more where B is held, too; the matrix products of ssd.
    parts: MACs by `PARTS`; "batched products" are attention, and projections with other weights for every direction.
    """

    macs: int
    flops: int
    scan_macs: int
    scan_flops: int
    parts: dict[str, int]


def count_flops(model: nn.Module, inputs: Tensor | tuple) -> Counts:
    """Count one forward pass in evaluation mode; for the cost per image give one image.

    Products, convolutions, attention and scans are counted; norms, activations, sums and Fourier transforms are not, as
    is the custom. A model and inputs on the meta device are counted without computing anything.

    With the scan VMamba-T (224 x 224, 1000 classes) has 4.88 G MAC, the number that its authors give; the scan's share
    is 0.06 G. MambaVision-T has 4.46 G in convolutions and linear layers, 4.57 with attention, where its authors print
    4.4; they count no scan, which adds 0.01.

    Args:
        inputs: the model's argument, or a tuple of them, on the model's device.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    kernels = (getattr(torch.ops.aten, name, None) for name in _ATTENTION)
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(filter(None, kernels), _attention_flops))
    with counter, evaluation(model), _layer_by_layer(), torch.no_grad():
        model(*inputs)
    flops = counter.get_total_flops()
    parts = dict.fromkeys(PARTS, 0)
    for op, count in counter.get_flop_counts().get("Global", {}).items():
        parts[_PART.get(str(op), "batched products")] += count // 2
    return Counts(flops // 2, flops, parts["scans"], 2 * parts["scans"], parts)


def _attention_flops(query, key, value, *_, **__) -> int:
    """Of q k^T and of its product with v, from shapes (..., l, d); every pair counts, with a mask too."""
    *rows, length, d = query
    return 2 * prod(rows) * length * key[-2] * (d + value[-1])


@contextmanager
def _layer_by_layer():
    """torch's own attention modules call their layers, not one kernel that the counter does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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
