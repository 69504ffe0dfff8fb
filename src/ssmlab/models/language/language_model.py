"""The language model around any sequence block: embedding, residual layers, norm, head; state in and out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.generation import decode_program
from ssmlab.generation.generate import generate
from ssmlab.generation.prompt_state import read
from ssmlab.generation.row_program import RowProgram, row_program
from ssmlab.models.language.tokens import TokensConfig, last_token, of_tokens
from ssmlab.nn import Attention, GatedMLP, Linear

NORMS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
# decay towards zero would pull these away from their meaning
NO_DECAY = ("A_log", "D", "dt_bias", "log_dt", "log_A_real", "A_imag")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(TokensConfig):
    """What all language models have. A family adds the sizes of its block, and makes one in `block`.

    As `TokensConfig`, and:

    d_model: channels of the residual stream.
    n_layer: layers, each a sequence block and, where `d_intermediate` is not 0, a gated MLP after it.
    d_intermediate: hidden channels of the MLP, rounded up to a multiple of `mlp_multiple`.
    attn_layers: layers that are attention instead of the family's block, counted from 0; the fields that begin with
        `attn_` are the arguments of `nn.Attention`.
    norm: "rms" or "layer".
    residual_in_fp32: whether the residual stream stays in float32 in a model of half precision.
    """

    d_model: int = 768
    n_layer: int = 24
    d_intermediate: int = 0
    mlp_multiple: int = 128
    attn_layers: tuple[int, ...] = ()
    attn_heads: int = 12
    attn_kv_heads: int | None = None
    attn_head_dim: int | None = None
    attn_conv: int = 0
    attn_rotary: int | None = None
    attn_rope_base: float = 10000.0
    attn_qkv_bias: bool = False
    attn_out_bias: bool = False
    norm: str = "rms"
    norm_eps: float = 1e-5
    residual_in_fp32: bool = True

    def __post_init__(self):
        object.__setattr__(self, "attn_layers", tuple(self.attn_layers))  # a list, where it was read from a file
        super().__post_init__()
        for name in ("d_model", "n_layer"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.d_intermediate < 0:
            raise ModelError(f"d_intermediate must not be negative, got {self.d_intermediate}; 0 leaves the MLP out")
        if self.norm not in NORMS:
            raise ModelError(f"norm must be {' or '.join(NORMS)}, got {self.norm!r}")
        outside = [i for i in self.attn_layers if not 0 <= i < self.n_layer]
        if outside:
            raise ModelError(f"attn_layers must be numbers from 0 to {self.n_layer - 1}, got {outside}")
        with torch.device("meta"):  # the blocks check their own sizes, and here they cost no memory
            blocks = [self.block(), *([self.attention()] if self.attn_layers else [])]
        acts = {
            "inner": self.d_intermediate > 0 or any(hasattr(block, "inner_dropout") for block in blocks),
            "attention": any(isinstance(block, Attention) for block in blocks),
        }
        for place, there in acts.items():
            if getattr(self.dropout, place) and not there:
                p = getattr(self.dropout, place)
                raise ModelError(f"dropout_{place}={p} acts nowhere in a model of {type(blocks[0]).__name__} blocks")

    def block(self) -> nn.Module:
        """A sequence block of the family, with initial weights."""
        raise NotImplementedError

    def attention(self) -> nn.Module:
        """An attention block, for the layers in `attn_layers`."""
        return Attention(
            self.d_model,
            self.attn_heads,
            num_kv_heads=self.attn_kv_heads,
            head_dim=self.attn_head_dim,
            d_conv=self.attn_conv,
            rotary_dim=self.attn_rotary,
            rope_base=self.attn_rope_base,
            qkv_bias=self.attn_qkv_bias,
            out_bias=self.attn_out_bias,
            attn_dropout=self.dropout_attention,
        )


class Layer(nn.Module):
    """One layer: add the last branch to the residual stream, norm, sequence block; the same again for an MLP.

    The addition is at the beginning of the next layer, so that what goes in and out are the original's `hidden`
    and `residual`.
    """

    def __init__(self, config: LanguageConfig, mixer: nn.Module):
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = NORMS[config.norm](config.d_model, eps=config.norm_eps)
        self.mixer = mixer
        if config.d_intermediate:
            self.norm2 = NORMS[config.norm](config.d_model, eps=config.norm_eps)
            multiple, p = config.mlp_multiple, config.dropout_inner
            self.mlp = GatedMLP(config.d_model, config.d_intermediate, multiple_of=multiple, dropout=p)
        self.dropout, self.skip_dropout = nn.Dropout(config.residual_dropout), config.dropout_skip

    def forward(
        self, hidden: Tensor, residual: Tensor | None, state: Any, mask: Tensor | None, seq_idx: Tensor | None
    ) -> tuple[Tensor, Tensor, Any]:
        """The last branch and the stream before it, (b, l, d_model) -> the same two, and the block's state."""
        skip = self.skip_dropout if self.training else 0.0
        residual = add(hidden, residual, self.residual_in_fp32, skip)
        hidden, state = self.mixer(normed(self.norm, residual), state, mask=mask, seq_idx=seq_idx)
        hidden = self.dropout(hidden)
        if "mlp" in self._modules:  # hasattr takes microseconds to say no
            residual = add(hidden, residual, self.residual_in_fp32, skip)
            hidden = self.dropout(self.mlp(normed(self.norm2, residual)))
        return hidden, residual, state


class Backbone(nn.Module):
    """The layers and the last norm; the embedding is kept here for its name.

    gradient_checkpointing: while training, keep only every layer's input and compute the layer again in the backward
        pass; less memory for a third more time.
    """

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.gradient_checkpointing = False
        size = (config.padded_vocab, config.d_model)
        self.embedding = nn.Embedding(*size, _weight=torch.empty(size))  # filled by `init_weights`
        self.layers = nn.ModuleList(
            Layer(config, config.attention() if i in config.attn_layers else config.block())
            for i in range(config.n_layer)
        )
        self.norm_f = NORMS[config.norm](config.d_model, eps=config.norm_eps)
        self.embedding_dropout, self.skip_dropout = config.dropout_embedding, config.dropout_skip

    def forward(
        self, u: Tensor, state: tuple | None = None, *, mask: Tensor | None = None, seq_idx: Tensor | None = None
    ) -> tuple[Tensor, tuple]:
        """u (b, l, d_model), embedded tokens or anything that stands for them -> features (b, l, d_model) and states.

        Raises:
            ShapeError: sizes disagree, or the state is that of a model with another number of layers.
        """
        if state is not None and len(state) != len(self.layers):
            raise ShapeError(f"the model has {len(self.layers)} layers, the state is of {len(state)}")
        hidden, residual, states = F.dropout(u, self.embedding_dropout, self.training), None, []
        again = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for i, layer in enumerate(self.layers):
            inputs = (hidden, residual, None if state is None else state[i], mask, seq_idx)
            hidden, residual, last = checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs)
            states.append(last)
        skip = self.skip_dropout if self.training else 0.0
        return normed(self.norm_f, add(hidden, residual, self.residual_in_fp32, skip)), tuple(states)


class LanguageModel(nn.Module):
    """Token numbers to logits, for any family of `LanguageConfig`.

    Source: Gu & Dao 2023 (arXiv:2312.00752), section 4 and appendix E.2; names and layouts are those of the Mamba
    code, so that its weights load unchanged. Initial values are GPT-2's: the embedding has standard deviation 0.02,
    biases are zero, and the projections into the residual stream are divided by the square root of their number.

    Args:
        config: the sizes, of one of the families.
    """

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = Linear(config.d_model, config.padded_vocab, bias=False)
        self.init_weights()
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    read, generate = read, generate  # methods, of ssmlab.generation

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw initial values anew, where the blocks' own are not kept; nothing on the meta device."""
        if self.backbone.embedding.weight.is_meta:
            return
        nn.init.normal_(self.backbone.embedding.weight, std=0.02)
        layers: list[Any] = list(self.backbone.layers)
        branches = sum(2 if hasattr(layer, "mlp") else 1 for layer in layers)
        for layer in layers:
            mlp = (layer.mlp.fc1, layer.mlp.fc2) if hasattr(layer, "mlp") else ()
            for linear in (layer.mixer.in_proj, layer.mixer.out_proj, *mlp):
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            for linear in (layer.mixer.out_proj, *mlp[1:]):
                linear.weight.div_(math.sqrt(branches))

    def forward(
        self,
        input_ids: Tensor,
        state: tuple | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
        last_only: bool = False,
    ) -> tuple[Tensor, tuple]:
        """Read a text, a part of it, or one token; it is the same call.

        Args:
            input_ids: token numbers below `vocab_size`, int64, (b, l).
            state: what an earlier call returned, a tuple of the layers' states; None stands for the text's start.
            mask: bool (b, l), True = token. Padding may be left, right or between tokens; it changes nothing at the
                tokens. The logits at padding mean nothing.
            seq_idx: int (b, l), the number of the sequence that a position belongs to, for several packed in a row.
            last_only: logits of each row's last token alone.
        Returns:
            Logits (b, l, vocab_size), or (b, 1, vocab_size) with `last_only`, and the state after the last token.
        Raises:
            ShapeError: sizes disagree, or `input_ids` are no integers.
        """
        check_shapes("language model", input_ids=(input_ids, "any: b l"), mask=(mask, "bool?: b l"),
                     seq_idx=(seq_idx, "integer?: b l"))  # fmt: skip
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise ShapeError(f"language model: input_ids must be int64, got {input_ids.dtype}; pass input_ids.long()")
        if state is not None and not isinstance(state, (tuple, list)):
            raise ShapeError(f"language model: state must be what a call returned, got a {type(state).__name__}")
        try:
            one = (
                decode_program.step(self, input_ids, state, (Backbone, Layer))
                if mask is None and seq_idx is None
                else None
            )
            if one is not None:
                return of_tokens(one[0], self.config), one[1]
            embedded = self.backbone.embedding(input_ids)
        except IndexError:
            last = self.config.padded_vocab - 1
            low, high = (int(end) for end in input_ids.aminmax())
            raise ModelError(f"the model has tokens 0 to {last}, input_ids are from {low} to {high}") from None
        hidden, states = self.backbone(embedded, state, mask=mask, seq_idx=seq_idx)
        if last_only:
            hidden = last_token(hidden, mask)
        return of_tokens(self.lm_head(hidden), self.config), states

    def read_source(self, source: Tensor, mask: Tensor | None = None, state: tuple | None = None) -> tuple:
        """The state after a source, from which a translation begins; gradients flow into it.

        Args:
            source: token numbers, int64, (b, s).
            mask: bool (b, s), True = token; padding may stand anywhere.
            state: of what comes before, such as the sentences before this one.
        Returns:
            The state that `forward` takes with the target's tokens, of which the first is the separator.
        """
        return self.backbone(self.backbone.embedding(source), state, mask=mask)[1]

    def row_program(self, state: tuple, beams: int, before: RowProgram | None = None) -> RowProgram | None:
        """The tokens of a search as native calls, None where there are none; see `generation.row_program`."""
        return row_program(self, state, beams, (Backbone, Layer), before)

    def no_weight_decay(self) -> set[str]:
        """Parameters that decay would pull away from their meaning: the dynamics and the skip of the blocks."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in NO_DECAY}


def add(hidden: Tensor, residual: Tensor | None, in_fp32: bool, skip: float) -> Tensor:
    """The residual stream, after dropout of `skip` on it, with the last branch."""
    if skip and residual is not None:
        residual = F.dropout(residual, skip)
    total = hidden if residual is None else hidden + residual
    return total.to(torch.promote_types(total.dtype, torch.float32)) if in_fp32 else total.to(hidden.dtype)


def normed(norm: Any, residual: Tensor) -> Tensor:
    """The norm in the dtype of its weights, which is the model's."""
    return norm(residual.to(norm.weight.dtype))
