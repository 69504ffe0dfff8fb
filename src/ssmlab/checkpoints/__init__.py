"""Models in files: our folders, the layouts of others, and weights of original implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def from_upstream(family: str, config: dict[str, Any], state_dict: dict[str, Tensor]) -> Any:
    """Our model with the weights of an original one.

    Args:
        family: of `models.registry.ORIGINALS`.
        config: the original's own arguments, by its names.
        state_dict: the original's tensors by the original's names, old ones included.
    Returns:
        The model, in evaluation mode.
    Raises:
        ModelError: an unknown family, an option that we do not know, or names and shapes that disagree, all listed.
    """
    from ssmlab.models.registry import original
    from ssmlab.models.rules import convert
    from ssmlab.models.weights import fit

    known = original(family)
    model = known.build(dict(config))
    fit(model, convert(state_dict, known.rules), f"the original's weights of {family}")
    return model.eval()
