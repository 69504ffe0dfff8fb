"""The selective scan and what Mamba-1 computes around it, by the original's signatures.

Where the original fuses, these call one operator after the other; autograd differentiates the composition. Unlike the
original, the gradient flows out of the last state too.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.core.errors import UserError
from ssmlab.ops import causal_conv1d, selective_scan
from ssmlab.ops.linear import linear

__all__ = [
    "MambaInnerFn", "SelectiveScanFn", "bimamba_inner_fn", "bimamba_inner_ref", "mamba_inner_fn",
    "mamba_inner_fn_no_out_proj", "mamba_inner_ref", "rms_norm_forward", "selective_scan_fn", "selective_scan_ref",
]  # fmt: skip


__getattr__ = absent(
    __name__, "_check_selective_scan_cuda", "there is nothing to check, call selective_scan_fn",
    causal_conv1d="causal_conv1d_fn",
    causal_conv1d__cpp_functions=(
        "causal_conv1d_bwd_function causal_conv1d_fwd_function causal_conv1d_update_function"
    ),
    mamba_ssm__ops__triton__layer_norm="_layer_norm_fwd", mamba_ssm__utils__torch="custom_bwd custom_fwd",
)  # fmt: skip


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    """u, delta, z (b, d, l), A (d, n), B, C (b, n, l), (b, g, n, l) or (d, n) -> out (b, d, l)[, last state]."""
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, None)


def selective_scan_ref(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    """The same by its definition, a loop over time."""
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, "reference")


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend):
    y, state = selective_scan(
        u, delta, A, B, C, D, z=z, dt_bias=delta_bias, dt_softplus=bool(delta_softplus), backend=backend
    )
    return (y, state) if return_last_state else y


class SelectiveScanFn:
    """`selective_scan_fn` as an autograd function."""

    apply = staticmethod(selective_scan_fn)


def mamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
    A, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True,
    checkpoint_lvl=1, b_rms_weight=None, c_rms_weight=None, dt_rms_weight=None, b_c_dt_rms_eps=1e-6,
):  # fmt: skip
    """All of a Mamba block but its first projection: xz (b, 2 d, l) -> (b, l, d_model).

    Args:
        B, C: constant maps (d, n); None takes them from x_proj.
        b_rms_weight, c_rms_weight, dt_rms_weight: norms of FalconMamba, with `b_c_dt_rms_eps`.
        checkpoint_lvl: how much the original recomputes in its backward pass; not used here.
    """
    norms = (b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps)
    x, delta, B, C, z = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias, norms
    )
    y = selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return linear(y.mT, out_proj_weight, out_proj_bias)


class MambaInnerFn:
    """`mamba_inner_fn` as an autograd function."""

    apply = staticmethod(mamba_inner_fn)


def mamba_inner_ref(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
    A, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True,
):  # fmt: skip
    """The same; the original's too calls `selective_scan_fn`, so that the two agree to the last bit here."""
    return mamba_inner_fn(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
        A, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus,
    )  # fmt: skip


def mamba_inner_fn_no_out_proj(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B=None, C=None, D=None, delta_bias=None,
    B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1,
):  # fmt: skip
    """`mamba_inner_fn` without its last projection, of Vim's fork: xz (b, 2 d, l) -> (b, d, l), channels first."""
    x, delta, B, C, z = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    return selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus)


def bimamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
    A, A_b, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True,
    checkpoint_lvl=1,
):  # fmt: skip
    """`mamba_inner_fn` in both directions, of Vim's fork (`bimamba_type="v1"`): a scan with A and one back with A_b.

    The convolution and the maps are those of the forward direction, whose sequences the second scan reads backwards;
    constant maps (d, n) have no direction (the original reverses their states).
    """
    if A.is_complex() or A_b.is_complex():
        raise UserError("bimamba_inner_fn takes real A and A_b, got a complex A; mamba_inner_fn takes one")
    x, delta, B, C, z = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    y = selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    x, delta, z, B, C = (t if t.dim() == 2 else t.flip(-1) for t in (x, delta, z, B, C))
    back = selective_scan_fn(x, delta, A_b, B, C, D, z, delta_bias, delta_softplus)
    return linear((y + back.flip(-1)).mT, out_proj_weight, out_proj_bias)


def bimamba_inner_ref(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
    A, A_b, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True,
):  # fmt: skip
    """The same, as `mamba_inner_ref` is."""
    return bimamba_inner_fn(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
        A, A_b, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus,
    )  # fmt: skip


def _scan_inputs(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias,
    norms=(None, None, None, 1e-6),
):  # fmt: skip
    """(x, delta, B, C, z) of the scan: the convolution of half of xz, and what is projected from it."""
    b_norm, c_norm, dt_norm, eps = norms
    x, z = xz.chunk(2, dim=1)
    x, _ = causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")
    rank, n = delta_proj_weight.shape[1], A.shape[1] * (2 if A.is_complex() else 1)
    found = linear(x.mT, x_proj_weight)  # (b, l, rank + ...)
    if B is None:
        B = _map(found[..., rank : rank + n], B_proj_bias, b_norm, eps, A)
    if C is None:
        C = _map(found[..., found.shape[-1] - n :], C_proj_bias, c_norm, eps, A)
    delta = linear(found[..., :rank], delta_proj_weight)
    if dt_norm is not None:
        delta = F.rms_norm(delta, dt_norm.shape, dt_norm, eps)
    return x, delta.mT, B, C, z


def _map(values: Tensor, bias: Tensor | None, norm: Tensor | None, eps: float, A: Tensor) -> Tensor:
    """B or C per token: (b, l, n) as (b, n, l); with a complex A the pairs of (b, l, 2 n) follow time, (b, n, 2 l)."""
    if bias is not None:
        values = values + bias.to(values.dtype)
    if norm is not None:
        values = F.rms_norm(values, norm.shape, norm, eps)
    if not A.is_complex():
        return values.mT
    return values.unflatten(-1, (-1, 2)).transpose(1, 2).flatten(2)


def rms_norm_forward(x, weight, bias, eps=1e-6, is_rms_norm=True):
    """The norm that FalconMamba applies to dt, B and C, over the last axis."""
    if not is_rms_norm:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    y = F.rms_norm(x, weight.shape, weight, eps)
    return y if bias is None else torch.add(y, bias)
