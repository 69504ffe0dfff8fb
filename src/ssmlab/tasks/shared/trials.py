"""Trials that a recipe declares: the settings that every model may choose from on the validation part.

`ssmlab sweep RECIPE` trains them and writes a recipe with every model's best. torch is not imported.
"""

from itertools import product
from typing import Any

from pydantic import Field, model_validator

from ssmlab.core.formats import listing
from ssmlab.core.table import Table


class TrialsTable(Table):
    """The trials that come before a run, as many for every model; a recipe that gives one of them more is refused."""

    grid: dict[str, list[Any]] = Field({})
    """Keys of a model with their values, such as "training.learning_rate" = [1e-3, 3e-3]; all combinations are tried."""
    own: dict[str, dict[str, list[Any]]] = Field({})
    """By label: keys that a model tries besides, or other values; it has as many trials as the others."""
    seeds: list[int] = Field([100], min_length=1)
    """Of the trials; none of them is a seed of the run."""
    price: float = Field(0.0, ge=0)
    """Where there is an old task: what a unit of its loss costs. A trial is worth the validation metric less so much."""
    had: dict[str, int] = Field({})
    """By label: the trials that a model's settings are the best of. A sweep writes it."""

    @model_validator(mode="after")
    def _alike(self):
        for place, lists in (("grid", self.grid), *((f"own.{label}", keys) for label, keys in self.own.items())):
            for key, values in lists.items():
                if key.split(".")[0] not in ("training", "remedy", "options", "adapt"):
                    raise ValueError(f"trials.{place}: {key} is no key of a model; take training.* or remedy.*")
                if not values:
                    raise ValueError(f"trials.{place}: {key} has no values")
        counts = {label: len(self.points(label)) for label in ("", *self.own)}
        if len(set(counts.values())) > 1:
            told = [f"{label or 'the others'} {count}" for label, count in counts.items()]
            raise ValueError(f"trials: every model must have as many, got {listing(told)}")
        return self

    @property
    def declared(self) -> bool:
        """Whether there is something to choose from."""
        return bool(self.grid or self.own)

    def lists(self, label: str) -> dict[str, list[Any]]:
        """The keys of a model with the values that it tries."""
        return self.grid | self.own.get(label, {})

    def points(self, label: str) -> list[dict[str, Any]]:
        """What a model tries, trial by trial; one trial with nothing changed where nothing is declared."""
        lists = self.lists(label)
        return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def trial_recipe(recipe: Any, number: int) -> Any:
    """A recipe whose models have the settings of a trial, and its seeds."""
    table = recipe.model_dump() | {"seeds": recipe.trials.seeds, "trials": {}}
    for model in table["models"]:
        for key, value in recipe.trials.points(model["label"])[number].items():
            node, *rest = model, *key.split(".")
            for name in rest[:-1]:
                node = node.setdefault(name, {})
            node[rest[-1]] = value
    return type(recipe).model_validate(table)
