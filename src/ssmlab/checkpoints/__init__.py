"""Published weights: the maps from the originals' names to ours, one module a family under `upstream`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.rules import Rule, convert
from ssmlab.models.weights import fit

__all__ = ["FAMILIES", "Rule", "convert", "family_module", "from_upstream"]

FAMILIES = tuple(
    sorted(path.stem for path in (Path(__file__).parent / "upstream").glob("*.py") if path.stem != "__init__")
)


def family_module(family: str) -> Any:
    """The module of a family: LICENSE (of the weights), RULES, and build(config) -> model.

    Raises:
        ModelError: there is no such family.
    """
    if family not in FAMILIES:
        raise ModelError(f"unknown family {family!r}; there are {', '.join(FAMILIES)}")
    return import_module(f"ssmlab.checkpoints.upstream.{family}")


def from_upstream(family: str, config: dict[str, Any], state_dict: dict[str, Tensor]) -> nn.Module:
    """Our model with the weights of an original one.

    Args:
        family: of `FAMILIES`.
        config: the original's own arguments, by its names.
        state_dict: the original's tensors by the original's names, old ones included.
    Returns:
        The model, in evaluation mode.
    Raises:
        ModelError: an unknown family, an option that we do not know, or names and shapes that disagree, all listed.
    """
    module = family_module(family)
    model = module.build(dict(config))
    fit(model, convert(state_dict, module.RULES), f"the original's weights of {family}")
    return model.eval()
