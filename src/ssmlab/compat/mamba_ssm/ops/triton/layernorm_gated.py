"""Norms with a gate, as Mamba-2 has them, by the original's signatures."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.compat._gradients import filled, gradients

__all__ = [
    "LayerNorm", "LayerNormFn", "RMSNorm", "_layer_norm_bwd", "_layer_norm_fwd", "layernorm_fn", "rms_norm_ref",
    "rmsnorm_fn",
]  # fmt: skip
__getattr__ = absent(__name__, "_layer_norm_fwd_1pass_kernel _layer_norm_bwd_kernel", "call layernorm_fn instead")


def layernorm_fn(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True, is_rms_norm=False):
    """norm(x) * silu(z), or norm(x * silu(z)) where the gate comes first.

    Args:
        x, z: (..., d). weight, bias: (d,).
        group_size: channels that are normed together; None is all of them.
    Returns:
        (..., d) in the dtype of x, computed in float32 at least.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y, gate = x.to(wide), None if z is None else F.silu(z.to(wide))
    if gate is not None and not norm_before_gate:
        y = y * gate
    y = _normed(y, weight.to(wide), None if bias is None else bias.to(wide), eps, group_size, is_rms_norm)
    if gate is not None and norm_before_gate:
        y = y * gate
    return y.to(x.dtype)


def _normed(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, group_size: int | None, rms: bool) -> Tensor:
    groups = x if group_size is None else x.unflatten(-1, (-1, group_size))
    size = groups.shape[-1:]
    y = F.rms_norm(groups, size, eps=eps) if rms else F.layer_norm(groups, size, eps=eps)
    y = y.reshape(x.shape) * weight
    return y if bias is None else y + bias


def rmsnorm_fn(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True):
    """`layernorm_fn` without the mean."""
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, True)


def rms_norm_ref(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True, upcast=True):
    """The same, written out; in the dtype of x where `upcast` is off."""
    y, gate = (x.float(), z) if upcast else (x, z)
    gate = None if z is None else F.silu(z.float() if upcast else z)
    if gate is not None and not norm_before_gate:
        y = y * gate
    groups = y if group_size is None else y.unflatten(-1, (-1, group_size))
    groups = groups / torch.sqrt(groups.square().mean(-1, keepdim=True) + eps)
    y = groups.reshape(y.shape) * weight.float()
    y = y if bias is None else y + bias.float()
    if gate is not None and norm_before_gate:
        y = y * gate
    return y.to(x.dtype)


def _layer_norm_fwd(
    x, weight, bias, eps, z=None, out=None, group_size=None, norm_before_gate=True, is_rms_norm=False
):  # fmt: skip
    """The forward pass by itself, over rows (m, d): (y, mean or None, 1 / deviation), of every group (groups m,)."""
    with torch.no_grad():
        y = layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm)
        normed = x.float() if z is None or norm_before_gate else x.float() * F.silu(z.float())
        groups = normed.unflatten(-1, (-1, normed.shape[-1] if group_size is None else group_size))
        mean = None if is_rms_norm else groups.mean(-1).mT.flatten()
        spread = groups.square().mean(-1) if is_rms_norm else groups.var(-1, correction=0)
    return filled(out, y), mean, torch.rsqrt(spread + eps).mT.flatten()


def _layer_norm_bwd(
    dy, x, weight, bias, eps, mean, rstd, z=None, group_size=None, norm_before_gate=True, is_rms_norm=False,
    recompute_output=False, dz=None, out=None,
):  # fmt: skip
    """The backward pass by itself: (dx, dweight, dbias, dz[, y]); `dz` and `out` are filled where they are given."""

    def output(x, weight, bias, z):
        return (layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm),)

    dx, dw, db, gz = gradients(output, (x, weight, bias, z), [dy])
    found = (dx, dw, db, gz if gz is None else filled(dz, gz))
    if not recompute_output:
        return found
    with torch.no_grad():
        return *found, filled(out, output(x, weight, bias, z)[0])


class LayerNormFn:
    """`layernorm_fn` as an autograd function."""

    apply = staticmethod(layernorm_fn)


class _GatedNorm(nn.Module):
    def __init__(self, hidden_size, eps, group_size, norm_before_gate, device, dtype):
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))

    def reset_parameters(self):
        """Weights of one, a bias of zero."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class LayerNorm(_GatedNorm):
    """LayerNorm over groups of `group_size` channels, with an optional gate."""

    def __init__(self, hidden_size, eps=1e-5, group_size=None, norm_before_gate=True, device=None, dtype=None):
        super().__init__(hidden_size, eps, group_size, norm_before_gate, device, dtype)
        self.bias = nn.Parameter(torch.zeros(hidden_size, device=device, dtype=dtype))

    def forward(self, x, z=None):
        """x, z (..., d) -> (..., d)."""
        return layernorm_fn(x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate)


class RMSNorm(_GatedNorm):
    """RMSNorm over groups of `group_size` channels, with an optional gate."""

    def __init__(self, hidden_size, eps=1e-5, group_size=None, norm_before_gate=True, device=None, dtype=None):
        super().__init__(hidden_size, eps, group_size, norm_before_gate, device, dtype)
        self.register_parameter("bias", None)

    def forward(self, x, z=None):
        """x, z (..., d) -> (..., d)."""
        return rmsnorm_fn(x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate)
