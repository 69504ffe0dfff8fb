"""The tables of recipes on sequences: language models, classifiers, synthetic tasks, and what length costs."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ssmlab.checkpoints.find import find_folder
from ssmlab.core.table import Encoding, Table
from ssmlab.core.text import did_you_mean
from ssmlab.models.catalogue import find_weights, is_repository
from ssmlab.models.registry import describe, kind_of, list_models
from ssmlab.tasks.shared.recipe import AnyRecipe, check_names
from ssmlab.tasks.shared.tables import ContinualConfig, StreamTable, checked_method
from ssmlab.training.config import FitConfig

KINDS = {"text": "bytes", "dna": "bases", "audio": "samples"}  # what a token is, where no tokenizer says otherwise


def _model_of_run(path: str) -> str:
    """The folder of the only model of a run, where the path is a run's; any other path as it is."""
    if not path or not (Path(path) / "models").is_dir() or (Path(path) / "config.json").is_file():
        return path
    return str(find_folder(Path(path))[0])


ModelFolder = Annotated[str, AfterValidator(_model_of_run)]
"""Of a language model in any layout, a run with one model, or owner/name on the Hugging Face Hub."""


class SequenceModel(Table):
    """One model of the comparison: a name from the table of language models, and its options."""

    name: str = ""
    """May be left out where `weights` or the recipe's `model` is a folder."""
    label: str = ""
    """Of the folder and the records; the name where it is not given."""
    title: str = ""
    """For the reports."""
    pretrained: bool = False
    """Start from the weights that are published for `name`."""
    weights: ModelFolder = ""
    """The folder of a language model to start from."""
    adapt: str = ""
    """Its own method of adaptation; "none" = it is trained whole."""
    remedy: ContinualConfig = ContinualConfig()
    """Against forgetting the task of `base`."""
    options: dict[str, Any] = Field({})
    """Of the model's config, such as d_model."""
    training: dict[str, Any] = Field({})
    """Keys of [training] that are different for this model, such as learning_rate."""

    @model_validator(mode="after")
    def _fill(self):
        if self.name and kind_of(self.name) != "language":
            known = list_models("language")
            hint = did_you_mean(self.name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"unknown language model {self.name!r}{hint}")
        if self.pretrained and self.weights:
            raise ValueError("pretrained and weights both say where weights come from; give one of them")
        if self.pretrained and find_weights(self.name) is None:
            raise ValueError(f"pretrained: nothing is published for {self.name or 'a model without a name'}")
        if self.weights and not Path(self.weights).is_dir() and not is_repository(self.weights):
            folder = Path(self.weights)
            near = [place.name for place in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise ValueError(f"weights {self.weights}: no such folder{did_you_mean(folder.name, near)}")
        self.label = self.label or self.name or Path(self.weights).name or "model"
        named = describe(self.name).removesuffix(", of any size") if self.name else self.label
        self.title = self.title or named
        check_names(self.label, self.options, {"vocab_size"})
        checked_method(self.adapt)
        return self


class SequenceTraining(FitConfig):
    """How every model of the recipe is trained on sequences."""

    gradient_checkpointing: bool = False
    """Compute every layer again in the backward pass: less memory, more time."""


class LanguageTraining(SequenceTraining):
    """How language models are trained."""

    carry_state: bool = False
    """Rows continue where those of the last step ended, with their state."""


class SequenceEvaluation(Table):
    """What is measured after training, once, on the test part."""

    batch_size: int = Field(32, ge=1)
    """Rows of a prediction."""
    positive: str = ""
    """The positive class of two; the second in order where it is not given."""
    sensitivity: float = Field(0.0, ge=0, lt=1)
    """Of two classes: the threshold, chosen on the validation part, finds this share; 0: Youden's index chooses it."""
    throughput_batch: int = Field(8, ge=1)
    """Rows of a batch when the speed is measured."""
    throughput_repeats: int = Field(5, ge=1)
    """How often the speed is measured."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples for the intervals."""


class Template(Table):
    """How a message of a chat becomes text; {text} is replaced by it. A prompt is a user's message, a response ours."""

    system: str = "{text}\n\n"
    """What the model is told first."""
    user: str = "User: {text}\n"
    """A prompt."""
    assistant: str = "Assistant: {text}\n"
    """A response, which is what is learned."""

    @model_validator(mode="after")
    def _has_text(self):
        for name in ("system", "user", "assistant"):
            if getattr(self, name).count("{text}") != 1:
                raise ValueError(f"template.{name} must hold {{text}} once, got {getattr(self, name)!r}")
        return self


class LanguageData(StreamTable):
    """Which texts, bases or sounds. A token is a byte, a base, a sample of 8 bits, or what the tokenizer makes."""

    path: str = ""
    """A file, a folder, or the name of data that are made."""
    kind: Literal["text", "dna", "audio", "chat"] = "text"
    """What the data are."""
    tokenizer: str = ""
    """A tokenizer.json, a sentencepiece model, or bytes; bytes, or that of the weights, if empty."""
    length: int = Field(256, ge=2)
    """Tokens of a row."""
    documents: Literal["file", "line"] = "file"
    """What a document is, which is never split across train, val and test."""
    encoding: Encoding = "utf-8"
    """Of files of text, such as latin-1."""
    packing: bool = True
    """Several documents in a row; false: one, which lora=affix needs, at the price of filling."""
    reverse_complement: bool = False
    """Of DNA: train on both strands."""
    template: Template = Template()
    chat_template: Literal["auto", "recipe"] = "auto"
    """auto: the model's own, if any, unless [data.template] is changed."""
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Of all, where the data come without a validation part."""
    test_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Of all, where the data come without a test part."""
    split_seed: int = 0
    """Of the split."""
    limit: int = Field(0, ge=0)
    """At most so many rows of each part; 0 = all."""


class SequenceRecipe(AnyRecipe):
    """What the recipes on sequences share."""

    adapts: ClassVar[bool] = True

    training: SequenceTraining = SequenceTraining()
    models: list[SequenceModel] = Field(min_length=1)
    evaluation: SequenceEvaluation = SequenceEvaluation()


class LanguageRecipe(SequenceRecipe):
    """A run of language models: next token, or the answers of a chat."""

    forms: ClassVar[str] = (
        "text: a .txt file, a folder of them, or pydoc; DNA: FASTA, or generated; audio: a folder of .wav, or "
        "generated; chat: a .jsonl, or generated"
    )

    task: Literal["language"] = "language"
    model: ModelFolder = ""
    """The folder that models without weights of their own start from."""
    data: LanguageData = LanguageData()
    training: LanguageTraining = LanguageTraining()

    @model_validator(mode="after")
    def _streams(self):
        if self.training.carry_state and self.data.kind == "chat":
            raise ValueError("training.carry_state is for streams; the messages of a chat are apart")
        if self.training.carry_state and not self.data.packing:
            raise ValueError("training.carry_state needs rows that continue each other; leave data.packing=true")
        if self.data.stream is True and (self.training.carry_state or not self.data.packing):
            raise ValueError(
                "data.stream=true shuffles packed rows; leave training.carry_state and data.packing as they are"
            )
        if self.data.stream is True and self.data.kind != "text":
            raise ValueError(f"data.stream=true is for texts and tokens; {self.data.kind} is read before training")
        return self
