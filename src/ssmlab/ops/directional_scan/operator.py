"""The directional scan as a torch operator: fake kernels, FLOP counts, and the gradient of the kernels."""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssmlab.ops._dispatch import load
from ssmlab.ops._torch import differentiates, on_one_device, one_by_one, pulled_back
from ssmlab.ops.selective_scan.operator import scan_flops

_ARGUMENTS = "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, bool dt_softplus"
LIBRARY = torch.library.Library("ssmlab", "FRAGMENT")
LIBRARY.define(f"directional_scan({_ARGUMENTS}, bool save, str backend) -> (Tensor, Tensor)")
LIBRARY.define(
    f'directional_scan_backward(Tensor gy, Tensor saved, {_ARGUMENTS}, str backend="native") -> '
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
KERNELS = ("native", "triton")  # the backends with a backward pass of their own


def call(backend, differentiable, *arguments):
    """The operator where no gradient is needed, so that FLOP counters and compilers see it; else `differentiable`."""
    if differentiates(arguments):
        return differentiable(*arguments)
    return torch.ops.ssmlab.directional_scan(*arguments, False, backend)[0]


def _forward(*arguments):
    *inputs, save, backend = arguments
    module = load("directional_scan", backend)
    if backend in KERNELS:
        return module.scan_forward(*inputs, save)
    y = module.differentiable(*inputs)
    return y, y.new_empty(0)


def _forward_fake(x, dt, A, B, C, D, dt_bias, dt_softplus, save, backend):
    if backend in KERNELS:
        return load("directional_scan", backend).outputs(x, A, save)
    return x.new_empty(x.shape), x.new_empty(0)


def _backward(gy, saved, x, dt, A, B, C, D, dt_bias, dt_softplus, backend="native"):
    return load("directional_scan", backend).scan_backward(gy, saved, x, dt, A, B, C, D, dt_bias, dt_softplus)


def _backward_fake(gy, saved, x, dt, A, B, C, D, dt_bias, dt_softplus, backend="native"):
    def contiguous(t):
        return x.new_empty(0) if t is None else t.new_empty(t.shape)

    return torch.empty_like(x), torch.empty_like(dt), *(contiguous(t) for t in (A, B, C, D, dt_bias))


LIBRARY.impl("directional_scan", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("directional_scan_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ssmlab::directional_scan", on_one_device("directional_scan", _forward_fake), lib=LIBRARY)
torch.library.register_fake(
    "ssmlab::directional_scan_backward", on_one_device("directional_scan_backward", _backward_fake), lib=LIBRARY
)


for _name in ("directional_scan", "directional_scan_backward"):
    torch.library.register_vmap(f"ssmlab::{_name}", one_by_one(getattr(torch.ops.ssmlab, _name)), lib=LIBRARY)


@register_flop_formula(torch.ops.ssmlab.directional_scan)
def directional_flops(x_shape, dt_shape, A_shape, *args, out_shape=None, **kwargs) -> int:
    """Those of one selective scan a direction."""
    b, d, h, w = x_shape
    return A_shape[0] * scan_flops((b, d, h * w), None, A_shape[1:])


@register_flop_formula(torch.ops.ssmlab.directional_scan_backward)
def directional_backward_flops(
    gy_shape, saved_shape, x_shape, dt_shape, A_shape, *args, out_shape=None, **kwargs
) -> int:
    """By the usual rule, twice the forward."""
    return 2 * directional_flops(x_shape, dt_shape, A_shape)


class KernelDirectional(torch.autograd.Function):
    """The kernels of a backend, its last argument, forward and backward; further derivatives are the definition's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return torch.ops.ssmlab.directional_scan(*arguments[:-1], True, arguments[-1])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.dt_softplus, ctx.backend = inputs[7], inputs[8]
        ctx.save_for_backward(*inputs[:7], output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, _):
        *tensors, saved = ctx.saved_tensors
        dt_softplus, backend = ctx.dt_softplus, ctx.backend
        if gy is None:
            return (None,) * 9

        def kernel(saved, inputs, gradients):
            found = torch.ops.ssmlab.directional_scan_backward(*gradients, saved, *inputs, dt_softplus, backend)
            return tuple(None if t is None else g for g, t in zip(found, inputs, strict=True))

        def definition(*inputs):
            return (load("directional_scan", "chunked").differentiable(*inputs, dt_softplus),)

        return *pulled_back(kernel, definition, saved, tuple(tensors), (gy,)), None, None
