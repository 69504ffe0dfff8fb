"""The state space dual as a torch operator: fake kernels, FLOP counts, and the gradient of what goes by chunks."""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssmlab.ops._dispatch import load
from ssmlab.ops._torch import differentiates, full_precision, on_one_device, one_by_one, pulled_back

_TENSORS = "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C"
_ARGUMENTS = (
    f"{_TENSORS}, Tensor? D, Tensor? z, Tensor? dt_bias, bool dt_softplus, Tensor? initial_state, Tensor? seq_idx, "
    "int chunk_size"
)
LIBRARY = torch.library.Library("ssmlab", "FRAGMENT")
LIBRARY.define(f"ssd({_ARGUMENTS}, bool save, str backend) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"ssd_backward(Tensor gy, Tensor? g_final, Tensor saved, {_TENSORS}, Tensor? D, Tensor? seq_idx, int chunk_size, "
    'Tensor? z=None, str backend="chunked") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)'
)


def call(backend, differentiable, *arguments):
    """The operator where no gradient is needed, so that FLOP counters and compilers see it; else `differentiable`."""
    if differentiates(arguments):
        with full_precision(arguments[0]):
            return differentiable(*arguments)
    return torch.ops.ssmlab.ssd(*arguments, False, backend)[:2]


def _forward(*arguments):
    *inputs, save, backend = arguments
    x, initial_state = inputs[0], inputs[9]
    module = load("ssd", backend)
    with torch.no_grad(), full_precision(x):
        if backend != "reference":
            return module.scan_forward(*inputs, save)
        y, final = module.differentiable(*inputs)
    if x.shape[1] == 0 and initial_state is not None:  # an operator may not return an input
        final = final.clone()
    return y.contiguous(), final.contiguous(), x.new_empty(0)


def _forward_fake(
    x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, chunk_size, save, backend
):  # fmt: skip
    b, l, h, p = x.shape
    g, n = B.shape[2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    y, final = x.new_empty(x.shape), x.new_empty((b, h, p, n), dtype=dtype)
    if not save:
        return y, final, x.new_empty(0)
    if backend == "native":
        return y, final, x.new_empty(load("ssd", "native").saved_size(x, n, z, chunk_size), dtype=dtype)
    if backend == "triton":
        return y, final, x.new_empty(load("ssd", "triton").saved_shape(x, n, initial_state), dtype=dtype)
    return y, final, x.new_empty((-(-l // chunk_size) + 1, b, g, n, h // g * p), dtype=dtype)


def _backward(gy, g_final, saved, x, dt, A, B, C, D, seq_idx, chunk_size, z=None, backend="chunked"):
    inputs = (gy, g_final, saved, x, dt, A, B, C, D, seq_idx, chunk_size)
    with torch.no_grad(), full_precision(x):
        if backend != "chunked":
            return load("ssd", backend).scan_backward(*inputs, z)
        return *load("ssd", "chunked").scan_backward(*inputs), x.new_empty(0)


def _backward_fake(gy, g_final, saved, x, dt, A, B, C, D, seq_idx, chunk_size, z=None, backend="chunked"):
    b, _, h, p = x.shape
    *gradients, gz = [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, dt, A, B, C, D, z)]
    return *gradients, x.new_empty(b, h, p, B.shape[3], dtype=dt.dtype), gz


LIBRARY.impl("ssd", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("ssd_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ssmlab::ssd", on_one_device("ssd", _forward_fake), lib=LIBRARY)
torch.library.register_fake("ssmlab::ssd_backward", on_one_device("ssd_backward", _backward_fake), lib=LIBRARY)

for _name in ("ssd", "ssd_backward"):
    torch.library.register_vmap(f"ssmlab::{_name}", one_by_one(getattr(torch.ops.ssmlab, _name)), lib=LIBRARY)


def products(x_shape, B_shape, chunk_size: int) -> int:
    """Multiply-accumulates of the matrix products, for a chunk of q tokens: C B^T for every group (q q n); for every
    head the pairs with x (q q p), the states (q p n) and their outputs (q p n)."""
    b, l, h, p = x_shape
    g, n = B_shape[2:]
    sizes = [(l // chunk_size, chunk_size), (1, l % chunk_size)]
    return b * sum(count * (q * q * (g * n + h * p) + 2 * q * h * p * n) for count, q in sizes)


@register_flop_formula(torch.ops.ssmlab.ssd)
def ssd_flops(
    x_shape, dt_shape, A_shape, B_shape, C_shape, D_shape, z_shape, dt_bias_shape, dt_softplus, initial_state_shape,
    seq_idx_shape, chunk_size, *args, out_shape=None, **kwargs,
) -> int:  # fmt: skip
    """Two a multiply-accumulate of `products`, for every backend. What is left out, decays, skip and gate, are a few
    elementwise operations on x and on the pairs of a chunk."""
    return 2 * products(x_shape, B_shape, chunk_size)


@register_flop_formula(torch.ops.ssmlab.ssd_backward)
def ssd_backward_flops(
    gy_shape, g_final_shape, saved_shape, x_shape, dt_shape, A_shape, B_shape, C_shape, D_shape, seq_idx_shape,
    chunk_size, *args, out_shape=None, **kwargs,
) -> int:  # fmt: skip
    """By the usual rule, twice the forward."""
    return 4 * products(x_shape, B_shape, chunk_size)


class ChunkedScan(torch.autograd.Function):
    """The scan, dt as it is used, and its gradient; further derivatives are the definition's.

    `backend` is "native", "triton", or "chunked", which leaves z to its caller.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, delta, A, B, C, D, z, initial_state, seq_idx, chunk_size, backend):
        options = (z, None, False, initial_state, seq_idx, chunk_size, True, backend)
        return torch.ops.ssmlab.ssd(x, delta, A, B, C, D, *options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.chunk_size, ctx.backend = inputs
        ctx.save_for_backward(*tensors, output[2])
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gy, g_final, _):
        *inputs, saved = ctx.saved_tensors
        chunk_size, backend = ctx.chunk_size, ctx.backend
        gy = torch.zeros_like(inputs[0]) if gy is None else gy

        def kernel(saved, inputs, gradients):
            *tensors, D, z, initial_state, seq_idx = inputs
            *found, gD, g_initial, gz = torch.ops.ssmlab.ssd_backward(
                *gradients, saved, *tensors, D, seq_idx, chunk_size, z, backend
            )
            last = ((gD, D), (gz, z), (g_initial, initial_state))
            return *found, *(None if t is None else g for g, t in last), None

        def definition(x, delta, A, B, C, D, z, initial_state, seq_idx):
            options = (None, False, initial_state, seq_idx, chunk_size)
            return load("ssd", "reference").differentiable(x, delta, A, B, C, D, z, *options)

        *found, _ = pulled_back(kernel, definition, saved, tuple(inputs), (gy, g_final))
        return *found, None, None, None
