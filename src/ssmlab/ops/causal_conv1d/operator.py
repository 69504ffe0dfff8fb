"""The causal convolution as a torch operator: fake kernels, FLOP counts, and the gradient of the kernels."""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssmlab.ops._dispatch import load
from ssmlab.ops._torch import differentiates, on_one_device, one_by_one, pulled_back

_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, str? activation, Tensor? initial_state, Tensor? seq_idx"
LIBRARY = torch.library.Library("ssmlab", "FRAGMENT")
LIBRARY.define(f"causal_conv1d({_ARGUMENTS}, str backend) -> (Tensor, Tensor)")
LIBRARY.define(
    f'causal_conv1d_backward(Tensor gy, Tensor? g_final, {_ARGUMENTS}, str backend="native") -> '
    "(Tensor, Tensor, Tensor, Tensor)"
)
KERNELS = ("native", "triton")  # the backends with a backward pass of their own


def call(backend, differentiable, *arguments):
    """The operator where no gradient is needed, so that FLOP counters and compilers see it; else `differentiable`."""
    if differentiates(arguments):
        return differentiable(*arguments)
    return torch.ops.ssmlab.causal_conv1d(*arguments, backend)


def _forward(*arguments):
    *inputs, backend = arguments
    module = load("causal_conv1d", backend)
    return module.conv_forward(*inputs) if backend in KERNELS else module.differentiable(*inputs)


def _forward_fake(x, weight, bias, activation, initial_state, seq_idx, backend):
    return torch.empty_like(x), x.new_empty(*x.shape[:2], weight.shape[1] - 1)


def _backward(gy, g_final, x, weight, bias, activation, initial_state, seq_idx, backend="native"):
    arguments = (gy, g_final, x, weight, bias, activation, initial_state, seq_idx)
    return load("causal_conv1d", backend).conv_backward(*arguments)


def _backward_fake(gy, g_final, x, weight, bias, activation, initial_state, seq_idx, backend="native"):
    def contiguous(t):
        return x.new_empty(0) if t is None else t.new_empty(t.shape)

    return torch.empty_like(x), contiguous(weight), contiguous(bias), contiguous(initial_state)


LIBRARY.impl("causal_conv1d", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("causal_conv1d_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ssmlab::causal_conv1d", on_one_device("causal_conv1d", _forward_fake), lib=LIBRARY)
torch.library.register_fake(
    "ssmlab::causal_conv1d_backward", on_one_device("causal_conv1d_backward", _backward_fake), lib=LIBRARY
)

for _name in ("causal_conv1d", "causal_conv1d_backward"):
    torch.library.register_vmap(f"ssmlab::{_name}", one_by_one(getattr(torch.ops.ssmlab, _name)), lib=LIBRARY)


@register_flop_formula(torch.ops.ssmlab.causal_conv1d)
def conv_flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Two a tap, channel and token."""
    b, d, l = x_shape
    return 2 * b * d * l * weight_shape[1]


@register_flop_formula(torch.ops.ssmlab.causal_conv1d_backward)
def conv_backward_flops(gy_shape, g_final_shape, x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """By the usual rule, twice the forward."""
    return 2 * conv_flops(x_shape, weight_shape)


class KernelConv(torch.autograd.Function):
    """The kernels of a backend, its last argument, forward and backward; further derivatives are the definition's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return torch.ops.ssmlab.causal_conv1d(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.activation, ctx.backend = inputs[3], inputs[6]
        ctx.save_for_backward(*inputs[:3], *inputs[4:6])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, g_final):
        inputs = ctx.saved_tensors
        activation, backend = ctx.activation, ctx.backend
        gy = torch.zeros_like(inputs[0]) if gy is None else gy

        def kernel(_, inputs, gradients):
            found = torch.ops.ssmlab.causal_conv1d_backward(*gradients, *inputs[:3], activation, *inputs[3:], backend)
            return *(None if t is None else g for g, t in zip(found, inputs[:4], strict=True)), None

        def definition(*inputs):
            return load("causal_conv1d", "reference").differentiable(*inputs[:3], activation, *inputs[3:])

        *found, gpast, _ = pulled_back(kernel, definition, None, inputs, (gy, g_final))
        return *found, None, gpast, None, None
