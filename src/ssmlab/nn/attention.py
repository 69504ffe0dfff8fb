"""Causal attention with the interface of the other sequence blocks: for hybrids, and as their opponent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.core.checks import check_shapes, check_state
from ssmlab.core.errors import ModelError
from ssmlab.nn.conv import CausalConv1d
from ssmlab.nn.dt import check_sizes
from ssmlab.nn.linear import Linear
from ssmlab.nn.padding import packed, places, runs
from ssmlab.nn.self_attention import attend


class AttentionState(NamedTuple):
    """What an attention block remembers between two calls; it grows by l positions a call.

    conv: the last inputs of the convolution, newest last, (b, channels, d_conv - 1); empty without one.
    k, v: keys, already rotated, and values of the s positions so far, (b, s, kv_heads, head_dim).
    seen: bool (b, s), which of them the next tokens see: neither padding nor sequences that ended.
    """

    conv: Tensor
    k: Tensor
    v: Tensor
    seen: Tensor


class Attention(nn.Module):
    """Causal softmax attention in grouped heads, with rotary positions and optionally a short convolution before.

        q, k, v = conv1d(in_proj(u))      q, k = rotate(q), rotate(k)
        out = out_proj(softmax(q k^T / sqrt(head_dim)) v)

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; grouped heads: Ainslie et al. 2023 (arXiv:2305.13245),
    section 2; rotary positions: Su et al. 2021 (arXiv:2104.09864), section 3.2, the first half of the channels paired
    with the second; the convolution: Dao & Gu 2024 (arXiv:2405.21060), section 9.2.3. Parameter names and layouts are
    those of the Mamba code. A row's first token has position 0, and so has the first of a packed sequence.

    Args:
        d_model: channels of input and output.
        num_heads: heads of the queries.
        num_kv_heads: heads of keys and values, each read by num_heads / num_kv_heads in a row; None: as many.
        head_dim: channels of a head; None takes d_model / num_heads.
        d_conv: width of the causal convolution over q, k and v, without activation; 0 leaves it out.
        rotary_dim: rotated channels of every head, the first ones; None takes all, 0 none.
        rope_base: slowest wavelength / 2 pi of the rotation.
        qkv_bias, out_bias: biases of in_proj and out_proj.
        dropout: probability of dropout on the block's output, the residual branch.
        attn_dropout: the same on the attention's probabilities.
    Raises:
        ModelError: a size is not positive or does not divide another.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        d_conv: int = 0,
        rotary_dim: int | None = None,
        rope_base: float = 10000.0,
        qkv_bias: bool = False,
        out_bias: bool = False,
        dropout: float = 0.0,
        attn_dropout: float = 0.0,
    ):
        super().__init__()
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_sizes("Attention", num_heads=num_heads, num_kv_heads=kv_heads, head_dim=head_dim or 1)
        if num_heads % kv_heads:
            raise ModelError(f"Attention: num_kv_heads must divide num_heads={num_heads}, got {kv_heads}")
        if head_dim is None and d_model % num_heads:
            raise ModelError(f"Attention: {num_heads} heads do not divide d_model={d_model}; give head_dim")
        self.d_model, self.num_heads, self.num_kv_heads = d_model, num_heads, kv_heads
        self.head_dim = head_dim = d_model // num_heads if head_dim is None else head_dim
        self.rotary_dim = head_dim if rotary_dim is None else rotary_dim
        self.rope_base, self.d_conv = rope_base, d_conv
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= head_dim:
            raise ModelError(f"Attention: rotary_dim must be even and at most head_dim={head_dim}, got {rotary_dim}")
        channels = head_dim * (num_heads + 2 * kv_heads)
        self.in_proj = Linear(d_model, channels, bias=qkv_bias)
        self.conv1d = CausalConv1d(channels, d_conv, activation=None) if d_conv else None
        self.out_proj = Linear(head_dim * num_heads, d_model, bias=out_bias)
        self.dropout, self.attn_dropout = nn.Dropout(dropout), attn_dropout

    def forward(
        self,
        u: Tensor,
        state: AttentionState | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """Run the block over a sequence, over a part of it, or over one token; it is the same call.

        Args:
            u: inputs, (b, l, d_model).
            state: what an earlier call returned; None stands for the start of the sequence.
            mask: bool (b, l), True = token. Padding may be left, right or between tokens; it changes neither the
                outputs at the tokens nor what later calls return nor any gradient, and its own outputs are zero.
            seq_idx: int (b, l), the number of the sequence that a position belongs to, for several packed in a row.
        Returns:
            y (b, l, d_model), and the state after each row's last token.
        Raises:
            ShapeError: sizes disagree, or the mask is not bool.
        """
        self._check(u, state, mask, seq_idx)
        padding, u, seq_idx = packed(u, mask, seq_idx)
        qkv, last = self._project(u, state, padding, seq_idx)
        sizes = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        q, k, v = qkv.unflatten(-1, (-1, self.head_dim)).split(sizes, dim=2)
        run = None if seq_idx is None else runs(seq_idx)
        at = _positions(u, None if state is None else state.seen, run)
        q, k = (_rotate(t, at, self.rotary_dim, self.rope_base) for t in (q, k))
        token = None if padding is None else padding.token
        allowed, seen = _visible(u, None if state is None else state.seen, token, run)
        if state is not None:
            k, v = torch.cat([state.k.to(k.dtype), k], dim=1), torch.cat([state.v.to(v.dtype), v], dim=1)
        y = attend(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=allowed,
            dropout_p=self.attn_dropout if self.training else 0.0,
            is_causal=allowed is None,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )
        y = self.dropout(self.out_proj(y.transpose(1, 2).flatten(2)))
        if padding is not None:
            y = padding.unpack(y)
        return y, AttentionState(last, k, v, seen)

    def empty_state(self, like: Tensor) -> AttentionState:
        """The state before the first token, for as many rows as features (b, l, d) have, in their dtype."""
        rows = len(like)
        keys = like.new_zeros(rows, 0, self.num_kv_heads, self.head_dim)
        conv = like.new_zeros(rows, self.in_proj_channels, max(self.d_conv - 1, 0))
        return AttentionState(conv, keys, keys, like.new_zeros((rows, 0), dtype=torch.bool))

    def _project(self, u: Tensor, state, padding, seq_idx) -> tuple[Tensor, Tensor]:
        """q, k and v side by side (b, l, channels), and the convolution's state."""
        qkv = self.in_proj(u)
        if self.conv1d is None:
            return qkv, qkv.new_zeros(u.shape[0], qkv.shape[-1], 0)
        conv_state = None if state is None else state.conv
        y, last = self.conv1d(qkv.mT, conv_state, seq_idx=seq_idx)
        if padding is not None:
            last = padding.last_inputs(qkv.mT, self.d_conv - 1, conv_state, seq_idx)
        return y.mT, last

    def _check(self, u, state, mask, seq_idx):
        conv, k, v, seen = check_state("Attention", state, AttentionState)
        heads = f"?: b s {self.num_kv_heads} {self.head_dim}"
        check_shapes(
            "Attention",
            u=(u, f"b l {self.d_model}"),
            conv_state=(conv, f"?: b {self.in_proj_channels} {max(self.d_conv - 1, 0)}"),
            k_state=(k, heads),
            v_state=(v, heads),
            seen_state=(seen, "any?: b s"),
            mask=(mask, "bool?: b l"),
            seq_idx=(seq_idx, "integer?: b l"),
        )

    @property
    def in_proj_channels(self) -> int:
        """Channels of q, k and v together."""
        return self.head_dim * (self.num_heads + 2 * self.num_kv_heads)

    def extra_repr(self) -> str:
        sizes = "d_model num_heads num_kv_heads head_dim d_conv rotary_dim"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())


def _positions(u: Tensor, seen: Tensor | None, run: Tensor | None) -> Tensor:
    """The position of every packed token in its own sequence, (1, l) or (b, l)."""
    before = u.new_zeros((1, 1), dtype=torch.int64) if seen is None else seen.sum(1, keepdim=True)
    if run is None:
        return before + torch.arange(u.shape[1], device=u.device)
    return places(run) + before * (run == 0)  # what the state remembers belongs to the first sequence


def _visible(u: Tensor, past: Tensor | None, token: Tensor | None, run: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Which keys a query sees, (b or 1, 1, l, s + l) or None for all up to its own, and `seen` of the next state.

    Padding is after the tokens of this call, where causality hides it; only later calls must know of it.
    """
    b, l = u.shape[:2]
    seen = u.new_ones((b, l), dtype=torch.bool) if token is None else token
    if past is None and run is None:
        return None, seen
    own = u.new_ones((b, l, l), dtype=torch.bool).tril()
    if run is not None:
        own = own & (run[:, :, None] == run[:, None])
        seen = seen & (run == run[:, -1:])
    if past is None:
        return own[:, None], seen
    first = past[:, None].expand(-1, l, -1)
    if run is not None:  # the state belongs to the first sequence
        first, past = first & (run == 0)[..., None], past & (run[:, -1:] == 0)
    return torch.cat([first, own], dim=2)[:, None], torch.cat([past, seen], dim=1)


def _rotate(x: Tensor, at: Tensor, dims: int, base: float) -> Tensor:
    """Rotate the pairs (i, i + dims / 2) of the first `dims` channels of x (b, l, h, p) in proportion to `at`."""
    if dims == 0:
        return x
    wide = torch.promote_types(x.dtype, torch.float32)
    rates = base ** (-torch.arange(0, dims, 2, device=x.device, dtype=wide) / dims)
    angle = at.to(wide)[..., None, None] * rates
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., :dims].to(wide).chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
    return torch.cat([turned, x[..., dims:]], dim=-1)
