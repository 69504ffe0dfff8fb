"""The tables of a recipe that say how models are adapted, and what they start from. Nothing here imports torch."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ssmlab.adapt.presets import METHODS, parse

GROWS = "vocabulary"  # the method that needs new tokens
NONE = "none"  # of a model that is trained whole beside adapted ones
_LOW_RANK = {"rank", "alpha", "dropout", "dora", "rslora"}  # settings of low-rank updates
_ONLY = {"tokens": "affix", "states": "additional_scan", "share": "dimensions", "new_tokens": "vocabulary"}
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
    new_tokens: list[str] = []  # of vocabulary: texts that become one token each, such as "<|user|>"
    base: Literal["float32", "bf16", "int8"] = "float32"  # how frozen weights are kept
    gradient_checkpointing: bool = False  # compute blocks again in the backward pass: less memory, more time

    @field_validator("method")
    @classmethod
    def _known(cls, text):
        return checked_method(text)

    @field_validator("new_tokens")
    @classmethod
    def _texts(cls, texts):
        if "" in texts or len(set(texts)) < len(texts):
            raise ValueError(f"adapt.new_tokens must be texts, each of them once, got {texts}")
        return texts


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


def method_of(recipe: Any, model: Any) -> str:
    """How a model of a recipe is adapted; "" where it is trained whole."""
    method = getattr(model, "adapt", "") or recipe.adapt.method
    return "" if method == NONE else method


def checked_method(text: str) -> str:
    """The text, if it names methods.

    Raises:
        ValueError: it does not, which pydantic tells with the key.
    """
    if text and text != NONE:
        parse(text)
    return text


def check_used(config: AdaptConfig, methods: list[str]) -> None:
    """Every setting must have adapters to act on.

    Args:
        methods: of the recipe's models; "" is one that is trained whole, "none" one that is said to be.
    Raises:
        ValueError: a setting would be ignored, which pydantic tells as one line.
    """
    alone = {"method", "gradient_checkpointing"}  # blocks can be computed again without adapters too
    changed = {name for name, value in AdaptConfig() if getattr(config, name) != value} - alone
    used = {name: method for text in methods if text not in ("", NONE) for name, method in parse(text).items()}
    if not used:
        silent = "method" not in config.model_fields_set and NONE not in methods  # a resolved recipe says every field
        for name in sorted(config.model_fields_set - alone if silent else changed):
            raise ValueError(
                f"adapt.{name}={getattr(config, name)} has no adapters to act on; give adapt.method (or "
                "lora=projections), or leave it out"
            )
        return
    low_rank = any(method.low_rank for method in used.values())
    ignored = {name for name, extra in _ONLY.items() if extra not in {method.extra for method in used.values()}}
    for name in sorted(changed & (ignored if low_rank else ignored | _LOW_RANK)):
        fits = [n for n, m in METHODS.items() if m.extra == _ONLY.get(name, "") and (name in _ONLY or m.low_rank)]
        raise ValueError(f"adapt.{name} does nothing with {'+'.join(used)}; it is for {', '.join(fits[:4])}")


def check_growth(config: AdaptConfig, methods: list[str], task: str) -> None:
    """New tokens and the method that learns them belong together, in every model, as all read the same tokens.

    Raises:
        ValueError: they are not.
    """
    grows = [GROWS in text.split("+") for text in methods]
    if any(grows) and (task != "language" or not config.new_tokens):
        raise ValueError(
            f"method {GROWS!r} needs adapt.new_tokens=[\"<|user|>\", ...] and a recipe of the task 'language', whose "
            f"tokenizer learns them; got {config.new_tokens} and {task!r}"
        )
    if any(grows) and not all(grows):
        raise ValueError(f"adapt.new_tokens: every model reads them, so every one needs {GROWS!r} in its method")


def with_short_form(table: object) -> object:
    """`lora = "all"` as the table that it is short for."""
    if isinstance(table, dict) and "lora" in table:
        table = dict(table)
        table["adapt"] = dict(table.get("adapt") or {}) | {"method": table.pop("lora")}
    return table
