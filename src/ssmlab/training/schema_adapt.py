"""The tables of a recipe that say how models are adapted, and what they start from. Nothing here imports torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ssmlab.adapt.presets import parse

NONE = "none"  # of a model that is trained whole beside adapted ones
ADAPTED = ("classify", "language", "classify_sequence", "synthetic")  # the tasks that train with adapters


class AdaptConfig(BaseModel):
    """Adapters on every model of the recipe, or on those that name a method of their own.

    `lora=all` on the command line is short for `adapt.method=all`. What `apply` of `ssmlab.adapt` takes has the same
    meaning here; a new classifier is always trained with the adapters, and so is what `train` names.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    method: str = ""  # of `ssmlab adapt methods`, several as in "projections+conv"; "" = no adapters
    rank: int = Field(8, ge=1)
    alpha: float = Field(0.0, ge=0)  # 0 = twice the rank
    dropout: float = Field(0.0, ge=0, lt=1)
    dora: bool = False
    rslora: bool = False
    train: list[str] = []
    tokens: int = Field(4, ge=1)
    states: int = Field(4, ge=1)
    share: float = Field(0.1, gt=0, le=1)
    base: Literal["float32", "bf16", "int8"] = "float32"  # how frozen weights are kept; int8 is for language models
    gradient_checkpointing: bool = False  # compute blocks again in the backward pass: less memory, more time

    @field_validator("method")
    @classmethod
    def _known(cls, text):
        return checked_method(text)


class BaseRun(BaseModel):
    """Another recipe, whose model the models of this one start from, and whose task shows what they forget.

    It is run once, beside this run, unless the models have weights of their own.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    recipe: str = ""  # a packaged recipe or a file; "" = none
    data: str = ""  # its data.path
    overrides: list[str] = []  # as on the command line
    smoke: bool = False
    weights: str = ""  # the folder of a finished run of it, instead of running it


def checked_method(text: str) -> str:
    """The text, if it names methods.

    Raises:
        ValueError: it does not, which pydantic tells with the key.
    """
    if text and text != NONE:
        parse(text)
    return text


def with_short_form(table: object) -> object:
    """`lora = "all"` as the table that it is short for."""
    if isinstance(table, dict) and "lora" in table:
        table = dict(table)
        table["adapt"] = dict(table.get("adapt") or {}) | {"method": table.pop("lora")}
    return table
