"""The tables of a recipe that measures time and memory against length. Nothing here imports torch."""

from typing import ClassVar, Literal

from pydantic import Field

from ssmlab.core.table import Table
from ssmlab.tasks.language.recipe import SequenceRecipe


class ScalingData(Table):
    """What is measured: lengths in tokens. The tokens are random."""

    path: str = "random"
    vocab: int = Field(256, ge=2)
    prefill: list[int] = Field(min_length=1)
    training: list[int] = Field([])
    decoding: list[int] = Field([])
    """After a prompt of so many tokens."""
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
