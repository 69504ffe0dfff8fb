"""Synthetic tasks in a run: what `Work` asks, answered for generated sequences."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from ssmlab.checkpoints.files import save_language_model
from ssmlab.core.files import write_json
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.tasks.language.experiment import build_language_model
from ssmlab.tasks.language.recipe import SequenceModel
from ssmlab.tasks.language.rows import FILE, predict_rows, row_differences, row_metrics, token_costs, write_rows
from ssmlab.tasks.shared.work import BatchedDataset, Work
from ssmlab.tasks.synthetic.data import Problem
from ssmlab.tasks.synthetic.task import Recall
from ssmlab.training.parameters import freeze


class RecallWork(Work):
    """The work on a `Problem`."""

    def build(self, model: SequenceModel, seed: int) -> nn.Module:
        set_seed(seed)
        network = build_language_model(model, "", self.recipe.data.vocab)
        config = self.recipe.training_of(model)
        network.backbone.gradient_checkpointing = config.gradient_checkpointing
        freeze(network, config.freeze)
        return network

    def task(self, model: SequenceModel | None, network: nn.Module | None) -> Recall:
        config = self.recipe.training if model is None else self.recipe.training_of(model)
        return Recall(vocab_size=self.recipe.data.vocab, label_smoothing=config.label_smoothing)

    def parts(self, model: SequenceModel | None) -> tuple[BatchedDataset, BatchedDataset]:
        return Epochs(self.data), _served(self.data.val)

    def validate(self, network: nn.Module, task: Recall, job: Any) -> dict[str, float]:
        found, _ = self._predict(network, task, job, self.data.val)
        return {f"val_{name}": value for name, value in task.validation(found).items()}

    def measure(self, job: Any, network: nn.Module, task: Recall, progress: Progress):
        save_language_model(network, job.folder)
        write_json(job.folder / "preprocess.json", self.recipe.data.model_dump())
        config = self.recipe.evaluation
        records: dict[str | None, list[Record]] = {}
        for name in ("val", "test"):
            sums, seconds = self._predict(network, task, job, getattr(self.data, name), name, progress)
            records[name] = row_metrics(task, sums, config.bootstrap)
        write_rows(job.folder / FILE, sums)
        further = self.data.further and {self.recipe.data.length: self.data.test, **self.data.further}
        for length, part in further.items():
            found, _ = self._predict(network, task, job, part, f"length {length:,}", progress)
            accuracy = next(r for r in row_metrics(task, found, config.bootstrap) if r.metric == "accuracy")
            records["test"].append(replace(accuracy, class_=f"length {length}"))
        tokens = torch.from_numpy(self.data.test[0][:64].astype(np.int64))
        records[None] = [
            Record(metric="test_seconds", value=seconds, unit="seconds", n=len(sums)),
            *token_costs(network, tokens, config, self.compute(job.model)),
        ]
        return records

    def _predict(self, network, task, job, part, name: str = "", progress: Progress | None = None):
        # longer sequences in smaller batches: the memory of a batch stays what it is
        size = max(1, self.recipe.evaluation.batch_size * self.data.val[0].shape[1] // part[0].shape[1])
        return predict_rows(
            network,
            task,
            _served(part),
            batch_size=size,
            compute=self.compute(job.model),
            title=f"{job.folder.name}: {name}" if progress else "",
            progress=progress,
        )

    def compared(self, jobs: list[Any]) -> list[tuple[str, Record]]:
        return row_differences(jobs, self.task(None, None), self.recipe.evaluation.bootstrap)


class Epochs(BatchedDataset):
    """The training part of a problem, which the trainer asks for an epoch at a time."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.begin_epoch(problem.epochs - 1)  # the longest, which says what memory and time are needed

    def begin_epoch(self, number: int) -> None:
        """Make the sequences of an epoch."""
        tokens, labels = self.problem.epoch(number)
        super().__init__({"tokens": tokens, "labels": labels})


def _served(part: tuple[np.ndarray, np.ndarray]) -> BatchedDataset:
    return BatchedDataset({"tokens": part[0], "labels": part[1]})
