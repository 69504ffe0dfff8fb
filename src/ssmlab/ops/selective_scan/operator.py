"""The selective scan as a torch operator: fake kernels, FLOP counts, and the gradient of the kernels."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from ssmlab.core.errors import BackendError
from ssmlab.ops._dispatch import load
from ssmlab.ops._torch import differentiates, on_one_device, one_by_one, pulled_back

# Tensors, then options: all below passes the options on unseen, so that one more is added here and where it is used.
_ARGUMENTS = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? initial_state, Tensor? seq_idx, bool dt_softplus"
)
TENSORS = 10
LIBRARY = torch.library.Library("ssmlab", "FRAGMENT")
LIBRARY.define(f"selective_scan({_ARGUMENTS}, bool save, str backend) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"selective_scan_backward(Tensor gy, Tensor? g_final, Tensor saved, {_ARGUMENTS}, str backend) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
KERNELS = ("native", "triton")  # the backends with a backward pass of their own


def call(backend, differentiable, *arguments):
    """The operator where no gradient is needed, so that FLOP counters and compilers see it; else `differentiable`."""
    if differentiates(arguments):
        if backend in KERNELS:
            refuse_tangents(arguments)
        return differentiable(*arguments)[:2]
    return torch.ops.ssmlab.selective_scan(*arguments, False, backend)[:2]


def _forward(*arguments):
    *inputs, save, backend = arguments
    module = load("selective_scan", backend)
    if backend in KERNELS:
        return module.scan_forward(*inputs, save=save)
    with torch.no_grad():
        y, final = module.differentiable(*inputs)
    x, state = inputs[0], inputs[8]
    if state is not None and final.data_ptr() == state.data_ptr():  # no token: an operator may not return an input
        final = final.clone()
    return y, final, x.new_empty(0)


def _forward_fake(x, dt, A, *others):
    *_, save, backend = others
    kernels = backend in KERNELS
    y, final, saved = load("selective_scan", backend if kernels else "native").outputs(x, A, save)
    if kernels:
        return y, final, saved
    state = torch.promote_types(A.dtype, torch.promote_types(x.dtype, torch.float32))
    return x.new_empty(x.shape), final.to(state), saved


def _backward(gy, g_final, saved, *arguments):
    *inputs, backend = arguments
    return load("selective_scan", backend).scan_backward(gy, g_final, saved, *inputs)


def _backward_fake(gy, g_final, saved, x, dt, A, B, C, D, z, dt_bias, initial_state, *others):
    *_, backend = others

    def like(t):
        return x.new_empty(0) if t is None else torch.empty_like(t)

    def contiguous(t):
        return x.new_empty(0) if t is None else t.new_empty(t.shape)

    def map_(t):  # summed as (g, b, l, n)
        if t.dim() == 2:
            return contiguous(t)
        if backend == "triton":
            return contiguous(t)
        b, *g, n, l = t.shape
        return t.new_empty(*g, b, l, n).movedim(0, 1).mT if g else t.new_empty(b, l, n).mT

    return (like(x), like(dt), contiguous(A), map_(B), map_(C), contiguous(D), like(z), contiguous(dt_bias),
            contiguous(initial_state))  # fmt: skip


LIBRARY.impl("selective_scan", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("selective_scan_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ssmlab::selective_scan", on_one_device("selective_scan", _forward_fake), lib=LIBRARY)
torch.library.register_fake(
    "ssmlab::selective_scan_backward", on_one_device("selective_scan_backward", _backward_fake), lib=LIBRARY
)

for _name in ("selective_scan", "selective_scan_backward"):
    torch.library.register_vmap(f"ssmlab::{_name}", one_by_one(getattr(torch.ops.ssmlab, _name)), lib=LIBRARY)


def numbers(A: Tensor) -> int:
    """How many real numbers the states of a channel are: n, or 2n where A is complex."""
    return A.shape[1] * (2 if A.is_complex() else 1)


def scan_flops(x_shape, dt_shape, A_shape) -> int:
    """Twice the multiply-accumulates that VMamba counts, 9 b d l n + b d l."""
    b, d, l = x_shape
    return 2 * (9 * b * d * l * A_shape[1] + b * d * l)


@register_flop_formula(torch.ops.ssmlab.selective_scan, get_raw=True)
def _flops(x, dt, A, *args, **kwargs) -> int:
    """A complex state counts as the two real numbers that it is."""
    return scan_flops(x.shape, dt.shape, (A.shape[0], numbers(A)))


@register_flop_formula(torch.ops.ssmlab.selective_scan_backward, get_raw=True)
def _backward_flops(gy, g_final, saved, x, dt, A, *args, **kwargs) -> int:
    """By the usual rule, twice the forward."""
    return 2 * _flops(x, dt, A)


def refuse_tangents(arguments: tuple) -> None:
    """Kernels have a backward pass only. (Compilers do not follow functions that have a `jvp`.)"""
    if forward_ad._current_level < 0:
        return
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in arguments):
        raise BackendError(
            "selective_scan: the kernels have no forward mode (jvp); pass backend='chunked', which has one"
        )


def keep_inputs(ctx, inputs, output) -> None:
    """`setup_context` of a scan whose arguments are the operator's, with the backend in place of the last two."""
    ctx.options = inputs[TENSORS:]
    ctx.save_for_backward(*inputs[:TENSORS], output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def pull_back_scan(ctx, gy, g_final, operator, definition) -> tuple:
    """`backward` of the same.

    Args:
        operator: the registered backward pass.
        definition: the scan in plain PyTorch, by which further derivatives are taken.
    """
    *tensors, saved = ctx.saved_tensors
    *options, backend = ctx.options
    gy = torch.zeros_like(tensors[0]) if gy is None else gy

    def kernel(saved, inputs, gradients):
        found = operator(*gradients, saved, *inputs, *options, backend)
        return *(None if t is None else g for g, t in zip(found, inputs[:9], strict=True)), None

    def plain(*inputs):
        return definition(*inputs, *options)

    found = pulled_back(kernel, plain, saved, tuple(tensors), (gy, g_final))
    return *found, *(None for _ in ctx.options)


class KernelScan(torch.autograd.Function):
    """The kernels of a backend, its last argument, forward and backward; further derivatives are the definition's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return torch.ops.ssmlab.selective_scan(*arguments[:-1], True, arguments[-1])

    setup_context = staticmethod(keep_inputs)

    @staticmethod
    def backward(ctx, gy, g_final, _):
        definition = load("selective_scan", "chunked").differentiable
        return pull_back_scan(ctx, gy, g_final, torch.ops.ssmlab.selective_scan_backward, definition)
