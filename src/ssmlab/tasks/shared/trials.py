"""Trials that a recipe declares: the settings that every model may choose from on the validation part.

`ssmlab sweep RECIPE` trains them and writes a recipe with every model's best. torch is not imported.
"""

from itertools import product
from typing import Any

from pydantic import Field, model_validator

from ssmlab.core.errors import RecipeError
from ssmlab.core.formats import listing
from ssmlab.core.table import Table


class TrialsTable(Table):
    """The trials that come before a run; a sweep refuses a recipe that gives one model more of them than another."""

    grid: dict[str, list[Any]] = Field({})
    """Keys of a model with values, such as "training.learning_rate" = [1e-3, 3e-3]; all combinations are tried."""
    own: dict[str, dict[str, list[Any]]] = Field({})
    """By label: keys that a model tries besides, or other values; it has as many trials as the others."""
    seeds: list[int] = Field([100], min_length=1)
    """Of the trials; none of them is a seed of the run."""
    price: float = Field(0.0, ge=0)
    """Where there is an old task: what a unit of its loss costs. A trial is worth its validation metric less that."""
    had: dict[str, int] = Field({})
    """By label: the trials that a model's settings are the best of. A sweep writes it."""

    @model_validator(mode="after")
    def _of_models(self):
        for place, lists in (("grid", self.grid), *((f"own.{label}", keys) for label, keys in self.own.items())):
            for key, values in lists.items():
                if key.split(".")[0] not in ("training", "remedy", "options", "adapt"):
                    raise ValueError(f"trials.{place}: {key} is no key of a model; take training.* or remedy.*")
                if not values:
                    raise ValueError(f"trials.{place}: {key} has no values")
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


def trials_of(recipe: Any) -> list[dict[str, dict[str, Any]]]:
    """Of every trial the settings of every model, by its label.

    Raises:
        RecipeError: nothing is declared, models have unequal numbers of trials, or there is no such model.
    """
    trials, labels = recipe.trials, [model.label for model in recipe.models]
    if unknown := [label for label in trials.own if label not in labels]:
        raise RecipeError(f"trials.own.{unknown[0]}: no model has this label; there are {listing(labels)}")
    points = {label: trials.points(label) for label in labels}
    if len({len(each) for each in points.values()}) > 1:
        told = listing([f"{label} {len(each)}" for label, each in points.items()])
        raise RecipeError(f"trials: every model must have as many, got {told}")
    return [dict(zip(labels, each, strict=True)) for each in zip(*points.values(), strict=True)]
