"""A norm after a residual connection, by the original's signatures; autograd differentiates the composition."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.compat._gradients import gradients
from ssmlab.core.errors import UserError
from ssmlab.ops.linear import linear

__all__ = [
    "LayerNormFn", "LayerNormLinearFn", "RMSNorm", "_layer_norm_bwd", "_layer_norm_fwd", "config_prune",
    "layer_norm_fn", "layer_norm_linear_fn", "layer_norm_ref", "rms_norm_fn", "rms_norm_ref",
]  # fmt: skip
__getattr__ = absent(
    __name__, "_layer_norm_fwd_1pass_kernel _layer_norm_bwd_kernel", "call layer_norm_fn instead",
    mamba_ssm__utils__torch="custom_bwd custom_fwd",
)  # fmt: skip
configs_autotune: list = []  # of the original's Triton kernels; there is nothing to tune
pruned_configs_autotune: list = []


def layer_norm_fn(
    x, weight, bias, residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None,
    prenorm=False, residual_in_fp32=False, is_rms_norm=False, return_dropout_mask=False,
):  # fmt: skip
    """norm(dropout(x) + residual), computed in float32 at least.

    Args:
        x, residual, x1: (..., d). rowscale: (...), factors of x. weight, bias: (d,).
        x1: a second input, added too. weight1, bias1: a second norm of the same sum.
        prenorm: also return the sum, in float32 where `residual_in_fp32`.
        return_dropout_mask: also return what dropout kept of x and of x1, (..., d); None without dropout.
    Returns:
        y[, y1][, sum][, mask, mask1].
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    carried = (wide if residual_in_fp32 else x.dtype) if residual is None else residual.dtype
    masks: list[Tensor | None] = [None, None]
    total = x.to(wide) if rowscale is None else x.to(wide) * rowscale.to(wide)[..., None]
    if dropout_p > 0:
        masks[0] = torch.rand_like(total) >= dropout_p
        total = total * masks[0] / (1 - dropout_p)
    if x1 is not None:
        added = x1.to(wide)
        if dropout_p > 0:
            masks[1] = torch.rand_like(added) >= dropout_p
            added = added * masks[1] / (1 - dropout_p)
        total = total + added
    if residual is not None:
        total = total + residual.to(wide)
    results: list[Tensor | None] = [_normed(total, weight, bias, eps, is_rms_norm).to(x.dtype)]
    if weight1 is not None:
        results.append(_normed(total, weight1, bias1, eps, is_rms_norm).to(x.dtype))
    if prenorm:
        results.append(total.to(carried))
    if return_dropout_mask:
        results += masks
    return results[0] if len(results) == 1 else tuple(results)


def _normed(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, is_rms_norm: bool) -> Tensor:
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if not is_rms_norm:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    y = F.rms_norm(x, weight.shape, weight, eps)
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
    """The norm and the projection after it."""
    y = layer_norm_fn(
        x, norm_weight, norm_bias, residual, eps=eps, prenorm=prenorm, residual_in_fp32=residual_in_fp32,
        is_rms_norm=is_rms_norm,
    )  # fmt: skip
    y, rest = (y[0], y[1:]) if prenorm else (y, ())
    y = linear(y, linear_weight, linear_bias)
    return (y, *rest) if prenorm else y


def layer_norm_ref(
    x, weight, bias, residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None,
    prenorm=False, dropout_mask=None, dropout_mask1=None, upcast=False,
):  # fmt: skip
    """`layer_norm_fn` written out, in the dtype of x unless `upcast`; dropout keeps what the masks say, if given."""
    inputs = (x, weight, bias, residual, x1, weight1, bias1)
    return _ref(inputs, eps, dropout_p, rowscale, prenorm, (dropout_mask, dropout_mask1), upcast, False)


def rms_norm_ref(
    x, weight, bias, residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None,
    prenorm=False, dropout_mask=None, dropout_mask1=None, upcast=False,
):  # fmt: skip
    """`layer_norm_ref` without the mean."""
    inputs = (x, weight, bias, residual, x1, weight1, bias1)
    return _ref(inputs, eps, dropout_p, rowscale, prenorm, (dropout_mask, dropout_mask1), upcast, True)


def _ref(inputs, eps, dropout_p, rowscale, prenorm, masks, upcast, rms):
    dtype = inputs[0].dtype
    if upcast:
        inputs = tuple(None if t is None else t.float() for t in inputs)
    x, weight, bias, residual, x1, weight1, bias1 = inputs
    parts = [x if rowscale is None else x * rowscale[..., None]] + ([] if x1 is None else [x1])
    for i, mask in enumerate(masks[: len(parts)]):
        if dropout_p > 0:
            kept = F.dropout(parts[i], dropout_p) if mask is None else parts[i] * mask / (1 - dropout_p)
            parts[i] = kept.to(parts[i].dtype)
    x = parts[0] if x1 is None else parts[0] + parts[1]
    x = x if residual is None else (x + residual).to(x.dtype)
    results = []
    for w, b in ((weight, bias), (weight1, bias1)):
        if w is not None:
            centred = x.to(w.dtype)
            if not rms:
                centred = centred - centred.mean(-1, keepdim=True)
            y = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps) * w
            results.append((y if b is None else y + b).to(dtype))
    results += [x] if prenorm else []
    return results[0] if len(results) == 1 else tuple(results)


def _layer_norm_fwd(
    x, weight, bias, eps, residual=None, x1=None, weight1=None, bias1=None, dropout_p=0.0, rowscale=None,
    out_dtype=None, residual_dtype=None, is_rms_norm=False, return_dropout_mask=False,
):  # fmt: skip
    """The forward pass by itself, over rows (m, d): (y, y1, mean, 1 / deviation, sum, seeds, mask, mask1).

    There are no seeds; absent results are None. The sum is x itself where nothing is added.
    """
    with torch.no_grad():
        results = layer_norm_fn(
            x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm=True,
            residual_in_fp32=residual_dtype is torch.float32, is_rms_norm=is_rms_norm, return_dropout_mask=True,
        )  # fmt: skip
        y, y1, total, mask, mask1 = results if weight1 is not None else (results[0], None, *results[1:])
        wide = total.to(torch.promote_types(total.dtype, torch.float32))
        mean = None if is_rms_norm else wide.mean(-1)
        spread = wide.square().mean(-1) if is_rms_norm else wide.var(-1, correction=0)
        y, y1 = (t if t is None or out_dtype is None else t.to(out_dtype) for t in (y, y1))
    changed = residual is not None or x1 is not None or rowscale is not None or dropout_p > 0
    total = total if changed or total.dtype != x.dtype else x
    masks = (mask, mask1) if return_dropout_mask else (None, None)
    return y, y1, mean, torch.rsqrt(spread + eps), total, None, *masks


def _layer_norm_bwd(
    dy, x, weight, bias, eps, mean, rstd, dresidual=None, dy1=None, weight1=None, bias1=None, seeds=None, dropout_p=0.0,
    rowscale=None, has_residual=False, has_x1=False, is_rms_norm=False, x_dtype=None, recompute_output=False,
):  # fmt: skip
    """The backward pass by itself: (dx, dweight, dbias, dresidual, dx1, dweight1, dbias1[, y]).

    Args:
        x: the sum that was normed. dresidual: the gradient of the sum as an output.
    """
    if dropout_p > 0:
        raise UserError(
            f"_layer_norm_bwd: dropout_p must be 0, got {dropout_p}; call layer_norm_fn, which autograd follows"
        )

    def outputs(total, w, b, w1, b1):
        ys = [_normed(total.to(torch.promote_types(total.dtype, torch.float32)), w, b, eps, is_rms_norm)]
        return (*ys, *([] if w1 is None else [_normed(total.float(), w1, b1, eps, is_rms_norm)]))

    tensors, douts = (x, weight, bias, weight1, bias1), [dy] if weight1 is None else [dy, dy1]
    dtotal, dw, db, dw1, db1 = gradients(outputs, tensors, douts)
    dtotal = dtotal if dresidual is None else dtotal + dresidual
    dx = (dtotal if rowscale is None else dtotal * rowscale[:, None]).to(x.dtype if x_dtype is None else x_dtype)
    found = (dx, dw, db, dtotal if has_residual else None, dtotal.to(dx.dtype) if has_x1 else None, dw1, db1)
    return (*found, outputs(*tensors)[0].to(dy.dtype)) if recompute_output else found


class LayerNormFn:
    """`layer_norm_fn` as an autograd function."""

    apply = staticmethod(layer_norm_fn)


class LayerNormLinearFn:
    """`layer_norm_linear_fn` as an autograd function."""

    apply = staticmethod(layer_norm_linear_fn)


def config_prune(configs: Sequence) -> Sequence:
    """Configurations of a Triton kernel that fit the GPU: all of them."""
    return configs


class RMSNorm(nn.Module):
    """RMSNorm with the residual connection before it."""

    def __init__(self, hidden_size, eps=1e-5, dropout_p=0.0, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0 else None
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def reset_parameters(self):
        """Ones."""
        nn.init.ones_(self.weight)

    def forward(self, x, residual=None, prenorm=False, residual_in_fp32=False):
        """x, residual (..., d) -> y[, sum]."""
        p = self.drop.p if self.drop is not None and self.training else 0.0
        return rms_norm_fn(
            x, self.weight, self.bias, residual, eps=self.eps, dropout_p=p, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )  # fmt: skip
