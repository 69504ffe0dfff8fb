"""The tables that recipes of several tasks have: adapters, base runs, forgetting, factorised layers, robustness.

Nothing here imports torch.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ssmlab.adapt.presets import METHODS, parse
from ssmlab.core.table import Table

GROWS = "vocabulary"  # the method that needs new tokens
NONE = "none"  # of a model that is trained whole next to adapted ones
_LOW_RANK = {"rank", "alpha", "dropout", "dora", "rslora"}  # settings of low-rank updates
_ONLY = {"tokens": "affix", "states": "additional_scan", "share": "dimensions", "new_tokens": "vocabulary"}


class StreamTable(Table):
    """Data that may be larger than memory."""

    stream: bool | Literal["auto"] = "auto"
    """Read them while a model is trained, in place of all before; auto: where they are too large for memory."""
    buffer: int = Field(4096, ge=1)
    """Of a stream: rows or pictures in memory, of which the next one is drawn."""
    workers: int = Field(2, ge=0)
    """Of a stream: threads that decode pictures; their number changes no result."""


class AdaptConfig(Table):
    """Adapters on every model of the recipe, or on those that name a method of their own.

    `lora=all` on the command line is short for `adapt.method=all`. What `apply` of `ssmlab.adapt` takes has the same
    meaning here; a new classifier is always trained with the adapters, and so is what `train` names.
    """

    method: str = ""
    """Of `ssmlab adapt methods`, several as in "projections+conv"; "" = no adapters."""
    rank: int = Field(8, ge=1)
    """Of low-rank updates."""
    alpha: float = Field(0.0, ge=0)
    """Updates are scaled by alpha / rank; 0 = twice the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of what enters an update, in training."""
    dora: bool = False
    """Directions and lengths of the weights are learned apart (DoRA)."""
    rslora: bool = False
    """Updates are scaled by alpha / sqrt(rank)."""
    train: list[str] = Field([])
    """Parameters or modules that are trained too, with * and ?."""
    tokens: int = Field(4, ge=1)
    """Of affix: learned tokens before a sequence."""
    states: int = Field(4, ge=1)
    """Of additional_scan: states that are added to each channel."""
    share: float = Field(0.1, gt=0, le=1)
    """Of dimensions: the share of channels and states that is trained."""
    new_tokens: list[str] = Field([])
    """Of vocabulary: texts that become one token each, such as "<|user|>"."""
    base: Literal["float32", "bf16", "int8"] = "float32"
    """How frozen weights are kept."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass: less memory, more time."""

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


class BaseRun(Table):
    """Another recipe, whose model the models of this one start from, and whose task shows what they forget.

    It is run once, next to this run, unless the models have weights of their own.
    """

    recipe: str = ""
    """A packaged recipe or a file; "" = none."""
    data: str = ""
    """Its data.path."""
    overrides: list[str] = Field([])
    """As on the command line."""
    smoke: bool = False
    """The tiny form of it."""
    weights: str = ""
    """The folder of a finished run of it, instead of running it."""


def method_of(recipe: Any, model: Any) -> str:
    """How a model of a recipe is adapted; "" where it is trained whole."""
    method = getattr(model, "adapt", "") or recipe.adapt.method
    return "" if method == NONE else method


def checked_method(text: str) -> str:
    """The text, if it names methods.

    Raises:
        ValueError: it does not, which pydantic reports with the key.
    """
    if text and text != NONE:
        parse(text)
    return text


def check_used(config: AdaptConfig, methods: list[str]) -> None:
    """Every setting must have adapters to act on.

    Args:
        methods: of the recipe's models; "" is one that is trained whole, "none" one that is explicitly.
    Raises:
        ValueError: a setting would be ignored, which pydantic reports as one line.
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


class CompressConfig(Table):
    """Linear layers become products of a lower rank, from the weights that the model starts with.

    One of rank, energy and flops says which rank; with none of them nothing is factorised. See `ssmlab compress`.
    """

    targets: list[str] = Field(["in_proj"])
    """Linear layers, by their names' last part or pattern."""
    rank: int = Field(0, ge=0)
    """The same for all layers."""
    energy: float = Field(0.0, ge=0, le=1)
    """The share of every layer's squared norm that is kept at least."""
    flops: float = Field(0.0, ge=0, le=1)
    """The share of the layers' operations that is spent, where it keeps most."""
    residual_rank: int = Field(0, ge=0)
    """Of a side path that begins with the next directions."""

    @model_validator(mode="after")
    def _one_rule(self):
        if len(self.rule) > 1:
            raise ValueError(f"compress takes one of rank, energy and flops, got {' and '.join(self.rule)}")
        return self

    @property
    def rule(self) -> dict[str, float]:
        """The rule that is given, as an argument of `adapt.factorize`; empty without one."""
        return {name: value for name in ("rank", "energy", "flops") if (value := getattr(self, name))}


class ContinualConfig(Table):
    """What keeps a model able to do the task of `base` while it learns another; see `ssmlab.adapt.forgetting.terms`.

    rehearsal mixes rows of the old task in; distillation matches the old head's predictions to those of the frozen
    base; reward does so on texts that the model writes itself, with a reward for them; ewc holds parameters that
    mattered; osf trains small singular directions only, through PEFT. Adapters, which can be switched off, are the
    recipe's `adapt`.
    """

    method: Literal["none", "rehearsal", "distillation", "reward", "distillation+reward", "ewc", "osf"] = "none"
    """Which one."""
    share: float = Field(0.25, gt=0, lt=1)
    """rehearsal: of the rows of a step; osf: of the directions that are kept."""
    weight: float = Field(1.0, gt=0)
    """Of the term of distillation, of reward and of ewc."""
    temperature: float = Field(2.0, gt=0)
    """Of distillation."""
    inputs: Literal["new", "old"] = "new"
    """Of distillation and of prompts: those of the new task, or of the old one."""
    reward: str = ""
    """Of texts, FILE.py:FUNCTION of tokens (b, l) and the prompt's length; "" = the base's likelihood."""
    beta: float = Field(1.0, gt=0)
    """Of reward: how strongly the base's distribution counts."""
    rows: int = Field(8, ge=2)
    """Of reward: texts that are written in a step."""
    prompt: int = Field(16, ge=1)
    """Of reward: tokens of a row that are read first."""
    tokens: int = Field(32, ge=1)
    """Of reward: tokens that are written."""
    examples: int = Field(256, ge=1)
    """Of ewc: rows of the old task from which the Fisher information is estimated."""

    @model_validator(mode="after")
    def _rewarded(self):
        if self.reward and "reward" not in self.method:
            raise ValueError(f"remedy.reward={self.reward!r} does nothing with method={self.method}; use reward")
        file, _, function = self.reward.rpartition(":")
        if self.reward and not (function and file.endswith(".py") and Path(file).is_file()):
            raise ValueError(f"remedy.reward={self.reward!r} must be FILE.py:FUNCTION, with a file that is there")
        return self


def check_continual(models: list[Any], task: str, based: bool) -> None:
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


class RobustnessConfig(Table):
    """After training, every model is tested as `ssmlab robustness` does; the page is robustness/report.html."""

    transformations: Literal["none", "twenty", "imagenet-c"] = "none"
    """Which set of them."""
    per_class: int = Field(15, ge=0)
    """Images of every class, drawn by the seed; 0 = all."""
    part: Literal["test", "val", "train", "all"] = "test"
    """all: where no model was trained on the data."""
    severities: list[int] = Field([])
    """1 to 5; none: 3 for the twenty, all five for imagenet-c."""
    seed: int = Field(0, ge=0)
    """Of the choice of images and of the transformations."""
    attacks: list[Literal["fgsm", "pgd"]] = Field([])
    """Changes that are made to mislead the model."""
    epsilon: float = Field(1 / 255, gt=0, le=1)
    """The most that an attack changes a value, of the range."""
    steps: int = Field(10, ge=1)
    """Of PGD."""
    resamples: int = Field(1000, ge=100)
    """Of the bootstrap."""
