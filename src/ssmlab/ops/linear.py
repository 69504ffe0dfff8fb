"""A linear layer's product on the CPU: few rows by our kernel, many in float32 by oneDNN, the others by torch.

torch ships oneDNN and asks it in half precision, but in float32 it asks MKL, which on AMD's processors does less than
half as many operations a second: it leaves out their AVX-512 (two cores of a Zen 5: 205 and 450 GFLOP/s at (1024, 768)
times (768, 3072); `make bench-linear`). The call that torch's compiler puts in its graphs is there for everybody.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.ops.steps import is_plain_eager, linear_step, no_other_backend

LARGE = 1 << 21  # multiply-accumulates; below, MKL's call is the shorter
WIDE = 256  # inputs or outputs, below which the gradient of the weights is too small a result for several threads
PIECE = 1024  # rows whose part of that gradient is summed at once: oneDNN slows down with more


def _onednn():
    """torch's call of oneDNN, where torch itself would ask MKL and the processor has what MKL leaves out."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return None
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


ONEDNN = _onednn()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """x weight^T + bias; the numbers are those of `torch.nn.functional.linear` to rounding, and so are the gradients.

    A counter, a transformation or autocast sees torch's own product; torch.compile sees ours,
    as an operator, since its own choice would be MKL as well.

    Args:
        x: (..., inputs). weight: (outputs, inputs). bias: (outputs,).
        scale: (outputs,), what a row of int8 weights is multiplied by.
    Returns:
        (..., outputs), in the dtype of x.
    """
    if is_plain_eager(x, weight):
        gradient = torch.is_grad_enabled()
        if not gradient:
            y = linear_step(x, weight, bias, scale)
            if y is not None:
                return y
        if scale is not None:
            weight, scale = _dequantized(weight, scale, x.dtype), None
        if _is_for_onednn(x, weight) and torch._C._get_mkldnn_enabled():
            if gradient and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
                return Product.apply(x, weight, bias)
            return _product(x, weight, bias)
    elif _compiled(x, weight) and scale is None and _is_for_onednn(x, weight):
        return Product.apply(x, weight, bias)
    return F.linear(x, weight if scale is None else _dequantized(weight, scale, x.dtype), bias)


class Product(torch.autograd.Function):
    """The product with its three gradients; a second derivative is torch's."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        product = torch.ops.ssmlab.product if torch.compiler.is_compiling() else _product
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, gy):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        compiling = torch.compiler.is_compiling()
        gx = gweight = None
        if torch.is_grad_enabled() and not compiling:
            gx, gweight = gy @ weight, gy.flatten(0, -2).t() @ x.flatten(0, -2)
        else:
            product = torch.ops.ssmlab.product if compiling else _product
            gradient = torch.ops.ssmlab.product_gradient if compiling else _gradient_of_weight
            if need_x:
                gx = product(gy, weight.t(), None)
            if need_weight:
                gweight = gradient(gy, x)
        return gx, gweight, gy.flatten(0, -2).sum(0) if need_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return ONEDNN(x, weight, bias, "none", [], "")


def _gradient_of_weight(gy: Tensor, x: Tensor) -> Tensor:
    """gy^T x over all rows of gy (..., outputs) and x (..., inputs); the wider of the two lies along the columns."""
    gy, x = gy.flatten(0, -2), x.flatten(0, -2)
    outputs, inputs = gy.shape[1], x.shape[1]
    if max(outputs, inputs) < WIDE:
        return gy.t() @ x
    left, right = (gy, x) if inputs >= outputs else (x, gy)
    total = _product(left[:PIECE].t(), right[:PIECE].t(), None)
    for begin in range(PIECE, len(gy), PIECE):
        piece = slice(begin, begin + PIECE)
        total += _product(left[piece].t(), right[piece].t(), None)
    return total if inputs >= outputs else total.t()


# What compiled graphs hold: the products as operators that the compiler does not look into.
LIBRARY = torch.library.Library("ssmlab", "FRAGMENT")
LIBRARY.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.define("product_gradient(Tensor gy, Tensor x) -> Tensor")
LIBRARY.impl("product", _product, "CPU")
LIBRARY.impl("product_gradient", lambda gy, x: _gradient_of_weight(gy, x).contiguous(), "CPU")


@torch.library.register_fake("ssmlab::product", lib=LIBRARY)
def _product_fake(x, weight, bias):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.register_fake("ssmlab::product_gradient", lib=LIBRARY)
def _gradient_fake(gy, x):
    return gy.new_empty((gy.shape[-1], x.shape[-1]))


def _compiled(x: Tensor, weight: Tensor) -> bool:
    """Whether torch.compile looks on and nobody else; an exported program keeps torch's own operators."""
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        ONEDNN is not None
        and x.dtype is weight.dtype is torch.float32
        and x.is_cpu
        and weight.is_cpu
        and x.ndim > 1
        and x.shape[-1] == weight.shape[1]
        and x.numel() * len(weight) >= LARGE
        and no_other_backend()
    )


def _dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (weight.to(scale.dtype) * scale[:, None]).to(dtype)
