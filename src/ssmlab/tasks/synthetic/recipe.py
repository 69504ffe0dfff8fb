"""The tables of a recipe with generated sequences. Nothing here imports torch."""

from typing import ClassVar, Literal

from pydantic import Field

from ssmlab.core.table import Table
from ssmlab.tasks.language.recipe import SequenceRecipe, SequenceTraining


class SyntheticTraining(SequenceTraining):
    """How models of a synthetic task are trained."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of a label that is spread over all tokens."""
    curriculum: Literal["none", "together", "memory_first"] = "memory_first"
    """How training sequences grow where data.grow says that they do; none: they do not. Of selective copying
    memory_first: first what is to be remembered, then the noise; other tasks know only one way."""


class SyntheticData(Table):
    """Generated sequences; every epoch has new ones."""

    path: str = ""
    """selective_copying, induction_heads, parity, modular_sum or modular_arithmetic."""
    vocab: int = Field(16, ge=4, le=250)
    """Of a modular sum modulo 1 less, modular arithmetic 3 less."""
    length: int = Field(256, ge=8)
    """Of a sequence, without the places of the answers."""
    data_tokens: int = Field(16, ge=1)
    """Of selective copying: how many are to be remembered."""
    examples: int = Field(6400, ge=1)
    """Of an epoch."""
    grow: float = Field(0.0, ge=0, le=1)
    """The share of the epochs in which training sequences grow; how: training.curriculum."""
    test_examples: int = Field(1000, ge=1)
    """Of the test part."""
    val_examples: int = Field(0, ge=0)
    """After every epoch; 0: as many as test_examples."""
    test_lengths: list[int] = Field([])
    """Further lengths that are tested, such as four times the training's."""
    split_seed: int = 0
    """Of all sequences."""


class SyntheticRecipe(SequenceRecipe):
    """A run of a synthetic task."""

    forms: ClassVar[str] = "selective_copying, induction_heads, parity, modular_sum or modular_arithmetic"

    task: Literal["synthetic"] = "synthetic"
    data: SyntheticData = SyntheticData()
    training: SyntheticTraining = SyntheticTraining()
