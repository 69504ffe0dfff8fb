"""The definition of the directional scan: the map is flattened in every order, scanned, and put back."""

import torch
from torch import Tensor

from ssmlab.ops.directional_scan.operator import call
from ssmlab.ops.selective_scan import reference


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here: it always can."""
    return None


def forward(*arguments):
    """See the contract in `ssmlab.ops.directional_scan`."""
    return call("reference", differentiable, *arguments)


def differentiable(x, dt, A, B, C, D, dt_bias, dt_softplus, scan=reference.differentiable):
    """The definition itself, through autograd; `scan` runs one direction."""
    total = torch.zeros_like(reference.widened(x))
    for k in range(A.shape[0]):
        x_k, dt_k, B_k, C_k = (flatten(t, k) for t in (x, dt[:, k], B[:, k], C[:, k]))
        skip, bias = (None if t is None else t[k] for t in (D, dt_bias))
        wide = reference.widened(x_k)  # the sum over the directions is rounded once
        y, _ = scan(wide, dt_k, A[k], B_k, C_k, skip, None, bias, None, None, dt_softplus)
        total = total + unflatten(y, k, x.shape[-2], x.shape[-1])
    return total.to(x.dtype)


def flatten(t: Tensor, k: int) -> Tensor:
    """(b, c, h, w) to (b, c, h * w) in the order of direction k."""
    t = (t.mT if k % 2 else t).flatten(2)
    return t.flip(-1) if k >= 2 else t


def unflatten(y: Tensor, k: int, h: int, w: int) -> Tensor:
    """The inverse of `flatten`."""
    y = y.flip(-1) if k >= 2 else y
    return y.unflatten(-1, (w, h)).mT if k % 2 else y.unflatten(-1, (h, w))
