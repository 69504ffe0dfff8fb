"""The language models by name, and how one is built. Nothing heavy is imported before that.

They stand apart from the table of vision models, whose function asks for classes and an image size.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean
from ssmlab.models.registry import ModelEntry

_SIZES = ("130m", "370m", "790m", "1.4b", "2.8b")


def _family(family: str, module: str, title: str, sizes: tuple[str, ...]) -> dict[str, ModelEntry]:
    return {
        family: ModelEntry(family, module, f"{title}, of any size"),
        **{f"{family}_{size}": ModelEntry(family, module, f"{title}, {size}") for size in sizes},
        f"{family}_test": ModelEntry(family, module, f"{title}, small, for tests"),
    }


LANGUAGE_MODELS: dict[str, ModelEntry] = {
    **_family("mamba_lm", "mamba_lm", "Mamba", _SIZES),
    **_family("mamba2_lm", "mamba_lm", "Mamba-2", ("130m", "370m", "780m", "1.3b", "2.7b")),
    "mamba2_attention_lm_2.7b": ModelEntry("mamba2_lm", "mamba_lm", "Mamba-2 with six layers of attention, 2.7b"),
    "mamba2_attention_lm_test": ModelEntry("mamba2_lm", "mamba_lm", "Mamba-2 with attention, small, for tests"),
    **_family("mamba3_lm", "mamba3_lm", "Mamba-3", ()),
    "mamba3_mimo_lm_test": ModelEntry("mamba3_lm", "mamba3_lm", "Mamba-3 with two inputs a head, small, for tests"),
    **_family("s4d_lm", "s4d_lm", "S4D", _SIZES),
    **_family("transformer_lm", "transformer_lm", "Transformer", _SIZES),
}


def list_language_models() -> list[str]:
    """The names in the table."""
    return list(LANGUAGE_MODELS)


def create_language_model(name: str, *, vocab_size: int | None = None, **options: Any) -> Any:
    """Build a language model by name, with initial weights.

    Args:
        name: of `list_language_models()`.
        vocab_size: tokens; None takes the published one's.
        options: further fields of the family's config.
    Returns:
        The model, with `registry_name` and `config`.
    Raises:
        ModelError: unknown name or option, or sizes that make no model.
    """
    if name not in LANGUAGE_MODELS:
        hint = did_you_mean(name, LANGUAGE_MODELS) or f"; there are {', '.join(LANGUAGE_MODELS)}"
        raise ModelError(f"unknown language model {name!r}{hint}")
    preset = import_module(f"ssmlab.models.language.{LANGUAGE_MODELS[name].module}").CONFIGS[name]
    known = [f.name for f in fields(preset.config)]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) or f"; there are {', '.join(known)}"
            raise ModelError(f"{name} has no option {option!r}{hint}")
    values = preset.values | options
    if vocab_size is not None:
        values |= {"vocab_size": vocab_size, "padded_logits": options.get("padded_logits", False)}
    model = preset.network(preset.config(**values))
    model.registry_name = name
    return model
