"""A language model's layers with a head for classes of whole sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.language.language_model import NO_DECAY, LanguageModel
from ssmlab.nn import Linear

POOLS = ("mean", "last")


class SequenceClassifier(nn.Module):
    """The layers of a language model, and one linear layer on the mean over tokens or on the last token.

    Args:
        language: a language model; its own head is not used.
        classes: number of classes.
        pool: "mean" or "last".
    """

    def __init__(self, language: Any, classes: int, pool: str = "mean"):
        super().__init__()
        if pool not in POOLS:
            raise ModelError(f"pool must be {' or '.join(POOLS)}, got {pool!r}")
        self.backbone, self.pool, self.config = language.backbone, pool, language.config
        self.registry_name = getattr(language, "registry_name", None)
        self.head = Linear(self.config.d_model, classes)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (b, l) -> logits (b, classes). mask: bool (b, l), True = token; padding comes after them."""
        features, _ = self.backbone(self.backbone.embedding(tokens), mask=mask)
        if mask is None:
            pooled = features.mean(1) if self.pool == "mean" else features[:, -1]
        elif self.pool == "mean":
            pooled = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            pooled = features.take_along_dim((mask.sum(1) - 1)[:, None, None], 1).squeeze(1)
        return self.head(pooled)

    def language_model(self) -> LanguageModel:
        """The language model with these layers; its head is the embedding. It shares all tensors with this one."""
        with torch.device("meta"):
            model: Any = LanguageModel(self.config)
        model.backbone, model.registry_name = self.backbone, self.registry_name
        model.lm_head.weight = self.backbone.embedding.weight
        return model

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """What the language model names, of its layers."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in NO_DECAY}
