"""One model of a run: built, trained, tested once, measured. What differs between tasks is a child of `Work`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmlab.core.device import Placement, choose_placement
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.profiling import peak_memory
from ssmlab.reports.comparison import PROCESS
from ssmlab.tasks.shared import adapting, remedies
from ssmlab.tasks.shared.base_task import BaseTask
from ssmlab.tasks.shared.schema import AnyRecipe
from ssmlab.training import fit as trainer
from ssmlab.training.estimate import seconds_of
from ssmlab.training.predict import curves
from ssmlab.training.task import Task


class Work(ABC):
    """What a run asks of a task. A job is a model with a seed and a folder (`run.Job`).

    Args:
        recipe: of the task.
        data: what the task's loader has read.
    """

    decides: str = "accuracy"  # the validation metric by which a sweep chooses
    higher: bool = True
    find_base: Callable[[], BaseTask | None] = staticmethod(lambda: None)  # a run says which run its models start from
    _base: BaseTask | None = None

    def __init__(self, recipe: AnyRecipe, data: Any):
        self.recipe, self.data = recipe, data

    @abstractmethod
    def build(self, model: Any, seed: int) -> nn.Module:
        """The network with its initial weights, and what is frozen in it."""

    @abstractmethod
    def task(self, model: Any, network: nn.Module) -> Task:
        """The task, as this model sees it."""

    @abstractmethod
    def parts(self, model: Any) -> tuple[Any, Any]:
        """Training and validation part as torch serves them."""

    @abstractmethod
    def validate(self, network: nn.Module, task: Task, job: Any) -> dict[str, float]:
        """The numbers of the validation part, `val_<metric>`, the deciding one among them."""

    @abstractmethod
    def measure(self, job: Any, network: nn.Module, task: Task, progress: Progress) -> dict[str | None, list[Record]]:
        """Save the model; predict the validation part, and once the test part; costs. Records by part."""

    def compared(self, jobs: list[Any]) -> list[tuple[str, Record]]:
        """Differences of every two models, with the pair's name."""
        return []

    def finish(self, jobs: list[Any], folder: Path) -> None:  # noqa: B027 - most tasks have nothing to write
        """Write what the report needs besides records."""

    def placement(self, model: Any) -> Placement:
        """Where and how a model computes."""
        config = self.recipe.training_of(model)
        return choose_placement(self.recipe.device, config.precision, getattr(config, "channels_last", "no"))

    def evaluated(self, epochs: int) -> int:
        """Rows that are predicted during and after training."""
        counts = self.data.describe["counts"]
        return epochs * counts["val"] + counts["test"]

    def estimate(self, job: Any) -> float:
        """Seconds that a model will take. Whatever cannot be built is told here, before training."""
        network = self.adapted(job)
        config = self.recipe.training_of(job.model)
        if config.layer_decay < 1:
            trainer.optimizer_groups(network, config)
        part, _ = self.parts(job.model)
        epochs, steps = trainer.length(config, len(part))
        return seconds_of(
            network,
            self.task(job.model, network),
            config,
            part.__getitems__(list(range(min(config.batch_size, len(part))))),
            steps=steps,
            evaluated=self.evaluated(epochs),
            placement=self.placement(job.model),
        )

    def adapted(self, job: Any) -> nn.Module:
        """The network with its initial weights and, where the recipe has some for it, adapters that are seen to act."""
        network = self.build(job.model, job.seed)
        if not adapting.asked(self.recipe, job.model):
            return network
        part = self.parts(job.model)[0]
        rows = min(self.recipe.training_of(job.model).batch_size, len(part), 8)
        task, precision = self.task(job.model, network), self.placement(job.model).precision
        adapting.put_on(self.recipe, job.model, network, task, part.__getitems__(list(range(rows))), precision)
        return network

    def train(self, job: Any, *, logs=None, progress=None, resume=False):
        """Build and train; returns the network, its task, what training left, and the peak of memory."""
        network = self.adapted(job)
        task = self.task(job.model, network)
        placement = self.placement(job.model)
        train_part, val_part = self.parts(job.model)
        learned = remedies.remembering(self.old_task(), job.model, network, task, placement.device)
        with learned as with_remedy, peak_memory(placement.device) as peak:
            trained = trainer.train(
                network,
                with_remedy,
                self.recipe.training_of(job.model),
                train_part,
                val_part,
                folder=job.checkpoints,
                label=job.folder.name,
                seed=job.seed,
                placement=placement,
                logs=logs,
                progress=progress,
                resume=resume,
                gradients=job.folder,
            )
        return network, task, trained, peak

    def fit(self, job: Any, *, logs: Path, progress: Progress, resume: bool) -> dict[str | None, list[Record]]:
        """Train a model, save it, test it once, measure it.

        Returns:
            records by part; None holds those of no part, the costs.
        """
        network, task, trained, peak = self.train(job, logs=logs, progress=progress, resume=resume)
        trained_numbers = adapting.trained_numbers(network)
        switched_off = remedies.switched_off(self.old_task(), network)
        whole = adapting.settle(network, job.folder)
        measured = self.measure(job, network, task, progress)
        if not whole:  # no file of weights can stand for it: its base and the adapter's folder do
            (job.folder / "model.safetensors").unlink()
        records = {**curves(trained.log), "test": [], None: []}
        for split, found in measured.items():
            records.setdefault(split, []).extend(found)
        costs = [Record(metric="train_seconds", value=trained.seconds, unit="seconds", n=trained.steps)]
        if peak.bytes is not None:
            # On a CPU the process has one memory: what earlier models of the run left there is in the number.
            process = None if peak.method == "cuda" else PROCESS
            records[None].append(Record(metric="peak_memory", class_=process, value=peak.bytes, unit="bytes"))
        records[None] = [
            *costs,
            trained_numbers,
            *trained.records,
            *switched_off,
            *self.forgotten(network),
            *records[None],
        ]
        return records

    def forgotten(self, network: nn.Module) -> list[Record]:
        """What a trained network still knows of the run that it started from, where the recipe has one."""
        base = self.old_task()
        return [] if base is None else base.forgotten(network)

    def old_task(self) -> BaseTask | None:
        """The run that the models started from; None where the recipe names none."""
        if self._base is None:
            self._base = self.find_base()
        return self._base


class Served(torch.utils.data.Dataset):
    """A part that makes batches from lists of indices.

    Args:
        arrays: by the name in the batch, (n, ...).
        lanes: as in `data.packing.Rows`.
    """

    unit = "rows"

    def __init__(self, arrays: dict[str, np.ndarray], lanes: int = 0):
        self.arrays, self.lanes = arrays, lanes

    def __len__(self) -> int:
        return len(self.arrays["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        found = {name: torch.from_numpy(values[indices]) for name, values in self.arrays.items()}
        if "tokens" in found:
            found["tokens"] = found["tokens"].long()
        return found
