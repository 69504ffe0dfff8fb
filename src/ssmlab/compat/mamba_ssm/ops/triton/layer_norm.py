"""A norm behind a residual connection, by the original's signatures; autograd differentiates the composition."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.errors import UserError
from ssmlab.ops.linear import linear

__all__ = ["RMSNorm", "layer_norm_fn", "layer_norm_linear_fn", "rms_norm_fn"]


def layer_norm_fn(
    x, weight, bias, residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None,
    prenorm=False, residual_in_fp32=False, is_rms_norm=False, return_dropout_mask=False,
):  # fmt: skip
    """norm(dropout(x) + residual), computed in float32.

    Args:
        x, residual, x1: (..., d). rowscale: (...), factors of x. weight, bias: (d,).
        x1: a second input, added too. weight1, bias1: a second norm of the same sum.
        prenorm: also return the sum, in float32 where `residual_in_fp32`.
    Returns:
        y[, y1][, sum].
    """
    if return_dropout_mask:
        raise UserError("layer_norm_fn: return_dropout_mask has no counterpart here, got True; leave it out")
    wide = torch.float32 if residual_in_fp32 else x.dtype
    carried = wide if residual is None else residual.dtype
    total = _dropped(x if rowscale is None else x * rowscale[..., None], dropout_p)
    if x1 is not None:
        total = total + _dropped(x1, dropout_p)
    if residual is not None:
        total = total + residual.float()
    results = [_normed(total, weight, bias, eps, is_rms_norm).to(x.dtype)]
    if weight1 is not None:
        results.append(_normed(total, weight1, bias1, eps, is_rms_norm).to(x.dtype))
    if prenorm:
        results.append(total.to(carried))
    return results[0] if len(results) == 1 else tuple(results)


def _dropped(x: Tensor, p: float) -> Tensor:
    return F.dropout(x.float(), p) if p > 0 else x.float()


def _normed(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, is_rms_norm: bool) -> Tensor:
    bias = None if bias is None else bias.float()
    if not is_rms_norm:
        return F.layer_norm(x, weight.shape, weight.float(), bias, eps)
    y = F.rms_norm(x, weight.shape, weight.float(), eps)
    return y if bias is None else y + bias


def rms_norm_fn(
    x, weight, bias, residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None,
    prenorm=False, residual_in_fp32=False, return_dropout_mask=False,
):  # fmt: skip
    """`layer_norm_fn` without the mean."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32, True,
        return_dropout_mask,
    )  # fmt: skip


def layer_norm_linear_fn(
    x, norm_weight, norm_bias, linear_weight, linear_bias, residual=None, eps=1e-6, prenorm=False,
    residual_in_fp32=False, is_rms_norm=False,
):  # fmt: skip
    """The norm and the projection behind it."""
    y = layer_norm_fn(
        x, norm_weight, norm_bias, residual, eps=eps, prenorm=prenorm, residual_in_fp32=residual_in_fp32,
        is_rms_norm=is_rms_norm,
    )  # fmt: skip
    y, rest = (y[0], y[1:]) if prenorm else (y, ())
    y = linear(y, linear_weight, linear_bias)
    return (y, *rest) if prenorm else y


class RMSNorm(nn.Module):
    """RMSNorm with the residual connection before it."""

    def __init__(self, hidden_size, eps=1e-5, dropout_p=0.0, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0 else None
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(self, x, residual=None, prenorm=False, residual_in_fp32=False):
        """x, residual (..., d) -> y[, sum]."""
        p = self.drop.p if self.drop is not None and self.training else 0.0
        return rms_norm_fn(
            x, self.weight, self.bias, residual, eps=self.eps, dropout_p=p, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )  # fmt: skip
