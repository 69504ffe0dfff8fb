"""Adapters in a run: attached before training, proved to learn, merged and saved after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssmlab import adapt
from ssmlab.adapt.applying import mergeable
from ssmlab.adapt.methods.lora import widen
from ssmlab.adapt.parts import head_modules
from ssmlab.core.errors import RecipeError
from ssmlab.core.record import Record
from ssmlab.models.language.language_model import NO_DECAY
from ssmlab.nn import ClassifierHead, Linear, QuantizedLinear, quantize_linear_
from ssmlab.tasks.language.new_tokens import growth, write_tokenizer
from ssmlab.tasks.shared.tables import method_of

FOLDER = "adapter"
_OPTIONS = ("rank", "dropout", "dora", "rslora", "tokens", "states", "share")


def has_adapters(recipe: Any, model: Any) -> bool:
    """Whether `attach` has something to do."""
    return bool(method_of(recipe, model)) or recipe.adapt.gradient_checkpointing


def attach(recipe: Any, model: Any, network: nn.Module, task: Any, batch: dict, precision: str) -> None:
    """Adapt a network before it is trained, in place, where the recipe has adapters for it, and check them.

    Args:
        batch: of the task, which the check computes.
        precision: in which the network will be trained.
    Raises:
        UserError: the method does not fit the network, or an adapter would learn nothing.
    """
    config, method = recipe.adapt, method_of(recipe, model)
    if config.gradient_checkpointing:
        checkpoint_blocks(network)
    if not method:
        return
    if recipe.training_of(model).layer_decay < 1:
        raise RecipeError("training.layer_decay asks for the layers of a model without adapters; leave it at 1.0")
    if recipe.training_of(model).freeze:
        raise RecipeError("training.freeze: with adapters everything else is frozen already; leave it empty")
    keep_base(network, config.base, precision)
    options = {name: getattr(config, name) for name in _OPTIONS} | growth(recipe, method, task)
    if config.new_tokens:
        from ssmlab.tasks.language.texts import tokenizer_of

        grown: Any = tokenizer_of(recipe)[0]
        network.tokenizer_files = grown.files
    train = tuple(dict.fromkeys([*config.train, *head_of(network, task)]))
    adapt.apply(network, method, alpha=config.alpha or None, train=train, **options)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16" and config.base == "bf16"):
        adapt.check(network, batch, task=task).raise_for_inert()


def checkpoint_blocks(network: Any) -> None:
    """Keep the inputs of blocks alone.

    Raises:
        RecipeError: the network cannot do it.
    """
    inner: Any = getattr(network, "backbone", None)
    if hasattr(inner, "gradient_checkpointing"):
        inner.gradient_checkpointing = True
    elif hasattr(network, "set_grad_checkpointing"):
        network.set_grad_checkpointing(True)
    else:
        raise RecipeError(f"adapt.gradient_checkpointing: {type(network).__name__} cannot compute its blocks again")


def keep_base(network: Any, base: str, precision: str) -> None:
    """The frozen weights in a precision; the scans' dynamics stay in float32, and so do vectors of vision models.

    Raises:
        RecipeError: 8 bits for a network without layers that can have them, or 16 for one that is fed with 32.
    """
    language = hasattr(getattr(network, "config", None), "vocab_size")
    if base == "bf16":
        if not language and precision != "bf16":
            raise RecipeError("adapt.base=bf16: images are float32; add training.precision=bf16")
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2] not in (*NO_DECAY, "A_logs") and (language or parameter.ndim > 1):
                parameter.data = parameter.data.to(torch.bfloat16)
    if base == "int8" and language:
        quantize_linear_(network, skip=("lm_head",) if hasattr(network, "lm_head") else ())
    elif base == "int8":
        heads = [id(m) for m in network.modules() if isinstance(m, ClassifierHead)] or map(id, head_modules(network))
        _quantize(network, set(heads))


def _quantize(network: nn.Module, heads: set[int]) -> None:
    """8 bits for the linear layers of a vision model but its head; those over the channels of a map stay.

    Raises:
        RecipeError: it has none.
    """
    found = [name for name, child in network.named_modules() if type(child) in (nn.Linear, Linear)]
    inside = [name for name, child in network.named_modules() if id(child) in heads]
    names = [n for n in found if not any(n == head or n.startswith(f"{head}.") for head in inside)]
    if not names:
        raise RecipeError(f"adapt.base=int8: {type(network).__name__} has no linear layers for it; use bf16")
    for name in names:
        layer: Any = network.get_submodule(name)
        network.set_submodule(name, QuantizedLinear.of(layer))


def head_of(network: Any, task: Any) -> list[str]:
    """The classifier of a network, where its task has classes: these are of the new data."""
    return new_head(network) if hasattr(task, "classes") else []


def new_head(network: Any) -> list[str]:
    """The classifier of a network, by the names of its modules."""
    names = {id(module): name for name, module in network.named_modules()}
    heads = [m for m in network.modules() if isinstance(m, ClassifierHead)] or head_modules(network)
    return [names[id(head)] for head in heads]


def merge_and_save(network: nn.Module, folder: Path) -> bool:
    """Save the adapters of a trained network, and merge them where that can be, in float32.

    Returns:
        whether the network is one without adapters now, which can be saved as such.
    """
    if not hasattr(network, "adaptation"):
        return True
    adapt.save(network, folder / FOLDER)
    for place in (folder, folder / FOLDER):
        write_tokenizer(getattr(network, "tokenizer_files", {}), place)
    network.float()
    whole = mergeable(network)
    if whole:
        adapt.merge(network)
    widen(network)  # no file of weights holds 8 bits
    return whole


def trained_numbers(network: nn.Module) -> Record:
    """How many numbers are trained."""
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Record(metric="trained_parameters", value=count, unit="count")
