"""A causal language model of transformers with the calls of `LanguageModel`, for comparison: its state grows."""

from __future__ import annotations

from inspect import signature
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.generation.generate import generate
from ssmlab.generation.prompt_state import read
from ssmlab.models.language.tokens import last_token
from ssmlab.models.weights import one_line


class KeysValues(NamedTuple):
    """What one layer keeps of all tokens.

    k, v: (b, heads, l, head_dim).
    seen: bool (b, l), True = token; False is padding.
    """

    k: Tensor
    v: Tensor
    seen: Tensor


class TransformersBackbone(nn.Module):
    """The layers, with state in and state out.

    Args:
        network: `AutoModelForCausalLM`'s.
    """

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        inner = network.base_model
        self.cache_name = "cache" if "cache" in signature(inner.forward).parameters else "past_key_values"
        self.gradient_checkpointing = False

    @property
    def embedding(self) -> Any:
        return self.network.get_input_embeddings()

    def forward(
        self, u: Tensor, state: tuple | None = None, *, mask: Tensor | None = None, seq_idx: Tensor | None = None
    ) -> tuple[Tensor, tuple]:
        """u (b, l, d_model), embedded tokens, -> features (b, l, d_model) and the layers' keys and values."""
        from transformers import DynamicCache

        if seq_idx is not None:
            raise ModelError("a language model of transformers reads one text a row; leave packing out")
        mask = torch.ones(u.shape[:2], dtype=torch.bool, device=u.device) if mask is None else mask
        seen = mask if state is None else torch.cat([state[0].seen, mask], 1)
        places = (seen.long().cumsum(1) - 1).clamp(min=0)[:, -u.shape[1] :]
        cache = DynamicCache()
        for i, layer in enumerate(state or ()):
            cache.update(layer.k, layer.v, i)
        options: Any = {self.cache_name: cache, "use_cache": True}
        attended = None if bool(seen.all()) else seen
        found = self.network.base_model(inputs_embeds=u, attention_mask=attended, position_ids=places, **options)
        return found.last_hidden_state, tuple(KeysValues(layer.keys, layer.values, seen) for layer in cache.layers)


class TransformersLanguageModel(nn.Module):
    """A causal language model of transformers that can be read, asked and continued as ours are.

    Args:
        config: of transformers, with its model_type.
        network: with weights; None builds one with initial weights.
    Raises:
        ModelError: transformers has no such model.
    """

    registry_name = "transformers"
    read, generate = read, generate

    def __init__(self, config: dict[str, Any], network: Any = None):
        super().__init__()
        from transformers import AutoConfig, AutoModelForCausalLM

        if network is None:
            values = dict(config)
            kind = values.pop("model_type", None)
            try:
                network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
            except (ValueError, TypeError, KeyError) as error:
                raise ModelError(f"transformers has no language model {kind!r}: {one_line(error)}") from error
        self.original = dict(config)
        self.backbone = TransformersBackbone(network)
        size, width = network.config.vocab_size, network.config.hidden_size
        self.config = SimpleNamespace(vocab_size=size, padded_vocab=size, logits=size, d_model=width)

    @property
    def lm_head(self) -> Any:
        return self.backbone.network.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        state: tuple | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
        last_only: bool = False,
    ) -> tuple[Tensor, tuple]:
        """As of `LanguageModel`: logits (b, l or 1, vocabulary) and the state after the last token."""
        hidden, after = self.backbone(self.backbone.embedding(input_ids), state, mask=mask, seq_idx=seq_idx)
        return self.lm_head(last_token(hidden, mask) if last_only else hidden), after
