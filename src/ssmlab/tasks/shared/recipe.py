"""What the recipes of all tasks share. Nothing here imports torch.

No field is optional in the sense of None: TOML has no null, and the resolved recipe of a run shows every default.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ssmlab.core.table import Table
from ssmlab.tasks.shared.tables import AdaptConfig, BaseRun, check_continual, check_growth, check_used, with_short_form
from ssmlab.tasks.shared.trials import TrialsTable


class AnyRecipe(Table):
    """What the recipes of all tasks share. A child adds `task`, `data`, `training`, `models` and `evaluation`.

    forms: what `data.path` may be, in words.
    adapts: whether models of the task are trained with adapters.
    """

    forms: ClassVar[str] = ""
    adapts: ClassVar[bool] = False

    name: str = ""
    """The folder below runs/; the recipe's own name where it is not given."""
    description: str = ""
    """What is compared, for the report."""
    task: str
    """The kind of run."""
    seeds: list[int] = Field([0], min_length=1)
    """Every model is trained once for each of them."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where models compute; auto: the fastest there is."""
    trial: bool = False
    """The tiny form of a recipe, whose numbers decide nothing; --smoke sets it."""
    data: Any
    """What is learned from."""
    training: Any
    """How models are trained."""
    models: list[Any]
    """What is compared."""
    evaluation: Any
    """What is measured after training."""
    adapt: AdaptConfig = AdaptConfig()
    """Adapters instead of training all weights."""
    base: BaseRun = BaseRun()
    """What the models start from."""
    trials: TrialsTable = TrialsTable()
    """What every model may choose from before the run."""

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
        if self.adapt != AdaptConfig() and not self.adapts:
            raise ValueError(f"adapt (or lora) is for tasks that train with adapters; {self.task!r} would ignore it")
        methods = [getattr(model, "adapt", "") or self.adapt.method for model in self.models]
        check_used(self.adapt, methods)
        check_growth(self.adapt, methods, self.task)
        based = bool(self.base.recipe or self.base.weights)
        check_continual(self.models, self.task, based)
        if self.trials.price and not based:
            raise ValueError(f"trials.price={self.trials.price} is that of an old task; give base.recipe")
        return self

    @model_validator(mode="after")
    def _distinct(self):
        labels = [model.label for model in self.models]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two models are labelled {twice[0]!r}; give each its own label")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds has one twice: {self.seeds}")
        if self.trials.declared and (both := sorted(set(self.seeds) & set(self.trials.seeds))):
            raise ValueError(f"seed {both[0]} is one of the trials; settings must be chosen with other seeds")
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

    @property
    def replicates(self) -> list[int]:
        """The seed of every training of a model; a repeat of a cross-validation has seeds of its own."""
        repeats = range(getattr(self, "repeats", 1))
        return [seed + REPEAT * repeat for repeat in repeats for seed in self.seeds]

    def training_of(self, model: Any) -> Any:
        """How a model is trained: as all are, with what the model itself says."""
        own = getattr(model, "training", {})
        return type(self.training).model_validate(self.training.model_dump() | own) if own else self.training

    def to_toml(self) -> str:
        """The resolved recipe: every key with the value that was used."""
        import tomli_w

        return tomli_w.dumps(self.model_dump())


REPEAT = 1000  # between the seeds of two repeats of a cross-validation


class FoldedRecipe(AnyRecipe):
    """A recipe whose models may be trained once for every fold of a cross-validation."""

    folds: int = Field(0, ge=0, le=100)
    """Cross-validation: every image but those of a published test part is predicted once, by a model of so many that
    has never seen it; 0: none. Images of one group stay in one fold."""
    repeats: int = Field(1, ge=1, le=20)
    """Of the cross-validation, each with other folds."""
    splits: str = ""
    """Folds from a file: nnU-Net's splits_final.json, or that of another run."""

    @model_validator(mode="after")
    def _folded(self):
        if self.folds == 1:
            raise ValueError("folds=1 leaves nothing to train on; take 2 or more, 5 as a rule, or 0 for none")
        if self.repeats > 1 and not (self.folds or self.splits):
            raise ValueError(f"repeats={self.repeats} is for a cross-validation; give folds=5, or leave it out")
        if self.repeats > 1 and max(self.seeds) >= REPEAT:
            raise ValueError(f"repeats need seeds below {REPEAT}, got {max(self.seeds)}")
        if self.splits and not Path(self.splits).is_file():
            raise ValueError(f"splits={self.splits}: there is no such file; give a splits_final.json")
        return self

    @property
    def folded(self) -> bool:
        """Whether there is a cross-validation."""
        return bool(self.folds or self.splits)


def check_names(label: str, options: dict[str, Any], reserved: set[str]) -> None:
    """A label must be the name of a folder, and options must not be what the recipe sets."""
    taken = sorted(reserved & set(options))
    if taken:
        raise ValueError(f"option {taken[0]} is set by the recipe; it does not belong into options")
    if not names_folder(label):
        raise ValueError(f"label {label!r} names a folder: use letters, digits, - _ . +")


def names_folder(text: str) -> bool:
    """Whether a text is a plain name of a folder."""
    return all(c.isalnum() or c in "-_.+" for c in text) and not text.startswith(".")
