"""The table of a recipe that says what is done against forgetting. Nothing here imports torch."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class RemedyConfig(BaseModel):
    """What keeps a model able to do the task of `base` while it learns another; see `ssmlab.adapt.forgetting.terms`.

    rehearsal mixes rows of the old task in; distillation matches the old head's predictions to those of the frozen
    base; reward does so on texts that the model writes itself, with a reward for them; ewc holds parameters that
    mattered; osf trains small singular directions only, through PEFT. Adapters, which can be switched off, are the
    recipe's `adapt`.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    method: Literal["none", "rehearsal", "distillation", "reward", "distillation+reward", "ewc", "osf"] = "none"
    share: float = Field(0.25, gt=0, lt=1)  # rehearsal: of the rows of a step; osf: of the directions that are kept
    weight: float = Field(1.0, gt=0)  # of the term of distillation, of reward and of ewc
    temperature: float = Field(2.0, gt=0)  # of distillation
    inputs: Literal["new", "old"] = "new"  # of distillation and of prompts: those of the new task, or of the old one
    reward: str = ""  # of texts, FILE.py:FUNCTION of tokens (b, l) and the prompt's length; "" = the base's likelihood
    beta: float = Field(1.0, gt=0)  # of reward: how strongly the base's distribution counts
    rows: int = Field(8, ge=2)  # of reward: texts that are written in a step
    prompt: int = Field(16, ge=1)  # of reward: tokens of a row that are read first
    tokens: int = Field(32, ge=1)  # of reward: tokens that are written
    examples: int = Field(256, ge=1)  # of ewc: rows of the old task from which the Fisher information is estimated

    @model_validator(mode="after")
    def _rewarded(self):
        if self.reward and "reward" not in self.method:
            raise ValueError(f"remedy.reward={self.reward!r} does nothing with method={self.method}; use reward")
        file, _, function = self.reward.rpartition(":")
        if self.reward and not (function and file.endswith(".py") and Path(file).is_file()):
            raise ValueError(f"remedy.reward={self.reward!r} must be FILE.py:FUNCTION, with a file that is there")
        return self


def check_remedies(models: list[Any], task: str, based: bool) -> None:
    """What a remedy needs.

    Args:
        models: of a recipe. based: whether it starts from another one.
    Raises:
        ValueError: there is no old task, or no language model to write texts.
    """
    for model in models:
        method = model.remedy.method if hasattr(model, "remedy") else "none"
        if method != "none" and not based:
            raise ValueError(f"{model.label}: remedy.method={method} needs the old task; give base.recipe")
        if "reward" in method and task not in ("language", "classify_sequence"):
            raise ValueError(f"{model.label}: remedy.method={method} is for language models; use distillation")
