"""Norms with a gate, as Mamba-2 has them, by the original's signatures."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LayerNorm", "RMSNorm", "layernorm_fn", "rms_norm_ref", "rmsnorm_fn"]


def layernorm_fn(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True, is_rms_norm=False):
    """norm(x) * silu(z), or norm(x * silu(z)) where the gate comes first.

    Args:
        x, z: (..., d). weight, bias: (d,).
        group_size: channels that are normed together; None is all of them.
    Returns:
        (..., d) in the dtype of x, computed in float32.
    """
    y, gate = x.float(), None if z is None else F.silu(z.float())
    if gate is not None and not norm_before_gate:
        y = y * gate
    y = _normed(y, weight.float(), None if bias is None else bias.float(), eps, group_size, is_rms_norm)
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


class _GatedNorm(nn.Module):
    def __init__(self, hidden_size, eps, group_size, norm_before_gate, device, dtype):
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))


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
