"""The tables of recipes that segment images. Nothing here imports torch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ssmlab.core.table import Table
from ssmlab.core.text import did_you_mean
from ssmlab.models.registry import describe, list_models
from ssmlab.models.segmentation.plans import PRESETS, plan_from, read_plan
from ssmlab.tasks.shared.recipe import FoldedRecipe, check_names
from ssmlab.training.config import FitConfig


class SegmentationData(Table):
    """Which images with masks; see ssmlab.data.masks.reader for the layouts and for what the values of a mask mean."""

    path: str = ""
    """A folder or zip of images and masks, or shapes or cells, which are made."""
    images: str = ""
    """The folder of the images below the path, where its name does not say so."""
    masks: str = ""
    """Likewise of the masks."""
    views: str = ""
    """Likewise of the fields of view, outside of which nothing counts."""
    group: str = ""
    """A column of groups.csv next to them whose images stay on one side of the split, e.g. the patient; or a pattern of
    their names whose brackets hold it, such as "(patient[0-9]+)_"."""
    classes: list[str] = Field([])
    """Names in the order of the labels; two, or as the data say, where not given."""
    colours: dict[str, Any] = Field({})
    """class = grey value, "#rrggbb" or [r, g, b]; ignore = what is not counted."""
    values: Literal["auto", "labels", "instances", "grey"] = "auto"
    """What numbers in masks mean; found out by auto."""
    ignore: int | Literal["auto", "none"] = "auto"
    """The label that is not counted; auto: 255 next to small numbers."""
    normalise: Literal["auto", "set", "image"] = "auto"
    """By the training images, or each by itself (volumes)."""
    skip_unreadable: bool = False
    """Leave images out that cannot be read, and list them."""
    val_fraction: float = Field(0.1, gt=0, lt=1)
    """Of train, where the data come without a validation part."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Of all, where the data come without a test part."""
    split_seed: int = 0
    """Of the split."""
    limit: int = Field(0, ge=0)
    """At most so many images of each part; 0 = all."""


class PatchAugment(Table):
    """Random changes of the patches. Mirroring is drawn for every axis, the others for a share of the patches."""

    mirror: bool = True
    """Along every axis, each with probability 1/2."""
    rotate: float = Field(180.0, ge=0, le=180)
    """Largest angle in degrees."""
    scale: float = Field(0.3, ge=0, lt=1)
    """Sizes between 1 - scale and 1 / (1 - scale)."""
    brightness: float = Field(0.25, ge=0, lt=1)
    """Factors between 1 - brightness and 1 + brightness."""
    gamma: float = Field(0.3, ge=0, lt=1)
    """Exponents between 1 - gamma and 1 / (1 - gamma)."""
    noise: float = Field(0.1, ge=0)
    """Largest standard deviation, in those of the training images."""
    probability: float = Field(0.3, ge=0, le=1)
    """Of each change but mirroring."""


class SegmentationTraining(FitConfig):
    """How every model of the recipe is trained on patches. Iterations count, not epochs."""

    iterations: int = Field(1000, ge=1)
    """Optimisation steps."""
    validations: int = Field(10, ge=1)
    """How many times the validation part is predicted, at equal distances."""
    epochs: int = Field(0, exclude=True)
    """What the trainer calls the stretches between validations; follows from them."""
    batch_size: int = Field(0, ge=0)
    """Patches of an iteration; 0 = as many as the plan says."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """sgd: with Nesterov momentum, of 0.99 where training.momentum does not say it."""
    schedule: Literal["polynomial", "cosine", "linear", "constant"] = "polynomial"
    """How the learning rate falls to 0; polynomial: (1 - t / iterations)^0.9."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """The fraction of all iterations in which the rate rises from 0."""
    clip_norm: float = Field(12.0, ge=0)
    """Largest norm of the gradient; 0: no clipping."""
    foreground: float = Field(0.33, ge=0, le=1)
    """The share of patches that are centred on a pixel of the foreground."""
    augment: PatchAugment = PatchAugment()

    @model_validator(mode="after")
    def _epochs(self):
        if self.iterations % self.validations:
            raise ValueError(f"iterations={self.iterations} must be a multiple of validations={self.validations}")
        if self.min_steps:
            raise ValueError("min_steps: iterations count here; leave it out")
        if "epochs" in self.model_fields_set and self.epochs != self.validations:
            raise ValueError("epochs: iterations count here; set training.iterations and training.validations")
        self.epochs = self.validations
        return self


class SegmentationModel(Table):
    """One model of the comparison, and where its weights start."""

    name: str
    """A segmentation model of the registry."""
    label: str = ""
    """Of the folder and the records."""
    title: str = ""
    """For the reports."""
    start: Literal["scratch", "pretrained"] = "scratch"
    """pretrained: on the recipe's source, once for every seed."""
    weights: str = ""
    """A file, or the folder of a trained model, to start from."""
    training: dict[str, Any] = Field({})
    """Keys of [training] that are different for this model, such as freeze."""

    @model_validator(mode="after")
    def _fill(self):
        if self.name not in (known := list_models("segmentation")):
            hint = did_you_mean(self.name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"unknown segmentation model {self.name!r}{hint}")
        if self.weights and self.start == "pretrained":
            raise ValueError("start=pretrained and weights both say where weights come from; give one of them")
        if self.weights and not Path(self.weights).exists():
            raise ValueError(f"weights {self.weights}: no such file or folder")
        if self.training.get("batch_size") == 0:
            raise ValueError("training.batch_size of a single model must be at least 1; leave it out for the recipe's")
        self.label = self.label or (self.name if self.start == "scratch" else f"{self.name}_{self.start}")
        self.title = self.title or describe(self.name)
        check_names(self.label, {}, set())
        return self


class SegmentationEvaluation(Table):
    """What is measured after training, once, on the test part."""

    batch_size: int = Field(4, ge=1)
    """Windows at once."""
    overlap: float = Field(0.5, ge=0, lt=1)
    """Of neighbouring windows."""
    mirror: bool = False
    """The mean over all mirror images."""
    tolerance: float = Field(2.0, gt=0)
    """Of the surface distance, in pixels or millimetres."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples for the intervals."""
    throughput_batch: int = Field(2, ge=1)
    """Patches of a batch when the speed is measured."""
    throughput_repeats: int = Field(5, ge=1)
    """How often the speed is measured."""
    samples: int = Field(6, ge=0, le=12)
    """Images in the report."""


class SegmentationRecipe(FoldedRecipe):
    """A run of segmentation."""

    forms: ClassVar[str] = (
        "folders of images and of masks, Massachusetts Roads, nnU-Net's raw layout, a zip of them, shapes or cells"
    )

    task: Literal["segment"] = "segment"
    data: SegmentationData = SegmentationData()
    source: SegmentationData = SegmentationData()
    """Images that models with start = "pretrained" are trained on first."""
    pretraining: SegmentationTraining = SegmentationTraining()
    """How they are trained on the source."""
    training: SegmentationTraining = SegmentationTraining()
    plan: dict[str, Any] | str = ""
    """Sizes of the networks, as `Plan` names them, or a file that holds them; proposed from the images if empty, for 8
    or 24 GiB and residual encoders if resenc_m or resenc_l."""
    models: list[SegmentationModel] = Field(min_length=1)
    evaluation: SegmentationEvaluation = SegmentationEvaluation()

    @model_validator(mode="after")
    def _sizes(self):
        if self.plan and str(self.plan) not in PRESETS:  # ModelError is a ValueError
            plan = read_plan(self.plan) if isinstance(self.plan, str) else plan_from(self.plan)
            self.plan = json.loads(json.dumps(asdict(plan)))  # lists, as they are read again from the resolved recipe
        return self

    @property
    def pretrains(self) -> bool:
        """Whether a model starts from weights that this run makes."""
        return any(model.start == "pretrained" for model in self.models)
