"""Options of looking at methods of adaptation: which network, and what of it is adapted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmlab.core.options import Option, Options, Positive


@dataclass(frozen=True, kw_only=True)
class MethodsOptions(Options):
    """Which network methods are counted for, and how large they are."""

    rank: Positive = 8
    """Rank of low-rank updates."""
    classes: Positive = 10
    """Size of the output of a vision model given by its name."""
    image_size: Annotated[int | None, Option(least=8)] = None
    """Side of its images; the model's own if not given."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(MethodsOptions):
    """What is put on a network to see whether it would learn."""

    method: str = "projections"
    """A method, or several as in projections+conv."""
    adapter: Path | None = None
    """A saved adapter instead of new ones."""
    every: Annotated[bool, Option(flag="--all")] = False
    """A line for every tensor instead of one for all layers."""
