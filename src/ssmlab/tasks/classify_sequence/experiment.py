"""Classification of sequences in a run: what `Work` asks, answered for sequences with labels."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from ssmlab.checkpoints.folder import save_model
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.tasks.classify.experiment import accuracy_differences
from ssmlab.tasks.classify_sequence.data import SequencePart
from ssmlab.tasks.classify_sequence.task import ClassifySequences
from ssmlab.tasks.language.experiment import build_language_model, copy_tokenizer
from ssmlab.tasks.language.recipe import SequenceModel
from ssmlab.tasks.language.rows import predict_rows, token_costs
from ssmlab.tasks.shared.metrics import classification_metrics
from ssmlab.tasks.shared.outputs import write_predictions
from ssmlab.tasks.shared.work import Work
from ssmlab.training.parameters import freeze


class LabellingWork(Work):
    """The work on `Sequences`."""

    def build(self, model: SequenceModel, seed: int) -> nn.Module:
        set_seed(seed)
        language = build_language_model(model, "", self.data.vocab_size)
        network = SequenceClassifier(language, len(self.data.classes), self.recipe.head.pool)
        config = self.recipe.training_of(model)
        network.backbone.gradient_checkpointing = config.gradient_checkpointing
        freeze(network, config.freeze)
        return network

    def task(self, model: SequenceModel, network: nn.Module) -> ClassifySequences:
        return ClassifySequences(classes=self.data.classes)

    def parts(self, model: SequenceModel) -> tuple["Padded", "Padded"]:
        config = self.recipe.data
        random = config.crop == "random"
        return Padded(self.data.train, config.length, random=random), Padded(self.data.val, config.length)

    def validate(self, network: nn.Module, task: ClassifySequences, job: Any) -> dict[str, float]:
        found, _ = self._predict(network, task, job, "val")
        return {f"val_{name}": value for name, value in task.validation(found, self.data.val.labels).items()}

    def measure(self, job: Any, network: nn.Module, task: ClassifySequences, progress: Progress):
        config, data = self.recipe.evaluation, self.recipe.data
        preprocess = {
            "kind": data.kind,
            "tokenizer": self.data.tokenizer,
            "length": data.length,
            "rate": self.data.rate,
            "encoding": data.encoding,
            "classes": list(self.data.classes),
        }
        save_model(network, job.folder, preprocess)
        copy_tokenizer(self.data.tokenizer, Path(job.folder))
        records: dict[str | None, list[Record]] = {}
        for name in ("val", "test"):
            part = getattr(self.data, name)
            found, seconds = self._predict(network, task, job, name, progress)
            records[name] = classification_metrics(found, part.labels, task.classes, positive=config.positive)
        write_predictions(job.folder / "predictions.csv", part.ids, part.labels, found, task.classes)
        batch = Padded(part, data.length).__getitems__(list(range(min(8, len(part.labels)))))
        records[None] = [
            Record(metric="test_seconds", value=seconds, unit="seconds", n=len(part.labels)),
            *token_costs(network, batch["tokens"], config, self.placement(job.model)),
        ]
        return records

    def _predict(self, network, task, job, name: str, progress: Progress | None = None):
        return predict_rows(
            network,
            task,
            Padded(getattr(self.data, name), self.recipe.data.length),
            batch_size=self.recipe.evaluation.batch_size,
            placement=self.placement(job.model),
            title=f"{job.folder.name}: {name}" if progress else "",
            progress=progress,
        )

    def compared(self, jobs: list[Any]) -> list[tuple[str, Record]]:
        return accuracy_differences(jobs, self.recipe.evaluation.bootstrap)


class Padded(torch.utils.data.Dataset):
    """Sequences of a part, cut to a length and filled up to the longest of their batch.

    Args:
        random: cut out a stretch at random, another one in every epoch, instead of the start.
    """

    lanes, unit = 0, "sequences"

    def __init__(self, part: SequencePart, length: int, *, random: bool = False):
        self.part, self.length, self.random, self.epoch = part, length, random, 0

    def __len__(self) -> int:
        return len(self.part.labels)

    def begin_epoch(self, number: int) -> None:
        """Which stretches are cut out depends on it."""
        self.epoch = number

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        rows = [self._cut(i) for i in indices]
        longest = max(map(len, rows))
        tokens, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        found = {"tokens": torch.from_numpy(tokens), "labels": torch.from_numpy(self.part.labels[indices])}
        return found if mask.all() else found | {"mask": torch.from_numpy(mask)}

    def _cut(self, index: int) -> np.ndarray:
        tokens = self.part.tokens[index]
        spare = len(tokens) - self.length
        begin = 0
        if self.random and spare > 0:
            begin = int(np.random.default_rng([self.epoch, index]).integers(spare + 1))
        return tokens[begin : begin + self.length]
