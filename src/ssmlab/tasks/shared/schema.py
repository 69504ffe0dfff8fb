"""The tables of a recipe: what every task shares, and those of image classification. Nothing here imports torch.

No field is optional in the sense of None: TOML has no null, and the resolved recipe of a run shows every default.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ssmlab.core.table import Table
from ssmlab.tasks.shared.schema_adapt import ADAPTED, AdaptConfig, BaseRun, check_growth, check_used, with_short_form
from ssmlab.tasks.shared.schema_remedy import check_remedies


class AnyRecipe(Table):
    """What the recipes of all tasks share. A child adds `task`, `data`, `training`, `models` and `evaluation`.

    Args:
        name: the folder below `runs/`.
        seeds: every model is trained once for each of them.
        device: "auto", "cuda", "mps" or "cpu".
        trial: the tiny form of a recipe, whose numbers decide nothing; --smoke sets it.
    """

    forms: ClassVar[str] = ""  # what `data.path` may be, in words

    name: str = ""
    description: str = ""
    task: str
    seeds: list[int] = Field([0], min_length=1)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    trial: bool = False
    data: Any
    training: Any
    models: list[Any]
    evaluation: Any
    adapt: AdaptConfig = AdaptConfig()
    base: BaseRun = BaseRun()

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
        if self.adapt != AdaptConfig() and self.task not in ADAPTED:
            raise ValueError(f"adapt (or lora) is for the tasks {', '.join(ADAPTED)}; {self.task!r} would ignore it")
        methods = [getattr(model, "adapt", "") or self.adapt.method for model in self.models]
        check_used(self.adapt, methods)
        check_growth(self.adapt, methods, self.task)
        check_remedies(self.models, self.task, bool(self.base.recipe or self.base.weights))
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
    """A label must be the name of a folder, and options must not be what the recipe decides."""
    taken = sorted(reserved & set(options))
    if taken:
        raise ValueError(f"option {taken[0]} is set by the recipe; it does not belong into options")
    if not names_folder(label):
        raise ValueError(f"label {label!r} names a folder: use letters, digits, - _ . +")


def names_folder(text: str) -> bool:
    """Whether a text is a plain name of a folder."""
    return all(c.isalnum() or c in "-_.+" for c in text) and not text.startswith(".")
