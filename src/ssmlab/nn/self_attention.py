"""Multi-head self-attention over all tokens of a window or an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError
from ssmlab.nn.linear import Linear
from ssmlab.nn.padding import visible

SHORT = 128  # keys


def attend(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    """softmax(Q K^T / sqrt(head size)) V, (b, heads, l, head size).

    Gradients in half precision over few keys are taken in float32 on a CPU: torch 2.14 needs up to seven times as long
    for them in bfloat16 (110 rows, 36 keys); from about 200 keys on it is the other way round.

    Args:
        q, k, v: (b, heads, l, head size), (b, heads, s, head size) twice.
        options: of `torch.nn.functional.scaled_dot_product_attention`.
    """
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if not learns or q.device.type != "cpu" or q.dtype not in (torch.bfloat16, torch.float16) or k.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, **options)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **options).to(q.dtype)


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(head size)) V for every head, between one projection before and one after.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2. Parameter names are those of timm's vision
    transformers, `qkv`, `q_norm`, `k_norm` and `proj`.

    Args:
        d_model: channels of input and output.
        num_heads: heads; must divide d_model.
        qkv_bias: bias of the first projection.
        qk_norm: layer norm of every head's queries and keys.
        attn_drop: probability of dropout of the attention weights while training.
        proj_drop: probability of dropout of the output.
    Raises:
        ModelError: num_heads does not divide d_model.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            raise ModelError(f"SelfAttention: num_heads must divide d_model={d_model}, got {num_heads}")
        self.d_model, self.num_heads, self.attn_drop = d_model, num_heads, attn_drop
        head = d_model // num_heads
        self.qkv = Linear(d_model, 3 * d_model, bias=qkv_bias)
        self.q_norm: nn.Module = nn.LayerNorm(head) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(head) if qk_norm else nn.Identity()
        self.proj = Linear(d_model, d_model)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """u (b, l, d_model) -> (b, l, d_model).

        Args:
            mask: bool (b, l), True = token. Padding changes nothing at the tokens; its own outputs mean nothing.
        Raises:
            ShapeError: u has other axes or channels, or the mask is not bool.
        """
        check_shapes("SelfAttention", u=(u, f"b l {self.d_model}"), mask=(mask, "bool?: b l"))
        q, k, v = self.qkv(u).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop if self.training else 0.0
        allowed = None if mask is None else visible(mask)
        y = attend(self.q_norm(q), self.k_norm(k), v, attn_mask=allowed, dropout_p=dropout)
        return self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, num_heads={self.num_heads}"
