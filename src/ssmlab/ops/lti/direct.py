"""The convolution view in C++ on the CPU, term by term, which below two thousand tokens costs less than an FFT."""

import os

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ssmlab.ops import _native
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops._torch import differentiates, on_one_device, one_by_one, pulled_back

OUTPUT, INPUT, FILTER = range(3)  # SSM_LONG_OUTPUT and so on
LENGTH = 2048  # tokens from which the recurrence is faster, forward and backward
LIBRARY = torch.library.Library("ssmlab", "FRAGMENT")
LIBRARY.define("long_conv(Tensor x, Tensor filter, bool backwards=False) -> Tensor")
LIBRARY.define("long_conv_filter(Tensor gy, Tensor x) -> Tensor")


def usable(u: Tensor) -> bool:
    """Whether the kernels can take this input; SSMLAB_BACKEND may ask for plain torch."""
    asked_otherwise = os.environ.get("SSMLAB_BACKEND") not in (None, "", "native")
    return u.shape[-1] < LENGTH and not asked_otherwise and _native.unusable((u,)) is None


def long_conv(u: Tensor, K: Tensor) -> Tensor:
    """y_t = sum_k K_k u_(t-k) for u (b, d, l) and K (d, l); the layout of y is that of u."""
    return LongConv.apply(u, K) if differentiates((u, K)) else torch.ops.ssmlab.long_conv(u, K)


class LongConv(torch.autograd.Function):
    """The kernels with their gradient; further derivatives are those of products of spectra."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u, K):
        return torch.ops.ssmlab.long_conv(u, K)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gy):
        need_u, need_K = ctx.needs_input_grad
        graph = torch.is_grad_enabled()  # then both are made

        def kernel(_, inputs, gradients):
            (u, K), (gy,) = inputs, gradients
            gu = torch.ops.ssmlab.long_conv(gy, K, True) if need_u or graph else None
            return gu, torch.ops.ssmlab.long_conv_filter(gy, u) if need_K or graph else None

        def definition(u, K):
            size = 2 * u.shape[-1]
            return (torch.fft.irfft(torch.fft.rfft(u, size) * torch.fft.rfft(K, size), size)[..., : u.shape[-1]],)

        return pulled_back(kernel, definition, None, ctx.saved_tensors, (gy,))


def _long_conv(x, filter, backwards=False):
    y = torch.empty_like(x)
    return _run(INPUT if backwards else OUTPUT, x, filter.unsqueeze(0).expand(x.shape), y)


def _long_conv_filter(gy, x):
    return _run(FILTER, gy, x, x.new_empty(1, *x.shape[1:]))[0]


def _run(kind: int, x: Tensor, filter: Tensor, y: Tensor) -> Tensor:
    if not x.numel():
        return y.zero_()
    (b, d, l), view = x.shape, _native.view
    sizes = {"batch": b, "dim": d, "length": l, "kind": kind, "threads": _native.threads()}
    struct = STRUCTS["ssm_long_conv"](**sizes, x=view(x), filter=view(filter), y=view(y))
    _native.run("ssm_long_conv_", struct, "ssm_long_conv_workspace")
    return y


LIBRARY.impl("long_conv", _long_conv, "CompositeExplicitAutograd")
LIBRARY.impl("long_conv_filter", _long_conv_filter, "CompositeExplicitAutograd")
_fake = on_one_device("long_conv", lambda x, *_: torch.empty_like(x))
torch.library.register_fake("ssmlab::long_conv", _fake, lib=LIBRARY)
_fake = on_one_device("long_conv_filter", lambda gy, x: x.new_empty(x.shape[1:]))
torch.library.register_fake("ssmlab::long_conv_filter", _fake, lib=LIBRARY)
for _name in ("long_conv", "long_conv_filter"):
    torch.library.register_vmap(f"ssmlab::{_name}", one_by_one(getattr(torch.ops.ssmlab, _name)), lib=LIBRARY)


@register_flop_formula([torch.ops.ssmlab.long_conv, torch.ops.ssmlab.long_conv_filter])
def long_conv_flops(x_shape, *args, out_shape=None, **kwargs) -> int:
    """A product and a sum for every pair of tokens."""
    b, d, l = x_shape
    return b * d * l * (l + 1)
