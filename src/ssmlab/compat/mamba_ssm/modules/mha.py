"""Attention of the hybrid models, by the original's signature; rotary positions need no flash_attn."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.compat._absent import absent
from ssmlab.core.errors import UserError
from ssmlab.nn.conv import CausalConv1d
from ssmlab.nn.linear import Linear

__all__ = ["MHA", "RotaryEmbedding", "_update_kv_cache", "flash_attn_with_kvcache"]
flash_attn_with_kvcache = RotaryEmbedding = None  # of flash_attn, which is not needed here
__getattr__ = absent(__name__, "", "", causal_conv1d="causal_conv1d_fn causal_conv1d_update")


def _update_kv_cache(kv, inference_params, layer_idx):
    """Write kv (b, l, 2, h, p) after what the cache of `layer_idx` has, and return all of it so far."""
    cache, _ = inference_params.key_value_memory_dict[layer_idx]
    row, at = inference_params.batch_size_offset, inference_params.seqlen_offset
    rows, end = slice(row, row + kv.shape[0]), at + kv.shape[1]
    if rows.stop > cache.shape[0] or end > cache.shape[1]:
        raise UserError(
            f"MHA: the cache has {cache.shape[0]} rows of {cache.shape[1]} tokens, got rows up to {rows.stop} and "
            f"{end} tokens; allocate it for more, with max_batch_size and max_seqlen"
        )
    cache[rows, at:end] = kv
    return cache[rows, :end]


class MHA(nn.Module):
    """Multi-head attention with grouped heads, an optional short convolution, rotary positions and a gated layer.

    Args:
        num_heads_kv: heads of keys and values; None: as many as `num_heads`. head_dim: None: embed_dim / num_heads.
        mlp_dim: channels of a gated layer next to the attention, rounded up to a multiple of 256.
        softmax_scale: None: head_dim ** -0.5. causal: whether a token sees only those up to itself.
        layer_idx: the key of this layer's cache in `inference_params`.
        d_conv: width of a causal convolution over q, k and v; 0 leaves it out.
        rotary_emb_dim: channels of every head that are rotated, the first ones; the pairs are (i, i + half), or
            neighbours where `rotary_emb_interleaved`.

    One token after another gives what the whole sequence gives. (The original's cache holds the convolution's outputs
    in place of its inputs, so that its first tokens after a prompt differ where d_conv > 0.)
    """

    def __init__(
        self, embed_dim, num_heads, num_heads_kv=None, head_dim=None, mlp_dim=0, qkv_proj_bias=True, out_proj_bias=True,
        softmax_scale=None, causal=False, layer_idx=None, d_conv=0, rotary_emb_dim=0, rotary_emb_base=10000.0,
        rotary_emb_interleaved=False, device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        self.embed_dim, self.layer_idx, self.d_conv, self.causal = embed_dim, layer_idx, d_conv, causal
        self.softmax_scale, self.rotary_emb_dim = softmax_scale, rotary_emb_dim
        self.rotary_emb_base, self.rotary_emb_interleaved = rotary_emb_base, rotary_emb_interleaved
        self.num_heads, self.num_heads_kv = num_heads, num_heads if num_heads_kv is None else num_heads_kv
        if num_heads % self.num_heads_kv or (head_dim is None and embed_dim % num_heads):
            raise UserError(
                f"MHA: num_heads_kv must divide num_heads, and num_heads embed_dim, got {self.num_heads_kv}, "
                f"{num_heads} and {embed_dim}"
            )
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.mlp_dim = -(-mlp_dim // 256) * 256
        qkv_dim = self.head_dim * (num_heads + 2 * self.num_heads_kv)
        self.in_proj = Linear(embed_dim, qkv_dim + self.mlp_dim, bias=qkv_proj_bias)
        if d_conv > 0:
            self.conv1d = CausalConv1d(qkv_dim, d_conv, activation=None)
        self.out_proj = Linear(self.head_dim * num_heads + self.mlp_dim // 2, embed_dim, bias=out_proj_bias)
        self.to(device=device, dtype=dtype)

    def forward(self, x: Tensor, inference_params=None) -> Tensor:
        """x (b, l, embed_dim) -> (b, l, embed_dim); with `inference_params` after the tokens of the cache."""
        offset, states = 0, None
        if inference_params is not None:
            offset, states = inference_params.seqlen_offset, self._states_of(inference_params, x)
        qkv, mlp = self.in_proj(x).split([self.in_proj.out_features - self.mlp_dim, self.mlp_dim], dim=-1)
        if self.d_conv > 0:
            qkv = self._convolved(qkv, None if states is None else states[1], offset)
        q, kv = qkv.split([self.num_heads * self.head_dim, 2 * self.num_heads_kv * self.head_dim], dim=-1)
        q, kv = q.unflatten(-1, (-1, self.head_dim)), kv.unflatten(-1, (2, -1, self.head_dim))
        if self.rotary_emb_dim > 0:
            q, k = self._rotated(q, offset), self._rotated(kv[:, :, 0], offset)
            kv = torch.stack([k, kv[:, :, 1]], dim=2)
        if inference_params is not None:
            kv = _update_kv_cache(kv, inference_params, self.layer_idx).to(q.dtype)
        y = self._attention(q, kv).flatten(2)
        if self.mlp_dim > 0:
            up, gate = mlp.chunk(2, dim=-1)
            y = torch.cat([y, up * F.silu(gate)], dim=-1)
        return self.out_proj(y)

    def _attention(self, q: Tensor, kv: Tensor) -> Tensor:
        """q (b, l, h, p) at the last l of the positions of kv (b, s, 2, g, p) -> (b, l, h, p)."""
        l, s = q.shape[1], kv.shape[1]
        mask = None if not self.causal or l == s else q.new_ones(l, s, dtype=torch.bool).tril(s - l)
        k, v = kv.transpose(1, 3).unbind(2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k, v, attn_mask=mask, is_causal=self.causal and mask is None, scale=self.softmax_scale,
            enable_gqa=self.num_heads != self.num_heads_kv,
        )  # fmt: skip
        return y.transpose(1, 2)

    def _convolved(self, qkv: Tensor, conv_state: Tensor | None, offset: int) -> Tensor:
        """q, k and v (b, l, channels) after the convolution; the state (b, channels, d_conv) moves on, newest last."""
        before = None if conv_state is None or offset == 0 else conv_state[..., 1:].to(qkv.dtype)
        y, _ = self.conv1d(qkv.mT, before)
        if conv_state is not None:
            with torch.no_grad():
                past = torch.zeros_like(conv_state) if offset == 0 else conv_state
                conv_state.copy_(torch.cat([past, qkv.mT.to(past.dtype)], dim=-1)[..., -self.d_conv :])
        return y.mT

    def _rotated(self, x: Tensor, offset: int) -> Tensor:
        """x (b, l, h, p) with its first `rotary_emb_dim` channels turned in proportion to their position."""
        dims, wide = self.rotary_emb_dim, torch.promote_types(x.dtype, torch.float32)
        rates = self.rotary_emb_base ** (-torch.arange(0, dims, 2, device=x.device, dtype=wide) / dims)
        at = torch.arange(offset, offset + x.shape[1], device=x.device, dtype=wide)
        angle = at[:, None, None] * rates
        cos, sin = angle.cos(), angle.sin()
        # pairs are the last axis: neighbours lie there, halves are brought there
        turned = x[..., :dims].to(wide)
        interleaved = self.rotary_emb_interleaved
        pairs = turned.unflatten(-1, (-1, 2)) if interleaved else turned.unflatten(-1, (2, -1)).mT
        first, second = pairs.unbind(-1)
        pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
        turned = (pairs if interleaved else pairs.mT).flatten(-2)
        return torch.cat([turned.to(x.dtype), x[..., dims:]], dim=-1)

    def _states_of(self, inference_params, x: Tensor):
        if self.layer_idx is None:
            raise UserError("MHA: inference_params need a layer_idx to find their cache, got layer_idx=None")
        memory = inference_params.key_value_memory_dict
        if self.layer_idx not in memory:
            memory[self.layer_idx] = self.allocate_inference_cache(
                inference_params.batch_size_offset + x.shape[0], inference_params.max_seqlen, dtype=x.dtype
            )
        return memory[self.layer_idx]

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        """Keys and values (b, max_seqlen, 2, heads, head_dim), and the inputs of the convolution or None."""
        weight = self.out_proj.weight
        factory = {"device": weight.device, "dtype": weight.dtype if dtype is None else dtype}
        conv = torch.zeros(batch_size, len(self.conv1d.weight), self.d_conv, **factory) if self.d_conv > 0 else None
        return torch.zeros(batch_size, max_seqlen, 2, self.num_heads_kv, self.head_dim, **factory), conv
