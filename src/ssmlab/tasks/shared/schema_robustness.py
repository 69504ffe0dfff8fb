"""The table of a recipe that says how its models are tested under transformations. Nothing here imports torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RobustnessConfig(BaseModel):
    """After training, every model is tested as `ssmlab robustness` does; the page is robustness/report.html."""

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    transformations: Literal["none", "twenty", "imagenet-c"] = "none"
    per_class: int = Field(15, ge=0)  # images of every class, drawn by the seed; 0 = all
    part: Literal["test", "val", "train", "all"] = "test"  # all: where no model was trained on the data
    severities: list[int] = []  # 1 to 5; none: 3 for the twenty, all five for imagenet-c
    seed: int = Field(0, ge=0)  # of the choice of images and of the transformations
    attacks: list[Literal["fgsm", "pgd"]] = []
    epsilon: float = Field(1 / 255, gt=0, le=1)  # the most that an attack changes a value, of the range
    steps: int = Field(10, ge=1)  # of PGD
    resamples: int = Field(1000, ge=100)  # of the bootstrap
