"""New rows of an embedding, and of the head that reads or shares it, for tokens that the base has not seen."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from ssmlab.adapt.methods.low_rank import Tail, attach
from ssmlab.adapt.parts import parts, tensor_of, tied
from ssmlab.core.errors import ModelError


def build(model: Any, spec: Any) -> list[str]:
    """Widen embedding and head to `spec.vocab_size` tokens, in place; the old rows stay frozen.

    A new row starts as the mean of the old ones. Rows that the base has, but no token for, are new ones too. The
    config's `vocab_size` follows.

    Raises:
        ModelError: no embedding of tokens, or no more tokens than it has.
    """
    there = [part for part in parts(model) if part.role in ("embedding", "head") and tensor_of(model, part).ndim == 2]
    embeddings = [part for part in there if isinstance(model.get_submodule(part.module), nn.Embedding)]
    if not embeddings:
        raise ModelError("method 'vocabulary': the model has no embedding of tokens")
    rows = tensor_of(model, embeddings[0]).shape[0]
    known = getattr(model.config, "vocab_size", rows)
    size = spec.vocab_size or known + len(spec.new_tokens)
    first = size - len(spec.new_tokens) if spec.new_tokens else known  # a tokenizer may have fewer tokens than known
    if size <= first or not 0 < first <= rows:
        named = f" with {len(spec.new_tokens)} new ones" if spec.new_tokens else ""
        raise ModelError(f"adapt: vocab_size must be more than the model's {known} tokens, got {size}{named}")
    wanted = max(known, size)
    if is_dataclass(model.config):
        model.config = replace(model.config, vocab_size=wanted)  # type: ignore[type-var]
        wanted = getattr(model.config, "padded_vocab", wanted)
    else:
        model.config.vocab_size = wanted
    wanted = max(wanted, rows)
    done: set[str] = set()
    names = []
    for part in there:
        if part.name in done or tensor_of(model, part).shape[0] != rows:
            continue
        same = tied(model, part)
        weight: Tensor = tensor_of(model, same[0]).detach()
        start = weight[:first].mean(0, keepdim=True).expand(wanted - first, -1)
        update = Tail(weight, start.clone(), first)
        for other in same:
            module: Any = model.get_submodule(other.module)
            attach(module, other.tensor, update)
            if isinstance(module, nn.Embedding):
                module.num_embeddings = wanted
            else:
                module.out_features = wanted
        done |= {other.name for other in same}
        names += [other.name for other in same]
    return names


def merged(model: Any, spec: Any) -> None:
    """Sizes and config are those of the widened model already."""
