"""The tables of a recipe that classifies images. Nothing here imports torch."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ssmlab.core.table import Table
from ssmlab.models.registry import describe
from ssmlab.tasks.shared.schema import AnyRecipe, check_names
from ssmlab.tasks.shared.schema_adapt import checked_method
from ssmlab.tasks.shared.schema_compress import CompressConfig
from ssmlab.tasks.shared.schema_remedy import RemedyConfig
from ssmlab.tasks.shared.schema_robustness import RobustnessConfig
from ssmlab.training.config import Optimisation

_BUILDS = {"name", "num_classes", "image_size", "in_chans", "pretrained", "weights"}


_POLICY = re.compile(
    r"(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?"
    r"|rand(-(m\d+|n\d+|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw|3a)))*"
    r"|augmix(-(m\d+|w\d+|d\d+|b[01]|mstd\d+(\.\d+)?))*"
)


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
    options: dict[str, Any] = Field({})  # of the model's config, such as depth
    training: dict[str, Any] = Field({})  # keys of [training] that are different for this model, such as learning_rate

    @model_validator(mode="after")
    def _fill(self):
        self.title = self.title or describe(self.name, "vision")  # also says whether there is such a model
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
