"""The tables of a recipe for translation. Nothing here imports torch."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ssmlab.core.table import Table
from ssmlab.core.text import did_you_mean
from ssmlab.data.pairs.config import PairConfig
from ssmlab.models.catalogue import is_repository
from ssmlab.models.registry import MODELS, describe, kind_of, list_models
from ssmlab.tasks.language.recipe import ModelFolder, SequenceTraining
from ssmlab.tasks.shared.recipe import AnyRecipe, check_names
from ssmlab.tasks.shared.tables import checked_method

SIZES = ("test", "tiny", "small", "base", "paper")


class TranslationData(PairConfig):
    """Sentence pairs of two languages."""

    limit: int = Field(0, ge=0)
    """At most so many pairs of the validation part and of the test part; 0 = all."""


class DropoutPlaces(Table):
    """Where values are dropped in training, and with which probability. None is in evaluation."""

    embedding: float = Field(0.0, ge=0, lt=1)
    """Embedded tokens, of source and target."""
    branch: float = Field(0.0, ge=0, lt=1)
    """What a block adds to the residual stream."""
    skip: float = Field(0.0, ge=0, lt=1)
    """The residual stream itself, wherever a block adds to it (Escolano et al. 2024)."""
    inner: float = Field(0.0, ge=0, lt=1)
    """Inside of blocks, before their output projection: the inner stream of Mamba, the hidden layer of an MLP."""
    attention: float = Field(0.0, ge=0, lt=1)
    """The probabilities of attention."""

    def options(self) -> dict[str, float]:
        """As `create_model` takes them: those that are not 0."""
        return {f"dropout_{place}": p for place, p in self if p}


class TranslationModel(Table):
    """One model of the comparison: a name from the table of translation models, its places of dropout, its options."""

    name: str = ""
    """Such as translation_mamba_tiny, or translation_mamba with the recipe's `size`; not needed with `weights`."""
    label: str = ""
    """Of the folder and the records; the name where it is not given."""
    title: str = ""
    """For the reports."""
    weights: ModelFolder = ""
    """The folder of a translation model to start from, ours or OPUS-MT's."""
    adapt: str = ""
    """Its own method of adaptation; "none" = it is trained whole."""
    dropout: DropoutPlaces = DropoutPlaces()
    options: dict[str, Any] = Field({})
    """Of the model's config, such as d_model."""
    training: dict[str, Any] = Field({})
    """Keys of [training] that are different for this model, such as learning_rate."""

    @model_validator(mode="after")
    def _fill(self):
        if self.name and kind_of(self.name) != "translation":
            known = list_models("translation")
            hint = did_you_mean(self.name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"unknown translation model {self.name!r}{hint}")
        if self.weights and not Path(self.weights).is_dir() and not is_repository(self.weights):
            folder = Path(self.weights)
            near = [place.name for place in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise ValueError(f"weights {self.weights}: no such folder{did_you_mean(folder.name, near)}")
        self.label = self.label or self.name or Path(self.weights).name or "model"
        self.title = self.title or (describe(self.name).removesuffix(", of any size") if self.name else self.label)
        check_names(self.label, self.options, {"vocab_size", *(f"dropout_{place}" for place, _ in self.dropout)})
        checked_method(self.adapt)
        return self


class TranslationTraining(SequenceTraining):
    """How translation models are trained. What is called an epoch is `updates_per_evaluation` updates."""

    epochs: int = Field(12, ge=1)
    """Stretches of `updates_per_evaluation` updates; after each the validation part is translated."""
    updates_per_evaluation: int = Field(250, ge=1)
    """Updates between two translations of the validation part."""
    tokens_per_batch: int = Field(4096, ge=8)
    """Most tokens of an update, of the sources and of the targets, each side for itself."""
    batch_size: Literal[1] = 1
    """An item is a whole batch of `tokens_per_batch`."""
    learning_rate: float = Field(1e-3, gt=0)
    """The highest rate of the schedule."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of matrices and filters, but of none that the model excludes."""
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    """Of adam and adamw: the decay of the average of squared gradients."""
    schedule: Literal["cosine", "linear", "constant", "polynomial", "inverse_sqrt"] = "inverse_sqrt"
    """How the learning rate falls after the warm-up; inverse_sqrt: as (t / warm-up)^-0.5, the others to 0."""
    warmup: float = Field(400, ge=0)
    """The fraction of all steps in which the rate rises from 0; from 1 on, the number of these steps."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """The share of a label that is spread over all tokens. Losses of evaluations and "nll" are without it."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of a running average of the weights, which is then what is kept; 0: none."""
    keep: Literal["last", "best"] = "best"
    """Whose weights are kept; best: of the evaluation with the highest BLEU."""
    documents: int = Field(1, ge=1)
    """Examples are 1 to so many neighbouring pairs of the training part."""
    carry_state: bool = False
    """In such an example each sentence is translated before the next is read, and the state goes on; without it the
    sources are one text, and so are the targets."""

    @model_validator(mode="after")
    def _carries(self):
        if self.carry_state and self.documents == 1:
            raise ValueError("training.carry_state goes on from sentence to sentence; give training.documents=5 or so")
        return self


class TranslationEvaluation(Table):
    """How the validation part is translated during training, and the test part once after it."""

    beams: int = Field(5, ge=1)
    """Of the test part; the validation part is translated greedily during training."""
    length_penalty: float = Field(1.0, ge=0)
    """alpha in the score of a translation of n tokens, sum of log p / n^alpha."""
    documents: int = Field(1, ge=1)
    """So many neighbouring lines of the test and the validation part are a document; a model translates its lines as it
    was trained to: one by one, together, or from the state after those before."""
    batch_tokens: int = Field(1024, ge=1)
    """Tokens of the sources that are translated at once."""
    bootstrap: int = Field(1000, ge=100)
    """Resamples for the intervals."""
    trials: int = Field(10_000, ge=100)
    """Of the approximate randomisation."""
    robustness: bool = False
    """The test part is translated seven times more: with typos, in other cases, without final punctuation."""
    decoding: list[int] = Field([])
    """Numbers of given tokens that every model writes one by one, for time and memory at these lengths."""


class TranslationRecipe(AnyRecipe):
    """A run of translation models: trained, chosen by BLEU on the validation part, tested once."""

    forms: ClassVar[str] = (
        "a folder with train, val and test of two languages, such as Multi30k's, the beginning of two files' names, "
        "such as europarl-v7.fr-en, a file of tab-separated pairs, or generated"
    )
    adapts: ClassVar[bool] = True

    task: Literal["translate"] = "translate"
    size: Literal["", "test", "tiny", "small", "base", "paper"] = ""
    """Of models whose name says none."""
    model: ModelFolder = ""
    """The folder that models without weights of their own start from, ours or OPUS-MT's."""
    data: TranslationData = TranslationData()
    training: TranslationTraining = TranslationTraining()
    models: list[TranslationModel] = Field(min_length=1)
    evaluation: TranslationEvaluation = TranslationEvaluation()

    @model_validator(mode="after")
    def _startable(self):
        for i, model in enumerate(self.models):
            start = self.start_of(model)
            if start and model.options:
                raise ValueError(
                    f"{model.label} has the options of {start}; those of the recipe are others: take them away with "
                    f"models.{i}.options={{}}"
                )
        return self

    def start_of(self, model: TranslationModel) -> str:
        """The folder that a model starts from; "" where its weights are drawn."""
        return model.weights or self.model

    def name_of(self, model: TranslationModel) -> str:
        """The name of a model in the registry, with the recipe's size where it has none."""
        sized = f"{model.name}_{self.size}"
        return sized if self.size and sized in MODELS else model.name
