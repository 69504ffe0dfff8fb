"""The tables of a learning curve. Nothing here imports torch."""

from typing import Literal

from pydantic import Field, model_validator

from ssmlab.tasks.classify.recipe import Recipe


class LearningCurveRecipe(Recipe):
    """Classification with growing shares of the training part; validation and test part stay whole."""

    task: Literal["learning_curve"] = "learning_curve"  # type: ignore[assignment]
    fractions: list[float] = Field([0.05, 0.1, 0.25, 0.5, 1.0], min_length=2)
    """Shares of the training part, each within the next; the models that are saved are those of the largest."""

    @model_validator(mode="after")
    def _growing(self):
        if self.fractions != sorted(set(self.fractions)) or not 0 < self.fractions[0] <= self.fractions[-1] <= 1:
            raise ValueError(f"fractions grow from above 0 to at most 1, got {self.fractions}")
        if self.folded:
            raise ValueError("folds are for classification/...; a learning curve has one test part")
        return self
