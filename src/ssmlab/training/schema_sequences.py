"""The tables of recipes on sequences: language models, classifiers, synthetic tasks, and what length costs."""

import codecs
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ssmlab.models.catalogue import find_weights, is_repository
from ssmlab.models.language import LANGUAGE_MODELS
from ssmlab.models.registry import did_you_mean
from ssmlab.training.schema import AnyRecipe, Optimisation, Table, check_names
from ssmlab.training.schema_adapt import checked_method
from ssmlab.training.schema_remedy import RemedyConfig

KINDS = {"text": "bytes", "dna": "bases", "audio": "samples"}  # what a token is, where no tokenizer says otherwise


def _model_of_run(path: str) -> str:
    """The folder of the only model of a run, where the path is a run's; any other path as it is."""
    if not (Path(path) / "models").is_dir() or (Path(path) / "config.json").is_file():
        return path
    from ssmlab.checkpoints.files import find_language_model  # here, since it imports torch

    return str(find_language_model(path))


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
        if self.name and self.name not in LANGUAGE_MODELS:
            hint = did_you_mean(self.name, LANGUAGE_MODELS) or f"; there are {', '.join(LANGUAGE_MODELS)}"
            raise ValueError(f"unknown language model {self.name!r}{hint}")
        if self.pretrained and self.weights:
            raise ValueError("pretrained and weights both say where weights come from; give one of them")
        if self.pretrained and find_weights(self.name) is None:
            raise ValueError(f"pretrained: nothing is published for {self.name or 'a model without a name'}")
        if self.weights and not Path(self.weights).is_dir() and not is_repository(self.weights):
            raise ValueError(f"weights {self.weights}: no such folder")
        self.label = self.label or self.name or Path(self.weights).name or "model"
        known = LANGUAGE_MODELS[self.name].title.removesuffix(", of any size") if self.name else self.label
        self.title = self.title or known
        check_names(self.label, self.options, {"vocab_size"})
        checked_method(self.adapt)
        return self


class SequenceTraining(Optimisation):
    """How every model of the recipe is trained on sequences. What the trainer knows besides is for images only."""

    layer_decay: ClassVar[float] = 1.0
    ema: ClassVar[float] = 0.0

    gradient_checkpointing: bool = False  # compute every layer again in the backward pass: less memory, more time


class SyntheticTraining(SequenceTraining):
    """How models of a synthetic task are trained."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)


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


class LabelledData(Table):
    """Which sequences with labels."""

    path: str = ""
    kind: Literal["text", "dna", "audio"] = "text"
    tokenizer: str = ""
    encoding: Encoding = "utf-8"  # of files of text, such as latin-1
    labels: str = ""  # the column of the classes, where a table has them and it is not clear
    group: str = ""  # the table's column of what stays in one part, such as a speaker
    length: int = Field(1024, ge=2)  # longer sequences are cut
    crop: Literal["start", "random"] = "start"  # which part is kept in training; in evaluation it is the start
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    split_seed: int = 0
    limit: int = Field(0, ge=0)  # at most so many sequences of each part, drawn class by class; 0 = all


class SyntheticData(Table):
    """Generated sequences; every epoch has new ones."""

    path: str = ""  # selective_copying, induction_heads, parity, modular_sum or modular_arithmetic
    vocab: int = Field(16, ge=4, le=250)  # of a modular sum modulo 1 less, modular arithmetic 3 less
    length: int = Field(256, ge=8)  # of a sequence, without the places of the answers
    data_tokens: int = Field(16, ge=1)  # of selective copying: how many are to be remembered
    examples: int = Field(6400, ge=1)  # of an epoch
    grow: float = Field(0.0, ge=0, le=1)  # the share of the epochs in which training sequences grow
    test_examples: int = Field(1000, ge=1)
    val_examples: int = Field(0, ge=0)  # after every epoch; 0: as many as test_examples
    test_lengths: list[int] = Field([])  # further lengths that are tested, such as four times the training's
    split_seed: int = 0


class ScalingData(Table):
    """What is measured: lengths in tokens. The tokens are random."""

    path: str = "random"
    vocab: int = Field(256, ge=2)
    prefill: list[int] = Field(min_length=1)
    training: list[int] = Field([])
    decoding: list[int] = Field([])  # after a prompt of so many tokens
    decoded: int = Field(16, ge=1)  # tokens that are written
    most_seconds: float = Field(60.0, gt=0)  # a pass that would take longer is extrapolated


class Head(Table):
    """What makes one prediction of a sequence: the mean over its tokens, or what stands at the last one."""

    pool: Literal["mean", "last"] = "mean"


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


class LabelledRecipe(SequenceRecipe):
    """A run of classifiers of sequences."""

    forms: ClassVar[str] = (
        "text: class folders of .txt; DNA: a folder of FASTA files, one a class, or class folders of them; audio: "
        "class folders of .wav, or <class>_<speaker>_<number>.wav; or generated"
    )

    task: Literal["classify_sequence"] = "classify_sequence"
    data: LabelledData = LabelledData()
    head: Head = Head()


class SyntheticRecipe(SequenceRecipe):
    """A run of a synthetic task."""

    forms: ClassVar[str] = "selective_copying, induction_heads, parity, modular_sum or modular_arithmetic"

    task: Literal["synthetic"] = "synthetic"
    data: SyntheticData = SyntheticData()
    training: SyntheticTraining = SyntheticTraining()


class ScalingRecipe(SequenceRecipe):
    """Time and memory against length."""

    forms: ClassVar[str] = "random"

    task: Literal["scaling"] = "scaling"
    data: ScalingData
