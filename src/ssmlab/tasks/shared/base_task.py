"""The task of the run that a recipe's models start from: measured again after they have learned something else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ssmlab.core.record import Record
from ssmlab.tasks.shared.adapting import new_head


class BaseTask:
    """The run that the models started from: its model, and its task on its validation part.

    Args:
        work: the experiment of that run's recipe.
        job: its first model.
        load: reads a model's folder.
    """

    def __init__(self, work: Any, job: Any, load: Callable[[Path], nn.Module]):
        self.work, self.job, self.load = work, job, load
        self.score, self.unit = f"base_{self.work.decides}", "fraction" if self.work.higher else "bits"
        self.before = self._measured(self.network())

    def network(self) -> nn.Module:
        """Its model, as it was."""
        return self.load(self.job.folder)

    def forgotten(self, adapted: Any) -> list[Record]:
        """The score of a network that has learned something else since, with the old head, and how much is lost."""
        base = self.network()
        with _on_old_task(adapted, base) as network:
            after = self._measured(network)
        lost = self.before - after if self.work.higher else after - self.before
        count = self.work.data.describe["counts"]["val"]
        return [
            Record(metric=self.score, value=after, unit=self.unit, n=count),
            Record(metric=f"forgotten_{self.work.decides}", value=lost, unit=self.unit, n=count),
        ]

    def _measured(self, network: nn.Module) -> float:
        network.to(self.work.placement(self.job.model).device)
        found = self.work.validate(network, self.work.task(self.job.model, network), self.job)
        return found[f"val_{self.work.decides}"]


@contextmanager
def _on_old_task(adapted: Any, base: Any) -> Iterator[Any]:
    """The adapted network as its old task sees it, with the old head; it has its own again behind the context."""
    device = next(adapted.parameters()).device
    if hasattr(adapted, "lm_head"):  # a language model writes with the head that it has now
        yield adapted.eval()
        return
    if hasattr(base, "lm_head"):  # a classifier on a language model's layers
        base.to(device)
        base.backbone = adapted.backbone
        yield base.eval()
        return
    names = new_head(adapted, _Classes)
    olds = [adapted.get_submodule(name) for name in names]
    try:
        for name in names:
            _put(adapted, name, base.get_submodule(name).to(device))
        yield adapted.eval()
    finally:
        for name, old in zip(names, olds, strict=True):
            _put(adapted, name, old)


class _Classes:
    classes = ()


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
