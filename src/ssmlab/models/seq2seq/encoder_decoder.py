"""The network of an encoder and a decoder around any blocks; a translation begins from the state after its source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models.language.language_model import NO_DECAY, NORMS, normed
from ssmlab.models.language.tokens import TokensConfig, last_token, of_tokens
from ssmlab.nn import AttentionState, CrossKeys, Linear
from ssmlab.nn.padding import packed


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(TokensConfig):
    """What all encoder-decoders have. A family makes the blocks.

    As `TokensConfig`, and:

    vocab_size, vocab_multiple: source and target share one vocabulary and one embedding.
    d_model: channels of the residual streams.
    n_encoder_layer, n_layer: layers of the encoder and of the decoder.
    heads: of the attention from the target to the source.
    norm: "rms" or "layer". norm_eps: added to its mean square.
    post_norm: the norm comes after the sum, as in the first Transformer, instead of before the block.
    scale_embedding: embedded tokens are multiplied by sqrt(d_model).
    logits_bias: a bias a token on the logits.
    """

    vocab_size: int = 32000
    d_model: int = 512
    n_encoder_layer: int = 6
    n_layer: int = 6
    heads: int = 8
    norm: str = "rms"
    norm_eps: float = 1e-5
    post_norm: bool = False
    scale_embedding: bool = False
    logits_bias: bool = False
    positions: ClassVar[bool] = False  # whether sinusoids are added to embedded tokens

    def __post_init__(self):
        super().__post_init__()
        for name in ("d_model", "n_encoder_layer", "n_layer"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.norm not in NORMS:
            raise ModelError(f"norm must be {' or '.join(NORMS)}, got {self.norm!r}")
        with torch.device("meta"):  # the blocks check their own sizes, and here they cost no memory
            self.encoder_blocks(), self.decoder_blocks()

    def encoder_blocks(self) -> dict[str, nn.Module]:
        """The blocks of an encoder layer by name, in their order, with initial weights; the first is "mixer"."""
        raise NotImplementedError

    def decoder_blocks(self) -> dict[str, nn.Module]:
        """The blocks of a decoder layer by name, in their order: "mixer" is causal, "cross" looks at the source."""
        raise NotImplementedError


class Branch(nn.Module):
    """A block, its norm, and the sum with the residual stream.

    post-norm   norm(skip(x) + dropout(block(x)))      pre-norm   skip(x) + dropout(block(norm(x)))
    """

    def __init__(self, config: EncoderDecoderConfig, block: nn.Module):
        super().__init__()
        self.norm = NORMS[config.norm](config.d_model, eps=config.norm_eps)
        self.block, self.post_norm = block, config.post_norm
        self.dropout, self.skip = nn.Dropout(config.residual_dropout), nn.Dropout(config.dropout_skip)

    def forward(self, x: Tensor, *inputs: Any, **named: Any) -> tuple[Tensor, Any]:
        """x (b, l, d_model), and what else the block takes -> the stream after it, and its state, None without one."""
        out = self.block(x if self.post_norm else normed(self.norm, x), *inputs, **named)
        y, state = out if isinstance(out, tuple) else (out, None)
        total = self.skip(x) + self.dropout(y)
        return (normed(self.norm, total) if self.post_norm else total), state


class EncoderLayer(nn.Module):
    """A block that sees the whole source, and what the family puts after it."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        for name, block in config.encoder_blocks().items():
            self.add_module(name, Branch(config, block))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (b, s, d_model) -> (b, s, d_model); mask: bool (b, s), True = token."""
        branches: dict[str, Any] = dict(self._modules)
        for name, branch in branches.items():
            x, _ = branch(x, mask=mask) if name == "mixer" else branch(x)
        return x


class DecoderLayer(nn.Module):
    """A causal block with a state, attention to the source, and what the family puts after them."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        for name, block in config.decoder_blocks().items():
            self.add_module(name, Branch(config, block))

    def forward(self, x: Tensor, state: Any, keys: CrossKeys, mask: Tensor | None) -> tuple[Tensor, Any]:
        """x (b, l, d_model), the causal block's state and the source's keys -> x and the state after it."""
        branches: dict[str, Any] = dict(self._modules)
        for name, branch in branches.items():
            if name == "mixer":
                x, state = branch(x, state, mask=mask)
            else:
                x, _ = branch(x, keys) if name == "cross" else branch(x)
        return x, state


class Encoder(nn.Module):
    """The source's features. Its padding is moved after the tokens and stays there."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_encoder_layer))
        if not config.post_norm:
            self.norm_f = NORMS[config.norm](config.d_model, eps=config.norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None, again: bool) -> Tensor:
        """x (b, s, d_model) -> (b, s, d_model). again: compute the layers anew in the backward pass."""
        for layer in self.layers:
            x = checkpoint(layer, x, mask, use_reentrant=False) if again else layer(x, mask)
        return normed(self.norm_f, x) if "norm_f" in self._modules else x


class TranslationBackbone(nn.Module):
    """Embedding, encoder and decoder, without the head.

    gradient_checkpointing: while training, keep only every layer's input and compute the layer again in the backward
        pass; less memory for a third more time.
    """

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.config, self.gradient_checkpointing = config, False
        size = (config.padded_vocab, config.d_model)
        self.embedding = nn.Embedding(*size, _weight=torch.empty(size))  # filled by `init_weights`
        self.dropout = nn.Dropout(config.dropout_embedding)
        self.encoder = Encoder(config)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layer))
        if not config.post_norm:
            self.norm_f = NORMS[config.norm](config.d_model, eps=config.norm_eps)

    def embed(self, ids: Tensor, first: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens (b, l) -> (b, l, d_model). first: places before the first column, (b, 1); mask: bool (b, l)."""
        x = self.embedding(ids)
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.d_model)
        if self.config.positions:
            at = torch.arange(ids.shape[1], device=ids.device)[None] if mask is None else mask.cumsum(1) - 1
            x = x + sinusoids(at if first is None else at + first, self.config.d_model).to(x.dtype)
        return self.dropout(x)

    def encode(self, source: Tensor, mask: Tensor | None) -> tuple:
        """The state before the first token of the target: of every causal block, then `CrossKeys` of every layer."""
        padding, x, _ = packed(self.embed(source, mask=mask), mask, None)
        token = None if padding is None else padding.token
        memory = self.encoder(x, token, self._again())
        layers: list[Any] = list(self.layers)
        own = [layer.mixer.block.empty_state(memory) for layer in layers]
        return (*own, *(layer.cross.block.keys(memory, token) for layer in layers))

    def forward(self, ids: Tensor, state: tuple, mask: Tensor | None = None) -> tuple[Tensor, tuple]:
        """Tokens of the target (b, l) -> features (b, l, d_model) and the state after them."""
        count = len(self.layers)
        if len(state) != 2 * count or not isinstance(state[-1], CrossKeys):
            raise ShapeError(f"the state must be of {count} layers, as `read_source` of this model returns it")
        own, keys, states, again = state[:count], state[count:], [], self._again()
        first = own[0].seen.sum(1, keepdim=True) if self.config.positions and own[0].seen.shape[1] else None
        x = self.embed(ids, first, mask)
        for i, layer in enumerate(self.layers):
            begun = None if isinstance(own[i], AttentionState) and not own[i].seen.shape[1] else own[i]
            inputs = (x, begun, keys[i], mask)
            x, last = checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs)
            states.append(last)
        return normed(self.norm_f, x) if "norm_f" in self._modules else x, (*states, *keys)

    def _again(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()


class EncoderDecoder(nn.Module):
    """Source and target to logits, for any family of `EncoderDecoderConfig`.

        state = model.read_source(source, mask)
        logits, state = model(target, state)            # target begins with the separator

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3. Initial values with `post_norm` are Glorot's, biases are
    zero; else those of `LanguageModel`.

    Args:
        config: the sizes, of one of the families.
    """

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.config = config
        self.backbone = TranslationBackbone(config)
        self.lm_head = Linear(config.d_model, config.padded_vocab, bias=config.logits_bias)
        self.init_weights()
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw initial values anew, where the blocks' own are not kept; nothing on the meta device."""
        backbone, config = self.backbone, self.config
        if backbone.embedding.weight.is_meta:
            return
        deviation = config.d_model**-0.5 if config.scale_embedding else 0.02
        for matrix in (backbone.embedding.weight, self.lm_head.weight):
            nn.init.normal_(matrix, std=deviation)
        if config.logits_bias:
            nn.init.zeros_(self.lm_head.bias)
        for stack in (backbone.encoder.layers, backbone.layers):
            blocks: list[Any] = [part.block for part in stack.modules() if isinstance(part, Branch)]
            for block in blocks:
                if config.post_norm:
                    own = [] if hasattr(block, "dt_proj") else [m for m in block.modules() if isinstance(m, Linear)]
                    for linear in own:
                        nn.init.xavier_uniform_(linear.weight)
                        if linear.bias is not None:
                            nn.init.zeros_(linear.bias)
                else:
                    last = next(name for name in ("out_proj", "proj", "fc2") if hasattr(block, name))
                    getattr(block, last).weight.div_(math.sqrt(len(blocks)))

    def read_source(self, source: Tensor, mask: Tensor | None = None) -> tuple:
        """The state from which a translation begins; gradients flow into it.

        Args:
            source: token numbers, int64, (b, s).
            mask: bool (b, s), True = token; padding may stand anywhere.
        Returns:
            A state of every decoder layer's causal block, then `CrossKeys` of every layer, which belong to the
            sentences: rows of the target may be several for each, see `nn.CrossAttention`.
        Raises:
            ShapeError: sizes disagree.
        """
        check_shapes("translation model", source=(source, "integer: b s"), mask=(mask, "bool?: b s"))
        try:
            return self.backbone.encode(source, mask)
        except IndexError:
            raise self._unknown(source) from None

    def forward(
        self, input_ids: Tensor, state: tuple, *, mask: Tensor | None = None, last_only: bool = False
    ) -> tuple[Tensor, tuple]:
        """Read a target, a part of it, or one token; it is the same call.

        Args:
            input_ids: token numbers, int64, (b, l); a target begins with the separator.
            state: what `read_source` or an earlier call returned.
            mask: bool (b, l), True = token. Padding may stand left, right or between tokens; it changes nothing at the
                tokens. The logits at padding mean nothing.
            last_only: logits of each row's last token alone.
        Returns:
            Logits (b, l, vocab_size), or (b, 1, vocab_size) with `last_only`, and the state after the last token.
        Raises:
            ShapeError: sizes disagree, or the state is another model's.
        """
        check_shapes("translation model", input_ids=(input_ids, "integer: b l"), mask=(mask, "bool?: b l"))
        try:
            hidden, state = self.backbone(input_ids, state, mask)
        except IndexError:
            raise self._unknown(input_ids) from None
        if last_only:
            hidden = last_token(hidden, mask)
        return of_tokens(self.lm_head(hidden), self.config), state

    def no_weight_decay(self) -> set[str]:
        """Parameters that decay would pull away from their meaning: the dynamics and the skip of the blocks."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in NO_DECAY}

    def _unknown(self, ids: Tensor) -> ModelError:
        low, high = (int(end) for end in ids.aminmax())
        return ModelError(f"the model has tokens 0 to {self.config.padded_vocab - 1}, got {low} to {high}")


def sinusoids(at: Tensor, d_model: int) -> Tensor:
    """Positions (b, l) -> (b, l, d_model): sines of all wavelengths, then their cosines, in float32.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, with the channels in the order of Marian.
    """
    rates = 10000 ** (-torch.arange(0, d_model, 2, device=at.device, dtype=torch.float64) / d_model)
    angle = at.to(torch.float64)[..., None] * rates
    return torch.cat([angle.sin(), angle[..., : d_model // 2].cos()], dim=-1).float()
