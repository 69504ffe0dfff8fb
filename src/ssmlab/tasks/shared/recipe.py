"""What the recipes of all tasks share. Nothing here imports torch.

No field is optional in the sense of None: TOML has no null, and the resolved recipe of a run shows every default.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ssmlab.core.table import Table
from ssmlab.tasks.shared.tables import AdaptConfig, BaseRun, check_continual, check_growth, check_used, with_short_form


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
        check_continual(self.models, self.task, bool(self.base.recipe or self.base.weights))
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
