"""Attention from one sequence to another: from a translation to its source."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.core.checks import check_shapes, check_state
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn.dt import check_sizes
from ssmlab.nn.linear import Linear
from ssmlab.nn.padding import visible
from ssmlab.nn.self_attention import attend


class CrossKeys(NamedTuple):
    """What a block sees of the sources: it belongs to the sentences, is never changed, and several rows may share it.

    k, v: keys and values of n sentences, (n, heads, s, head_dim).
    seen: bool (n, s), True = token.
    """

    k: Tensor
    v: Tensor
    seen: Tensor


class CrossAttention(nn.Module):
    """Softmax attention whose queries are of one sequence, keys and values of another.

        q = q_proj(u)      k, v = kv_proj(memory)      y = out_proj(softmax(q k^T / sqrt(head_dim)) v)

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.3.

    Args:
        d_model: channels of input, memory and output.
        num_heads: heads; must divide d_model.
        bias: biases of all projections.
        attn_dropout: probability of dropout on the attention's probabilities.
    Raises:
        ModelError: num_heads does not divide d_model.
    """

    def __init__(self, d_model: int, num_heads: int, *, bias: bool = True, attn_dropout: float = 0.0):
        super().__init__()
        check_sizes("CrossAttention", d_model=d_model, num_heads=num_heads)
        if d_model % num_heads:
            raise ModelError(f"CrossAttention: num_heads must divide d_model={d_model}, got {num_heads}")
        self.d_model, self.num_heads, self.head_dim = d_model, num_heads, d_model // num_heads
        self.q_proj = Linear(d_model, d_model, bias=bias)
        self.kv_proj = Linear(d_model, 2 * d_model, bias=bias)
        self.out_proj = Linear(d_model, d_model, bias=bias)
        self.attn_dropout = attn_dropout

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> CrossKeys:
        """Keys and values, once for a source.

        Args:
            memory: features of the sources, (n, s, d_model).
            mask: bool (n, s), True = token, anywhere.
        Raises:
            ShapeError: sizes disagree, or the mask is not bool.
        """
        check_shapes("CrossAttention", memory=(memory, f"n s {self.d_model}"), mask=(mask, "bool?: n s"))
        k, v = self.kv_proj(memory).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        return CrossKeys(k, v, memory.new_ones(memory.shape[:2], dtype=torch.bool) if mask is None else mask)

    def forward(self, u: Tensor, state: CrossKeys) -> Tensor:
        """u (b, l, d_model) -> y (b, l, d_model).

        Args:
            state: from `keys`, of n sentences. b is a multiple of n: rows i b / n to (i + 1) b / n - 1 are of
                sentence i, such as the beams of its translation.
        Raises:
            ShapeError: sizes disagree.
        """
        k, v, seen = check_state("CrossAttention", state, CrossKeys)
        heads = f"n {self.num_heads} s {self.head_dim}"
        check_shapes(
            "CrossAttention", u=(u, f"b l {self.d_model}"), k=(k, heads), v=(v, heads), seen=(seen, "bool: n s")
        )
        rows, length = u.shape[:2]
        if rows % len(k):
            raise ShapeError(
                f"CrossAttention: {rows} rows cannot be shared out among {len(k)} sources; give each the same number"
            )
        q = self.q_proj(u).view(len(k), -1, self.num_heads, self.head_dim).transpose(1, 2)
        dropout = self.attn_dropout if self.training else 0.0
        y = attend(q, k, v, attn_mask=visible(seen), dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).reshape(rows, length, self.d_model))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, num_heads={self.num_heads}"
