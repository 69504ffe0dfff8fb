"""x * silu(gate) of two halves, by the original's signatures."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.compat._gradients import filled, gradients

__all__ = ["SwiGLU", "_swiglu_bwd", "_swiglu_fwd", "swiglu"]
__getattr__ = absent(__name__, "_swiglu_fwd_kernel _swiglu_bwd_kernel", "call swiglu instead")


def swiglu(xy: Tensor) -> Tensor:
    """(..., 2 d) -> silu(first half) * second half, (..., d)."""
    x, y = xy.chunk(2, dim=-1)
    wide = torch.promote_types(xy.dtype, torch.float32)
    return (F.silu(x.to(wide)) * y.to(wide)).to(xy.dtype)


def _swiglu_fwd(xy, out=None):
    """`swiglu` without a gradient."""
    with torch.no_grad():
        return filled(out, swiglu(xy))


def _swiglu_bwd(xy, dout, dxy=None, recompute_output=False, out=None):
    """The gradient of xy[, and the output]."""
    (found,) = gradients(lambda xy: (swiglu(xy),), (xy,), (dout,))
    found = filled(dxy, found)
    return (found, _swiglu_fwd(xy, out)) if recompute_output else found


class SwiGLU:
    """`swiglu` as an autograd function."""

    apply = staticmethod(swiglu)
