"""What all networks over tokens share: sizes of the vocabulary, places of dropout, logits of tokens alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from ssmlab.core.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Probabilities of dropout by place; with 0, and in evaluation mode, a place computes nothing.

        x = embedding(tokens)        x = skip(x) + branch(block(x))

    None acts on a recurrent state or on its step size: that would change what the model remembers.

    embedding: of the embedded tokens.
    branch: of what a block adds to the residual stream (Vaswani et al. 2017, arXiv:1706.03762, section 5.4).
    skip: of the identity path next to the block, on top of `branch` (Escolano et al. 2024). A value of the embedding
        survives n blocks with probability (1 - skip)^n, so it must be small.
    inner: inside a block: before a Mamba block's last projection, and of the hidden channels of an MLP.
    attention: of attention's probabilities.
    """

    embedding: float = 0.0
    branch: float = 0.0
    skip: float = 0.0
    inner: float = 0.0
    attention: float = 0.0

    def __post_init__(self):
        for place, p in asdict(self).items():
            if not 0 <= p < 1:
                raise ModelError(f"dropout of {place} must be a probability below 1, got {p}")


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """The vocabulary and the places of dropout.

    vocab_size: tokens; the embedding has a multiple of `vocab_multiple` rows. The rows that only fill it up are no
        tokens: they are in no logits, no loss and no export.
    padded_logits: whether logits have all rows of the embedding, as the originals of published models hand them out.
    tie_embeddings: whether the head's weight is the embedding's.
    residual_dropout: probability of dropout on every branch before it is added to the residual stream; `create_model`
        takes it as `dropout_branch` too.
    dropout_embedding, dropout_skip, dropout_inner, dropout_attention: the same at the other places of `Dropout`.
    """

    vocab_size: int = 50277
    vocab_multiple: int = 8
    padded_logits: bool = False
    tie_embeddings: bool = True
    residual_dropout: float = 0.0
    dropout_embedding: float = 0.0
    dropout_skip: float = 0.0
    dropout_inner: float = 0.0
    dropout_attention: float = 0.0

    def __post_init__(self):
        for name in ("vocab_size", "vocab_multiple"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.residual_dropout < 1:
            raise ModelError(f"residual_dropout must be a probability below 1, got {self.residual_dropout}")
        _ = self.dropout  # checks the others

    @property
    def dropout(self) -> Dropout:
        """The probabilities by place."""
        return Dropout(
            embedding=self.dropout_embedding,
            branch=self.residual_dropout,
            skip=self.dropout_skip,
            inner=self.dropout_inner,
            attention=self.dropout_attention,
        )

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def logits(self) -> int:
        """Logits of a position."""
        return self.padded_vocab if self.padded_logits else self.vocab_size


def of_tokens(logits: Tensor, config: TokensConfig) -> Tensor:
    """Without the rows that only fill up the vocabulary; of a smaller head as it is."""
    return logits if logits.shape[-1] <= config.logits else logits[..., : config.logits]


def last_token(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(b, 1, d), the features (b, l, d) of each row's last token; of the last column in a row without one."""
    if mask is None:
        return hidden[:, -1:]
    last = mask.shape[1] - 1 - mask.flip(1).byte().argmax(1)
    return hidden.take_along_dim(last[:, None, None], 1)
