"""Recipes that train nothing: models with their weights, tested under transformations. Nothing here imports torch."""

from typing import ClassVar, Literal

from pydantic import Field

from ssmlab.tasks.classify.recipe import DataConfig, EvaluationConfig, ModelConfig
from ssmlab.tasks.shared.recipe import AnyRecipe
from ssmlab.tasks.shared.tables import RobustnessConfig
from ssmlab.training.config import FitConfig


class UntrainedEvaluation(EvaluationConfig):
    """What is measured, and whether random weights are let through."""

    robustness: RobustnessConfig = RobustnessConfig(transformations="twenty")
    random_weights: bool = False
    """Let models without weights through."""


class RobustnessRecipe(AnyRecipe):
    """How models hold when images change. A model needs `weights` or `pretrained`."""

    forms: ClassVar[str] = "ImageNet's folder or its val folder, class folders, or any other form of classification"

    task: Literal["robustness"] = "robustness"
    data: DataConfig = DataConfig()
    training: FitConfig = FitConfig()
    """Every recipe has this table; nothing is trained."""
    models: list[ModelConfig] = Field(min_length=1)
    evaluation: UntrainedEvaluation = UntrainedEvaluation()
