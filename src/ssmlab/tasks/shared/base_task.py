"""The task of the run that a recipe's models start from: measured again after they have learned something else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.record import Record
from ssmlab.tasks.shared.adapting import new_head


class BaseTask:
    """The run that the models started from: its model, and its task on its test part.

    Args:
        experiment, recipe, data: of that run; job: its first model.
        compute: where that computes.
        load: reads a model's folder.
    """

    def __init__(
        self,
        experiment: Any,
        recipe: Any,
        data: Any,
        job: Any,
        compute: ComputeConfig,
        load: Callable[[Path], nn.Module],
    ):
        self.experiment, self.recipe, self.data, self.job, self.load = experiment, recipe, data, job, load
        self.compute = compute
        self.metric, self.higher_is_better = experiment.primary_metric(data), experiment.higher_is_better
        self._before: dict[str, float] = {}

    def network(self) -> nn.Module:
        """Its model, as it was."""
        return self.load(self.job.folder)

    def task(self, network: nn.Module) -> Any:
        """Its task, as its model sees it."""
        return self.experiment.task_of(self.recipe, self.data, self.job.model, network)

    def train_part(self) -> Any:
        """What it was trained on."""
        return self.experiment.parts(self.recipe, self.data, self.job.model)[0]

    def forgotten(self, adapted: Any, part: str = "test") -> list[Record]:
        """The score of a network that has learned something else since, with the old head, and how much is lost.

        Args:
            part: "test", or "val" where settings are chosen by it.
        """
        base = self.network()
        with _on_old_task(adapted, base) as network:
            after = self._measured(network, part)
        lost = self.before(part) - after if self.higher_is_better else after - self.before(part)
        unit, count = "fraction" if self.higher_is_better else "bits", self.data.describe["counts"][part]
        return [
            Record(metric=f"base_{self.metric}", value=after, unit=unit, n=count),
            Record(metric=f"forgotten_{self.metric}", value=lost, unit=unit, n=count),
        ]

    def before(self, part: str) -> float:
        """The score of its model as it was."""
        if part not in self._before:
            self._before[part] = self._measured(self.network(), part)
        return self._before[part]

    def _measured(self, network: nn.Module, part: str) -> float:
        network.to(self.compute.device)
        data = _tested(self.data) if part == "test" else self.data
        task = self.experiment.task_of(self.recipe, data, self.job.model, network)
        return self.experiment.validate(self.recipe, data, self.job, network, task)[f"val_{self.metric}"]


def _tested(data: Any) -> Any:
    """Data whose validation part is the test part: what validates a model then tests it."""
    if hasattr(data, "val"):
        return replace(data, val=data.test)
    name = next(name for name in ("rows", "pairs", "parts") if hasattr(data, name))
    caches: dict[str, dict] = {field.name: {} for field in fields(data) if field.default_factory is dict}
    parts = getattr(data, name)
    return replace(data, **caches, **{name: parts | {"val": parts["test"]}})


@contextmanager
def _on_old_task(adapted: Any, base: Any) -> Iterator[Any]:
    """The adapted network as its old task sees it, with the old head; it has its own again after the context."""
    device = next(adapted.parameters()).device
    if hasattr(adapted, "lm_head"):  # a language model writes with the head that it has now
        yield adapted.eval()
        return
    if hasattr(base, "lm_head"):  # a classifier on a language model's layers
        base.to(device)
        base.backbone = adapted.backbone
        yield base.eval()
        return
    names = new_head(adapted)
    olds = {name: adapted.get_submodule(name) for name in names}
    try:
        for name in names:
            adapted.set_submodule(name, base.get_submodule(name).to(device))
        yield adapted.eval()
    finally:
        for name, old in olds.items():
            adapted.set_submodule(name, old)
