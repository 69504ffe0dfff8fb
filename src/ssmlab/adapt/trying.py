"""Methods tried on a model that somebody names: how many numbers each would train, and whether it would learn."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

from ssmlab.adapt.applying import apply
from ssmlab.adapt.checking import Report, check
from ssmlab.adapt.options import CheckOptions, MethodsOptions
from ssmlab.adapt.presets import METHODS
from ssmlab.adapt.saving import load
from ssmlab.checkpoints.find import find_model
from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import ModelError
from ssmlab.models.catalogue import is_repository, published
from ssmlab.models.download import local_folder
from ssmlab.models.registry import create_model, kind_of


class MethodCount(NamedTuple):
    """A method, how many numbers it trains of a model, and their share; None where the model has no such parts."""

    name: str
    trained: int | None
    share: float | None


def open_network(
    model: str | Path,
    options: MethodsOptions | None = None,
    *,
    pretrained: bool = False,
    accept_licence: bool = False,
    **given: Any,
) -> Any:
    """The network of a path, or of a name with published or random weights; a path wins.

    Args:
        options: classes and image_size of a vision model by its name, which may also be given one by one.
        pretrained: of a model by its name the published weights; owner/name has them always.
        accept_licence: accept the licence of published weights.
    Raises:
        ModelError: there is no such model.
    """
    sizes, name = MethodsOptions.of(options, given, "open_network"), str(model)
    row = published(name)
    if row is not None and row.classes and name == row.repository:
        name, pretrained = row.models[0], True
    elif (row is not None or kind_of(name) != "vision") and (is_repository(name) or (pretrained and row is not None)):
        name = str(local_folder(name, accept_licence=accept_licence))
    found = find_model(name)
    if found.folder is not None:
        return load_model(found.folder)[0]
    if found.kind == "language":
        return create_model(found.name)
    how = {"num_classes": sizes.classes, "image_size": sizes.image_size}
    return create_model(found.name, **how, pretrained=pretrained, accept_licence=accept_licence)


def count_methods(network: Any, options: MethodsOptions | None = None, **given: Any) -> list[MethodCount]:
    """How many numbers every method of `METHODS` would train of a model, which stays as it is.

    Args:
        options: the rank, which may also be given by itself.
    """
    rank, found = MethodsOptions.of(options, given, "count_methods").rank, []
    for name in METHODS:
        try:
            adapted = apply(copy.deepcopy(network), name, rank=rank, **_growth(network, name))
        except ModelError:
            found.append(MethodCount(name, None, None))
        else:
            found.append(MethodCount(name, adapted.trainable, adapted.trainable / adapted.total))
    return found


def try_method(network: Any, options: CheckOptions | None = None, **given: Any) -> Report:
    """Put a method, or a saved adapter, on a model, in place, and run it forward and backward once; see `check`.

    Args:
        options: method and rank, or adapter, which may also be given one by one.
    """
    choices = CheckOptions.of(options, given, "try_method")
    if choices.adapter is None:
        apply(network, choices.method, rank=choices.rank, **_growth(network, choices.method))
    else:
        load(network, choices.adapter)
    return check(network)


def _growth(network: Any, method: str) -> dict[str, int]:
    """A few tokens more, where a method adds some."""
    size = getattr(getattr(network, "config", None), "vocab_size", 0)
    return {"vocab_size": size + 8} if size and "vocabulary" in method.split("+") else {}
