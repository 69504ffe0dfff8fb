"""The tables of a recipe that measures time and memory against length. Nothing here imports torch."""

from typing import ClassVar, Literal

from pydantic import Field

from ssmlab.core.table import Table
from ssmlab.tasks.language.recipe import SequenceRecipe


class ScalingData(Table):
    """What is measured: lengths in tokens. The tokens are random."""

    path: str = "random"
    """Nothing is read: tokens are random."""
    vocab: int = Field(256, ge=2)
    """Numbers of tokens are below it."""
    prefill: list[int] = Field(min_length=1)
    """Lengths at which reading is timed."""
    training: list[int] = Field([])
    """Lengths at which a training step is timed."""
    decoding: list[int] = Field([])
    """Lengths of the prompts after which writing is timed."""
    decoded: int = Field(16, ge=1)
    """Tokens that are written."""
    most_seconds: float = Field(60.0, gt=0)
    """A pass that would take longer is extrapolated."""


class ScalingRecipe(SequenceRecipe):
    """Time and memory against length."""

    forms: ClassVar[str] = "random"
    adapts: ClassVar[bool] = False

    task: Literal["scaling"] = "scaling"
    data: ScalingData
