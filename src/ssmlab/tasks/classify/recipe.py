"""The tables of a recipe that classifies images. Nothing here imports torch."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ssmlab.core.table import Table
from ssmlab.models.registry import describe
from ssmlab.tasks.shared.recipe import FoldedRecipe, check_names
from ssmlab.tasks.shared.tables import (
    CompressConfig,
    ContinualConfig,
    RobustnessConfig,
    StreamTable,
    checked_method,
)
from ssmlab.training.config import FitConfig

_BUILDS = {"name", "num_classes", "image_size", "in_chans", "pretrained", "weights"}


_POLICY = re.compile(
    r"(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?"
    r"|rand(-(m\d+|n\d+|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw|3a)))*"
    r"|augmix(-(m\d+|w\d+|d\d+|b[01]|mstd\d+(\.\d+)?))*"
)


class DataConfig(StreamTable):
    """Which images. `path` is a folder, a file or "digits"; the format is found from the content."""

    path: str = ""
    """A folder, a file or "digits"."""
    image_size: int = Field(32, ge=8, le=1024)
    """Of the square in pixels."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """To a square: its middle, all of it on black, or all of it distorted."""
    group: str = ""
    """A column whose images stay on one side of the split, e.g. the patient; or a pattern of the files' paths whose
    brackets hold it, such as "(patient[0-9]+)_"."""
    labels: str = "fine"
    """Of CIFAR-100 fine or coarse; a table's column of classes; "table" or "folders"; "several", or columns a,b,c of 0
    and 1, where an image may have several labels."""
    window: list[float] = Field([], max_length=2)
    """Centre and width of the values that become black to white, of DICOM, NIfTI and grey pictures of 16 bits."""
    slices: int = Field(0, ge=0)
    """Of every volume (NIfTI, DICOM series) so many are images; 0: of NIfTI the middle one, every DICOM file is one."""
    skip_unreadable: bool = False
    """Leave images out that cannot be read, and list them."""
    val_fraction: float = Field(0.1, gt=0, lt=1)
    """Of train, where the data come without a validation part."""
    split_seed: int = 0
    """Of the split and of the choice by `limit`."""
    limit: int = Field(0, ge=0)
    """At most so many images of each part, drawn class by class; 0 = all."""

    @field_validator("window")
    @classmethod
    def _wide(cls, value):
        if value and (len(value) != 2 or value[1] <= 0):
            raise ValueError(f"a window is [centre, width] with a width above 0, such as [40, 400], got {value}")
        return value


class AugmentConfig(Table):
    """Random changes of the training images, drawn anew for each image and each epoch."""

    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    """Along which axes images are mirrored, each with probability 1/2."""
    shift: float = Field(0.0, ge=0, le=0.5)
    """Largest shift, as a fraction of the image."""
    scale: float = Field(0.0, ge=0, lt=1)
    """Sizes between 1 - scale and 1 + scale."""
    rotate: float = Field(0.0, ge=0, le=180)
    """Largest angle in degrees."""
    auto_augment: str = ""
    """A policy of timm, such as rand-m9-mstd0.5-inc1, original, 3a or augmix-m3."""
    random_erasing: float = Field(0.0, ge=0, le=1)
    """The fraction of images in which a rectangle is erased."""
    erasing: Literal["const", "rand", "pixel"] = "pixel"
    """What fills it: the mean, a random colour, noise."""

    @field_validator("auto_augment")
    @classmethod
    def _policy(cls, text):
        if text and not _POLICY.fullmatch(text):
            raise ValueError(
                f"{text!r} is no policy of timm; expected original, originalr, v0, v0r or 3a, each with -mstd0.5, or "
                "rand or augmix with settings, such as rand-m9-n2-mstd0.5-inc1 or augmix-m3-w3"
            )
        return text


class TrainingConfig(FitConfig):
    """How every model of the recipe is trained on images."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of a label that is spread over all classes."""
    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    """Balanced: each class weighs the same in the loss; or factors by class, such as {malignant=5}, others 1."""
    channels_last: Literal["auto", "yes", "no"] = "auto"
    """Memory order of images; auto: on a GPU."""
    mixup: float = Field(0.0, ge=0)
    """Alpha: two images are blended, by a share drawn from Beta(alpha, alpha)."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha: a rectangle is taken from another image; with mixup, half the batches."""
    mix_probability: float = Field(1.0, ge=0, le=1)
    """The fraction of batches that are mixed at all."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of the training images."""

    @field_validator("class_weights")
    @classmethod
    def _factors(cls, value):
        if isinstance(value, dict) and (not value or min(value.values()) < 0 or not max(value.values())):
            raise ValueError(f"factors of classes are 0 or more, and one is more than 0, got {value}")
        return value


class ModelConfig(Table):
    """One model of the comparison: a registry name, or `timm/<name>`, and its options."""

    name: str
    """A registry name, or timm/<name>."""
    label: str = ""
    """Of the folder and the records; the name where it is not given."""
    title: str = ""
    """For the reports; the registry's where it is not given."""
    pretrained: bool = False
    """Start from the weights that are published for it."""
    weights: str = ""
    """A file of weights, or the folder of a trained model."""
    adapt: str = ""
    """Its own method of adaptation; "none" = it is trained whole."""
    remedy: ContinualConfig = ContinualConfig()
    """Against forgetting the task of `base`."""
    compress: CompressConfig = CompressConfig()
    """Factorised layers, from the weights that it starts with."""
    fit: Literal["gradient", "logistic_regression"] = "gradient"
    """logistic_regression: of a frozen network, pretrained as a rule, scikit-learn fits the classifier alone."""
    options: dict[str, Any] = Field({})
    """Of the model's config, such as depth."""
    training: dict[str, Any] = Field({})
    """Keys of [training] that are different for this model, such as learning_rate."""

    @model_validator(mode="after")
    def _fill(self):
        named = describe(self.name, "vision")  # also says whether there is such a model
        self.title = self.title or (f"Logistic regression on {named}" if self.fit == "logistic_regression" else named)
        self.label = self.label or self.name.replace("/", "_")
        checked_method(self.adapt)
        if self.pretrained and self.weights:
            raise ValueError("pretrained and weights both say where weights come from; give one of them")
        if self.weights and not Path(self.weights).exists():
            raise ValueError(f"weights {self.weights}: no such file or folder")
        check_names(self.label, self.options, _BUILDS)
        if self.fit != "gradient" and (self.adapt or self.compress.rule or self.remedy.method != "none"):
            raise ValueError(
                f"{self.label}: fit={self.fit} trains nothing but the classifier; leave adapt, compress and remedy out"
            )
        return self


class EvaluationConfig(Table):
    """What is measured after training, once, on the test part."""

    batch_size: int = Field(64, ge=1)
    """Images of a prediction."""
    tta: Literal["none", "horizontal", "flips", "dihedral"] = "none"
    """Test-time augmentation: the mean over 2, 4 or 8 views of an image, mirrored and turned by right angles; what that
    gains and costs is measured."""
    positive: str = ""
    """The positive class of two; the second in order where it is not given."""
    sensitivity: float = Field(0.0, ge=0, lt=1)
    """Of two classes: the threshold, chosen on the validation part, finds this share; 0: Youden's index chooses it."""
    throughput_batch: int = Field(32, ge=1)
    """Images of a batch when the speed is measured."""
    throughput_repeats: int = Field(10, ge=1)
    """How often the speed is measured."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples for the interval of the difference."""
    samples: int = Field(12, ge=0, le=12)
    """Images in the report."""
    robustness: RobustnessConfig = RobustnessConfig()
    """How models hold when images change."""


class Recipe(FoldedRecipe):
    """A complete run of image classification."""

    adapts: ClassVar[bool] = True
    forms: ClassVar[str] = (
        "an MHIST folder, class folders or a zip of them, a MedMNIST .npz, CIFAR, ImageNet, tar shards, Parquet, "
        "a data set of Hugging Face (its folder, or hf://datasets/NAME), or digits"
    )

    task: Literal["classify"] = "classify"
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    models: list[ModelConfig] = Field(min_length=1)
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _alone(self):
        if self.folded and self.evaluation.robustness.transformations != "none":
            raise ValueError("robustness of a cross-validation is tested afterwards: ssmlab robustness RUN --data PATH")
        return self
