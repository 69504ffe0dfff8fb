"""B by zero-order hold: the input map that makes Euler's recurrence, which the backends compute, the exact one."""

from math import factorial

import torch
from torch import Tensor

from ssmlab.ops.selective_scan.reference import per_channel, step_size

SMALL = 0.5  # below it series of `TERMS` terms, which reach float64's precision there; above it closed forms
TERMS = 16


def held(dt: Tensor, A: Tensor, B: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    """(exp(dt A) - 1) / (dt A) * B for every channel, a group of its own: (b, d, n, l), or 2l numbers with complex A.

    Arguments as of `selective_scan`. It is b d n l numbers, as many as all states: time is cut by the caller where that
    is too much.
    """
    wide = torch.promote_types(dt.dtype, torch.float32)
    A = A.to(torch.promote_types(A.dtype, wide))
    step = step_size(dt.to(wide), dt_bias, dt_softplus)
    map_ = per_channel(B, step, A) * _Factor.apply(step[:, :, None] * A[:, :, None])
    return torch.view_as_real(map_).flatten(-2) if map_.is_complex() else map_


class _Factor(torch.autograd.Function):
    """(exp(z) - 1) / z, 1 at 0, with a derivative that does not cancel near 0 as that of the quotient does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        small, rest = _parts(z)
        top = torch.exp(rest) - 1 if z.is_complex() else torch.expm1(rest)
        return torch.where(small, _series(z, lambda k: 1 / factorial(k + 1)), top / rest)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return gradient * _slope(ctx.saved_tensors[0]).conj()


def _slope(z: Tensor) -> Tensor:
    """The derivative of the factor, (exp(z) - factor) / z."""
    small, rest = _parts(z)
    e = torch.exp(rest)
    return torch.where(small, _series(z, lambda k: (k + 1) / factorial(k + 2)), (e - (e - 1) / rest) / rest)


def _parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """Where z is small, and z with numbers there that are not."""
    small = z.abs() < SMALL
    return small, torch.where(small, torch.ones_like(z), z)


def _series(z: Tensor, coefficient) -> Tensor:
    total = torch.full_like(z, coefficient(TERMS - 1))
    for k in range(TERMS - 2, -1, -1):
        total = total * z + coefficient(k)
    return total
