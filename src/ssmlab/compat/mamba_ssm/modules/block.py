"""The residual block of mamba_ssm 2.x: add, norm, mixer, and optionally a second norm and a gated layer."""

import torch
from torch import Tensor, nn

from ssmlab.compat.mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn
from ssmlab.core.errors import UserError

__all__ = ["Block"]


class Block(nn.Module):
    """A mixer whose input is the norm of a residual stream; output and stream are returned apart, added by the next.

    Args:
        dim: d_model, the only argument that the classes are called with.
        mixer_cls: the mixer, which is called with `inference_params` too.
        mlp_cls: the layer after it; `nn.Identity` leaves it and its norm out.
        norm_cls: a class with `weight`, and with `bias` and `eps` where `fused_add_norm`.
        fused_add_norm: add and norm in one function, in float32; `norm_cls` must be LayerNorm or RMSNorm.
        residual_in_fp32: keep the stream in float32.
    """

    def __init__(
        self, dim, mixer_cls, mlp_cls, norm_cls=nn.LayerNorm, fused_add_norm=False, residual_in_fp32=False
    ):  # fmt: skip
        super().__init__()
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.norm = norm_cls(dim)
        self.mixer = mixer_cls(dim)
        self.mlp = None
        if mlp_cls is not nn.Identity:
            self.norm2 = norm_cls(dim)
            self.mlp = mlp_cls(dim)
        if fused_add_norm and not isinstance(self.norm, (nn.LayerNorm, RMSNorm)):
            raise UserError(
                f"Block: fused_add_norm needs LayerNorm or RMSNorm, got {type(self.norm).__name__}; set it to False"
            )

    def forward(self, hidden_states: Tensor, residual: Tensor | None = None, inference_params=None, **mixer_kwargs):
        """hidden_states, residual (b, l, dim) -> the mixer's or the last layer's output, and the stream before it."""
        hidden_states, residual = self._added(self.norm, hidden_states, residual)
        hidden_states = self.mixer(hidden_states, inference_params=inference_params, **mixer_kwargs)
        if self.mlp is not None:
            hidden_states, residual = self._added(self.norm2, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def _added(self, norm: nn.Module, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of the stream with `hidden_states` added, and the stream."""
        if self.fused_add_norm:
            return layer_norm_fn(
                hidden_states, norm.weight, norm.bias, residual=residual, prenorm=True, eps=norm.eps,
                residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(norm, RMSNorm),
            )  # fmt: skip
        residual = hidden_states if residual is None else hidden_states + residual
        hidden_states = norm(residual.to(norm.weight.dtype))
        return hidden_states, residual.to(torch.float32) if self.residual_in_fp32 else residual

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs):
        """The mixer's states."""
        return self.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)
