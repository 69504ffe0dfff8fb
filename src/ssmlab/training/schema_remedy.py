"""The table of a recipe that says what is done against forgetting. Nothing here imports torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RemedyConfig(BaseModel):
    """What keeps a model able to do the task of `base` while it learns another; see `ssmlab.adapt.forgetting`.

    rehearsal mixes rows of the old task in; distillation matches the old head's predictions to those of the frozen
    base; ewc holds parameters that mattered; osf trains small singular directions only, through PEFT. Adapters, which
    can be switched off, are the recipe's `adapt`.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    method: Literal["none", "rehearsal", "distillation", "ewc", "osf"] = "none"
    share: float = Field(0.25, gt=0, lt=1)  # rehearsal: of the rows of a step; osf: of the directions that are kept
    weight: float = Field(1.0, gt=0)  # of the term of distillation and of ewc
    temperature: float = Field(2.0, gt=0)  # of distillation
    inputs: Literal["new", "old"] = "new"  # of distillation: those of the new task, or of the old one
    examples: int = Field(256, ge=1)  # of ewc: rows of the old task from which the Fisher information is estimated
