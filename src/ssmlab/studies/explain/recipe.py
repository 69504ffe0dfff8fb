"""Recipes that explain what models get wrong. Nothing here imports torch."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ssmlab.core.table import Table
from ssmlab.tasks.classify.recipe import EvaluationConfig, Recipe


class ExplainConfig(Table):
    """Which mistakes are explained and how; the page of a model is explained/<label>/report.html."""

    transformations: list[str] = Field([])
    """Names of the twenty, such as gaussian_blur; none: what is wrong as it is."""
    severity: int = Field(3, ge=1, le=5)
    """Of the transformations."""
    pictures: int = Field(6, ge=1, le=24)
    """The most confident mistakes, by turns of each transformation."""
    steps: int = Field(128, ge=0)
    """Of the search for learned features; 0 leaves them out."""
    score_steps: int = Field(16, ge=0)
    """Of the deletion and insertion curves; 0 leaves scores out."""
    seed: int = Field(0, ge=0)
    """Of transformations, features and random maps."""


class ExplainedEvaluation(EvaluationConfig):
    """What is measured, and what is explained."""

    explain: ExplainConfig = ExplainConfig()


class MisclassifiedRecipe(Recipe):
    """Classification, and its mistakes explained. With the folder of a trained model as weights nothing is trained."""

    adapts: ClassVar[bool] = False

    task: Literal["misclassified"] = "misclassified"  # type: ignore[assignment]
    evaluation: ExplainedEvaluation = ExplainedEvaluation()

    @model_validator(mode="after")
    def _whole(self):
        if self.folded:
            raise ValueError("folds are for classification/...; then `ssmlab explain RUN PICTURES` explains its models")
        return self
