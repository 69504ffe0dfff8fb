"""New rows of an embedding, and of the head that reads or shares it, for tokens that the base has not seen."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from ssmlab.adapt.low_rank import Inserted, attach
from ssmlab.adapt.parts import Part, parts, tensor_of, tied
from ssmlab.errors import ModelError


def build(model: Any, spec: Any) -> list[str]:
    """Widen embedding and head to `spec.vocab_size` tokens, in place; the old rows stay frozen.

    A new row starts as the mean of the old ones. The config's `vocab_size` follows.

    Raises:
        ModelError: no embedding of tokens, or no more tokens than it has.
    """
    there = [part for part in parts(model) if part.role in ("embedding", "head") and tensor_of(model, part).ndim == 2]
    embeddings = [part for part in there if isinstance(model.get_submodule(part.module), nn.Embedding)]
    if not embeddings:
        raise ModelError("method 'vocabulary': the model has no embedding of tokens")
    rows = tensor_of(model, embeddings[0]).shape[0]
    known = getattr(model.config, "vocab_size", rows)
    if spec.vocab_size <= known:
        raise ModelError(f"adapt: vocab_size must be more than the model's {known}, got {spec.vocab_size}")
    if is_dataclass(model.config):
        model.config = replace(model.config, vocab_size=spec.vocab_size)  # type: ignore[type-var]
        wanted = getattr(model.config, "padded_vocab", spec.vocab_size)
    else:
        model.config.vocab_size = wanted = spec.vocab_size
    if wanted <= rows:
        raise ModelError(f"the embedding has {rows} rows already, enough for {spec.vocab_size} tokens; leave it out")
    done: set[str] = set()
    names = []
    for part in there:
        if part.name in done or tensor_of(model, part).shape[0] != rows:
            continue
        same = tied(model, part)
        _widen(model, same, rows, wanted)
        done |= {other.name for other in same}
        names += [other.name for other in same]
    return names


def _widen(model: nn.Module, same: list[Part], rows: int, wanted: int) -> None:
    weight: Tensor = tensor_of(model, same[0]).detach()
    extra = weight.mean(0, keepdim=True).expand(wanted - rows, -1)
    update = Inserted(weight, extra.clone(), list(range(rows, wanted)), 0)
    for other in same:
        module: Any = model.get_submodule(other.module)
        attach(module, other.tensor, update)
        if isinstance(module, nn.Embedding):
            module.num_embeddings = wanted
        else:
            module.out_features = wanted


def merged(model: Any, spec: Any) -> None:
    """Sizes and config are those of the widened model already."""
