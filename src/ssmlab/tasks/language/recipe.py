"""The tables of recipes on sequences: language models, classifiers, synthetic tasks, and what length costs."""

import codecs
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ssmlab.checkpoints.find import find_folder
from ssmlab.core.table import Table
from ssmlab.core.text import did_you_mean
from ssmlab.models.catalogue import find_weights, is_repository
from ssmlab.models.registry import describe, kind_of, list_models
from ssmlab.tasks.shared.schema import AnyRecipe, check_names
from ssmlab.tasks.shared.schema_adapt import checked_method
from ssmlab.tasks.shared.schema_remedy import RemedyConfig
from ssmlab.training.config import Optimisation

KINDS = {"text": "bytes", "dna": "bases", "audio": "samples"}  # what a token is, where no tokenizer says otherwise


def _model_of_run(path: str) -> str:
    """The folder of the only model of a run, where the path is a run's; any other path as it is."""
    if not path or not (Path(path) / "models").is_dir() or (Path(path) / "config.json").is_file():
        return path
    return str(find_folder(Path(path))[0])


ModelFolder = Annotated[
    str, AfterValidator(_model_of_run)
]  # of a language model in any layout, a run with one model, or owner/name on the Hugging Face Hub


def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError(f"{name!r} is no encoding that Python knows; such as utf-8, latin-1 or cp1252") from None


Encoding = Annotated[str, AfterValidator(_codec)]


class SequenceModel(Table):
    """One model of the comparison: a name from the table of language models, and its options."""

    name: str = ""  # may be left out where `weights` or the recipe's `model` is a folder
    label: str = ""  # of the folder and the records; the name where it is not given
    title: str = ""  # for the reports
    pretrained: bool = False  # start from the weights that are published for `name`
    weights: ModelFolder = ""  # to start from
    adapt: str = ""  # its own method of adaptation; "none" = it is trained whole
    remedy: RemedyConfig = RemedyConfig()  # against forgetting the task of `base`
    options: dict[str, Any] = Field({})  # of the model's config, such as d_model
    training: dict[str, Any] = Field({})  # keys of [training] that are different for this model, such as learning_rate

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
        known = describe(self.name).removesuffix(", of any size") if self.name else self.label
        self.title = self.title or known
        check_names(self.label, self.options, {"vocab_size"})
        checked_method(self.adapt)
        return self


class SequenceTraining(Optimisation):
    """How every model of the recipe is trained on sequences. What the trainer knows besides is for images only."""

    layer_decay: ClassVar[float] = 1.0
    ema: ClassVar[float] = 0.0

    gradient_checkpointing: bool = False  # compute every layer again in the backward pass: less memory, more time


class LanguageTraining(SequenceTraining):
    """How language models are trained."""

    carry_state: bool = False  # rows continue where those of the last step ended, with their state


class SequenceEvaluation(Table):
    """What is measured after training, once, on the test part."""

    batch_size: int = Field(32, ge=1)
    positive: str = ""  # the positive class of two; the second in order where it is not given
    throughput_batch: int = Field(8, ge=1)
    throughput_repeats: int = Field(5, ge=1)
    bootstrap: int = Field(2000, ge=100)  # resamples for the intervals


class Template(Table):
    """How a message of a chat becomes text; {text} stands for it. A prompt is a user's message, a response ours."""

    system: str = "{text}\n\n"
    user: str = "User: {text}\n"
    assistant: str = "Assistant: {text}\n"

    @model_validator(mode="after")
    def _has_text(self):
        for name in ("system", "user", "assistant"):
            if getattr(self, name).count("{text}") != 1:
                raise ValueError(f"template.{name} must hold {{text}} once, got {getattr(self, name)!r}")
        return self


class LanguageData(Table):
    """Which texts, bases or sounds. A token is a byte, a base, a sample of 8 bits, or what the tokenizer makes."""

    path: str = ""
    kind: Literal["text", "dna", "audio", "chat"] = "text"
    tokenizer: str = ""  # a tokenizer.json, a sentencepiece model, or bytes; bytes, or that of the weights, if empty
    length: int = Field(256, ge=2)  # tokens of a row
    documents: Literal["file", "line"] = "file"  # what a document is, which nothing leaks out of
    encoding: Encoding = "utf-8"  # of files of text, such as latin-1
    packing: bool = True  # several documents in a row; false: one, which lora=affix needs, at the price of filling
    reverse_complement: bool = False  # of DNA: train on both strands
    template: Template = Template()
    chat_template: Literal["auto", "recipe"] = (
        "auto"  # auto: the model's own, if any, unless [data.template] is changed
    )
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    test_fraction: float = Field(0.1, gt=0, lt=0.5)
    split_seed: int = 0
    limit: int = Field(0, ge=0)  # at most so many rows of each part; 0 = all


class SequenceRecipe(AnyRecipe):
    """What the recipes on sequences share."""

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
    model: ModelFolder = ""  # that models without weights of their own start from
    data: LanguageData = LanguageData()
    training: LanguageTraining = LanguageTraining()

    @model_validator(mode="after")
    def _streams(self):
        if self.training.carry_state and self.data.kind == "chat":
            raise ValueError("training.carry_state is for streams; the messages of a chat are apart")
        if self.training.carry_state and not self.data.packing:
            raise ValueError("training.carry_state needs rows that continue each other; leave data.packing=true")
        return self
