"""The task of the run that a recipe's models start from: measured again after they have learned something else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.record import Record
from ssmlab.tasks.shared.adapting import new_head


class BaseTask:
    """The run that the models started from: its model, and its task on its validation part.

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
        self.before = self._measured(self.network())

    def network(self) -> nn.Module:
        """Its model, as it was."""
        return self.load(self.job.folder)

    def task(self, network: nn.Module) -> Any:
        """Its task, as its model sees it."""
        return self.experiment.task_of(self.recipe, self.data, self.job.model, network)

    def train_part(self) -> Any:
        """What it was trained on."""
        return self.experiment.parts(self.recipe, self.data, self.job.model)[0]

    def forgotten(self, adapted: Any) -> list[Record]:
        """The score of a network that has learned something else since, with the old head, and how much is lost."""
        base = self.network()
        with _on_old_task(adapted, base) as network:
            after = self._measured(network)
        lost = self.before - after if self.higher_is_better else after - self.before
        unit, count = "fraction" if self.higher_is_better else "bits", self.data.describe["counts"]["val"]
        return [
            Record(metric=f"base_{self.metric}", value=after, unit=unit, n=count),
            Record(metric=f"forgotten_{self.metric}", value=lost, unit=unit, n=count),
        ]

    def lost(self, adapted: Any) -> dict[str, float]:
        """What a network has forgotten, for choosing: of the validation part."""
        return {r.metric: r.value for r in self.forgotten(adapted)}

    def _measured(self, network: nn.Module) -> float:
        network.to(self.compute.device)
        found = self.experiment.validate(self.recipe, self.data, self.job, network, self.task(network))
        return found[f"val_{self.metric}"]


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
