"""Options of looking at a model by its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmlab.core.options import Option, Options, Positive


@dataclass(frozen=True, kw_only=True)
class CardOptions(Options):
    """Which sizes a model is counted at, and how much of its tree is shown."""

    depth: Positive = 3
    """Levels of the module tree."""
    classes: Annotated[int | None, Option(least=1)] = None
    """Size of the output: 1000, of a network that segments 2."""
    image_size: Annotated[int | None, Option(least=8)] = None
    """Side of the images; the model's own if not given."""
    plan: Path | None = None
    """Of a network that segments: a file as `ssmlab plan` writes it."""
    dims: Annotated[int, Option(least=2, most=3)] = 2
    """Likewise, without a plan: 2 for images, 3 for volumes."""


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(CardOptions):
    """What is listed where no model is named."""

    verbose: Annotated[bool, Option(short="-v")] = False
    """List the models with their number of parameters."""
    parity: bool = False
    """How closely each family agrees with the original code."""
