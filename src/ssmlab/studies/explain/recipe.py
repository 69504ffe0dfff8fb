"""Recipes that explain what models get wrong. Nothing here imports torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ssmlab.tasks.classify.recipe import EvaluationConfig, Recipe


class ExplainConfig(BaseModel):
    """Which mistakes are explained and how; the page of a model is explained/<label>/report.html."""

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    transformations: list[str] = []  # names of the twenty, such as gaussian_blur; none: what is wrong as it is
    severity: int = Field(3, ge=1, le=5)
    pictures: int = Field(6, ge=1, le=24)  # the most confident mistakes, by turns of each transformation
    steps: int = Field(128, ge=0)  # of the search for learned features; 0 leaves them out
    score_steps: int = Field(16, ge=0)  # of the deletion and insertion curves; 0 leaves scores out
    seed: int = Field(0, ge=0)  # of transformations, features and random maps


class ExplainedEvaluation(EvaluationConfig):
    """What is measured, and what is explained."""

    explain: ExplainConfig = ExplainConfig()


class MisclassifiedRecipe(Recipe):
    """Classification, and its mistakes explained. With the folder of a trained model as weights nothing is trained."""

    task: Literal["misclassified"] = "misclassified"  # type: ignore[assignment]
    evaluation: ExplainedEvaluation = ExplainedEvaluation()
