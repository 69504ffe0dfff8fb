"""The tables of a recipe: what every task shares, and those of image classification. Nothing here imports torch.

No field is optional in the sense of None: TOML has no null, and the resolved recipe of a run shows every default.
"""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ssmlab.models.registry import describe
from ssmlab.training.schema_adapt import (
    ADAPTED,
    AdaptConfig,
    BaseRun,
    check_growth,
    check_used,
    checked_method,
    with_short_form,
)
from ssmlab.training.schema_compress import CompressConfig
from ssmlab.training.schema_freeze import FreezeByGradient
from ssmlab.training.schema_remedy import RemedyConfig, check_remedies
from ssmlab.training.schema_robustness import RobustnessConfig

_BUILDS = {"name", "num_classes", "image_size", "in_chans", "pretrained", "weights"}
_POLICY = re.compile(
    r"(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?"
    r"|rand(-(m\d+|n\d+|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw|3a)))*"
    r"|augmix(-(m\d+|w\d+|d\d+|b[01]|mstd\d+(\.\d+)?))*"
)


class Table(BaseModel):
    """A table of a recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)


class DataConfig(Table):
    """Which images. `path` is a folder, a file or "digits"; the format is found from the content."""

    path: str = ""
    image_size: int = Field(32, ge=8, le=1024)
    fit: Literal["crop", "pad", "stretch"] = (
        "crop"  # to a square: its middle, all of it on black, or all of it distorted
    )
    group: str = ""  # a column whose images stay on one side of the split, e.g. the patient
    labels: str = "fine"  # of CIFAR-100 fine or coarse; a table's column of classes; "table" or "folders"
    val_fraction: float = Field(0.1, gt=0, lt=1)  # of train, where the data come without a validation part
    split_seed: int = 0
    limit: int = Field(0, ge=0)  # at most so many images of each part, drawn class by class; 0 = all


class AugmentConfig(Table):
    """Random changes of the training images, drawn anew for each image and each epoch."""

    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    shift: float = Field(0.0, ge=0, le=0.5)  # largest shift, as a fraction of the image
    scale: float = Field(0.0, ge=0, lt=1)  # sizes between 1 - scale and 1 + scale
    rotate: float = Field(0.0, ge=0, le=180)  # largest angle in degrees
    auto_augment: str = ""  # a policy of timm, such as rand-m9-mstd0.5-inc1, original, 3a or augmix-m3
    random_erasing: float = Field(0.0, ge=0, le=1)  # the fraction of images in which a rectangle is erased
    erasing: Literal["const", "rand", "pixel"] = "pixel"  # what fills it: the mean, a random colour, noise

    @field_validator("auto_augment")
    @classmethod
    def _policy(cls, text):
        if text and not _POLICY.fullmatch(text):
            raise ValueError(
                f"{text!r} is no policy of timm; expected original, originalr, v0, v0r or 3a, each with -mstd0.5, or "
                "rand or augmix with settings, such as rand-m9-n2-mstd0.5-inc1 or augmix-m3-w3"
            )
        return text


class Optimisation(Table):
    """How every model of the recipe is trained, whatever the task."""

    epochs: int = Field(10, ge=1)
    min_steps: int = Field(0, ge=0)  # small data get more epochs, until there are so many steps
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1)  # the fraction of all steps in which the rate rises from 0
    clip_norm: float = Field(1.0, ge=0)  # largest norm of the gradient; 0 = no clipping
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it
    keep: Literal["last", "best"] = "last"  # best: the epoch that is best on the validation part
    checkpoint_steps: int = Field(0, ge=0)  # a checkpoint every so many steps, besides one each epoch
    freeze: list[str] = []  # "backbone" (a linear probe), or names of parameters or modules, with * and ?
    freeze_by_gradient: FreezeByGradient = FreezeByGradient()  # freeze what hardly learns
    watch_gradients: int = Field(0, ge=0)  # write the norms of all gradients every so many steps; 0 = never

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_or_several(cls, value):
        return [value] if isinstance(value, str) and value else value or []


class TrainingConfig(Optimisation):
    """How every model of the recipe is trained on images."""

    layer_decay: float = Field(1.0, gt=0, le=1)  # the learning rate falls by it from each layer to the one before
    ema: float = Field(0.0, ge=0, lt=1)  # decay of a running average of the weights, which is then what is kept
    ema_warmup: bool = True  # the average starts short and grows: decay 1 - step^(-2/3) at most
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"  # balanced: each class weighs the same in the loss
    channels_last: Literal["auto", "yes", "no"] = "auto"
    mixup: float = Field(0.0, ge=0)  # alpha: two images are blended, by a share drawn from Beta(alpha, alpha)
    cutmix: float = Field(0.0, ge=0)  # alpha: a rectangle is taken from another image; with mixup, half the batches
    mix_probability: float = Field(1.0, ge=0, le=1)  # the fraction of batches that are mixed at all
    augment: AugmentConfig = AugmentConfig()


class ModelConfig(Table):
    """One model of the comparison: a registry name, or `timm/<name>`, and its options."""

    name: str
    label: str = ""  # of the folder and the records; the name where it is not given
    title: str = ""  # for the reports; the registry's where it is not given
    pretrained: bool = False
    weights: str = ""  # a file of weights, or the folder of a trained model
    adapt: str = ""  # its own method of adaptation; "none" = it is trained whole
    remedy: RemedyConfig = RemedyConfig()  # against forgetting the task of `base`
    compress: CompressConfig = CompressConfig()  # factorised layers, from the weights that it starts with
    options: dict[str, Any] = {}  # of the model's config, such as depth
    training: dict[str, Any] = {}  # keys of [training] that are different for this model, such as learning_rate

    @model_validator(mode="after")
    def _fill(self):
        self.title = self.title or describe(self.name)  # also says whether there is such a model
        self.label = self.label or self.name.replace("/", "_")
        checked_method(self.adapt)
        if self.pretrained and self.weights:
            raise ValueError("pretrained and weights both say where weights come from; give one of them")
        if self.weights and not Path(self.weights).exists():
            raise ValueError(f"weights {self.weights}: no such file or folder")
        check_names(self.label, self.options, _BUILDS)
        return self


class EvaluationConfig(Table):
    """What is measured after training, once, on the test part."""

    batch_size: int = Field(64, ge=1)
    positive: str = ""  # the positive class of two; the second in order where it is not given
    throughput_batch: int = Field(32, ge=1)
    throughput_repeats: int = Field(10, ge=1)
    bootstrap: int = Field(2000, ge=100)  # resamples for the interval of the difference
    samples: int = Field(12, ge=0, le=12)  # images in the report
    robustness: RobustnessConfig = RobustnessConfig()  # how models hold when images change


class AnyRecipe(Table):
    """What the recipes of all tasks share. A child adds `task`, `data`, `training`, `models` and `evaluation`.

    Args:
        name: the folder below `runs/`.
        seeds: every model is trained once for each of them.
        device: "auto", "cuda", "mps" or "cpu".
        trial: the tiny form of a recipe, whose numbers decide nothing; --smoke sets it.
    """

    forms: ClassVar[str] = ""  # what `data.path` may be, in words

    name: str = ""
    description: str = ""
    task: str
    seeds: list[int] = Field([0], min_length=1)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    trial: bool = False
    data: Any
    training: Any
    models: list[Any]
    evaluation: Any
    adapt: AdaptConfig = AdaptConfig()
    base: BaseRun = BaseRun()

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_seed(cls, value):
        return [value] if isinstance(value, int) else value

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, table):
        return with_short_form(table)

    @model_validator(mode="after")
    def _adaptable(self):
        if self.adapt != AdaptConfig() and self.task not in ADAPTED:
            raise ValueError(f"adapt (or lora) is for the tasks {', '.join(ADAPTED)}; {self.task!r} would ignore it")
        methods = [getattr(model, "adapt", "") or self.adapt.method for model in self.models]
        check_used(self.adapt, methods)
        check_growth(self.adapt, methods, self.task)
        check_remedies(self.models, self.task, bool(self.base.recipe or self.base.weights))
        return self

    @model_validator(mode="after")
    def _distinct(self):
        labels = [model.label for model in self.models]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two models are labelled {twice[0]!r}; give each its own label")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds has one twice: {self.seeds}")
        if self.name and not names_folder(self.name):
            raise ValueError(f"name {self.name!r} names a folder below runs/: use letters, digits, - _ . +")
        return self

    @model_validator(mode="after")
    def _own_training(self):
        for i, model in enumerate(self.models):
            try:
                self.training_of(model)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, ("training", *first["loc"])))
                raise ValueError(f"models.{i}.{where}: {first['msg']}, got {first['input']!r}") from None
        return self

    def training_of(self, model: Any) -> Any:
        """How a model is trained: as all are, with what the model itself says."""
        own = getattr(model, "training", {})
        return type(self.training).model_validate(self.training.model_dump() | own) if own else self.training

    def to_toml(self) -> str:
        """The resolved recipe: every key with the value that was used."""
        import tomli_w

        return tomli_w.dumps(self.model_dump())


class Recipe(AnyRecipe):
    """A complete run of image classification."""

    forms: ClassVar[str] = (
        "an MHIST folder, class folders or a zip of them, a MedMNIST .npz, CIFAR, ImageNet, or digits"
    )

    task: Literal["classify"] = "classify"
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    models: list[ModelConfig] = Field(min_length=1)
    evaluation: EvaluationConfig = EvaluationConfig()


def check_names(label: str, options: dict[str, Any], reserved: set[str]) -> None:
    """A label must be the name of a folder, and options must not be what the recipe decides."""
    taken = sorted(reserved & set(options))
    if taken:
        raise ValueError(f"option {taken[0]} is set by the recipe; it does not belong into options")
    if not names_folder(label):
        raise ValueError(f"label {label!r} names a folder: use letters, digits, - _ . +")


def names_folder(text: str) -> bool:
    """Whether a text is a plain name of a folder."""
    return all(c.isalnum() or c in "-_.+" for c in text) and not text.startswith(".")
