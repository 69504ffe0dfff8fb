"""Classification of sequences in a run: a model is built, trained (`tasks.shared.experiment`), tested and compared."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from ssmlab.checkpoints.folder import save_model
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.tasks.classify.experiment import compare
from ssmlab.tasks.classify_sequence.data import SequencePart, Sequences
from ssmlab.tasks.classify_sequence.recipe import LabelledRecipe
from ssmlab.tasks.classify_sequence.task import ClassifySequences
from ssmlab.tasks.language.experiment import build_language_model, copy_tokenizer
from ssmlab.tasks.language.recipe import SequenceModel
from ssmlab.tasks.language.rows import token_costs
from ssmlab.tasks.shared.calibration import KEY, calibration_of
from ssmlab.tasks.shared.experiment import Experiment, Records, compute_of
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.metrics import classification_metrics
from ssmlab.tasks.shared.outputs import write_predictions
from ssmlab.training.parameters import freeze
from ssmlab.training.predict import Outputs, predict


def build(recipe: LabelledRecipe, data: Sequences, model: SequenceModel, seed: int) -> nn.Module:
    """The layers of a language model with a head for the classes, and what is frozen in it."""
    set_seed(seed)
    language = build_language_model(model, "", data.vocab_size)
    network: Any = SequenceClassifier(language, len(data.classes), recipe.head.pool)
    config = recipe.training_of(model)
    network.backbone.gradient_checkpointing = config.gradient_checkpointing
    freeze(network, config.freeze)
    return network


def task_of(recipe: LabelledRecipe, data: Sequences, model: Any = None, network: Any = None) -> ClassifySequences:
    """Cross-entropy of the data's classes."""
    return ClassifySequences(classes=data.classes)


def parts(recipe: LabelledRecipe, data: Sequences, model: Any = None) -> tuple["PaddedSequences", "PaddedSequences"]:
    """Training and validation part."""
    length, random = recipe.data.length, recipe.data.crop == "random"
    return PaddedSequences(data.train, length, random=random), PaddedSequences(data.val, length)


def predict_part(
    recipe: LabelledRecipe, data: Sequences, job: Job, network: nn.Module, name: str, progress: Progress | None
) -> Outputs:
    """The logits of a part."""
    return predict(
        network,
        task_of(recipe, data),
        PaddedSequences(getattr(data, name), recipe.data.length),
        batch_size=recipe.evaluation.batch_size,
        compute=compute_of(recipe, job.model),
        title=f"{job.folder.name}: {name}",
        progress=progress,
    )


def validate(
    recipe: LabelledRecipe, data: Sequences, job: Job, network: nn.Module, task: ClassifySequences
) -> dict[str, float]:
    """The numbers of the validation part."""
    logits, _ = predict_part(recipe, data, job, network, "val", None)
    return {f"val_{name}": value for name, value in task.validation(logits, data.val.labels).items()}


def measure(
    recipe: LabelledRecipe,
    data: Sequences,
    job: Job,
    network: Any,
    task: ClassifySequences,
    progress: Progress,
) -> Records:
    """Save the model, predict the validation part and once the test part, and count what the model costs."""
    config = recipe.evaluation
    preprocess: dict[str, Any] = {
        "kind": recipe.data.kind,
        "tokenizer": data.tokenizer,
        "length": recipe.data.length,
        "rate": data.rate,
        "encoding": recipe.data.encoding,
        "classes": list(data.classes),
    }
    logits, _ = predict_part(recipe, data, job, network, "val", progress)
    preprocess[KEY] = calibration_of(logits, data.val.labels, task.classes, config.positive, config.sensitivity)
    save_model(network, job.folder, preprocess)
    copy_tokenizer(data.tokenizer, job.folder)
    how: dict[str, Any] = {"positive": config.positive, "resamples": config.bootstrap}
    records: Records = {"val": classification_metrics(logits, data.val.labels, task.classes, **how)}
    part = data.test
    logits, seconds = predict_part(recipe, data, job, network, "test", progress)
    records["test"] = classification_metrics(
        logits, part.labels, task.classes, groups=part.groups, calibration=preprocess[KEY], **how
    )
    more = {"group": part.groups or []}
    write_predictions(job.folder / "predictions.csv", part.ids, part.labels, logits, task.classes, more)
    batch = PaddedSequences(part, recipe.data.length).__getitems__(list(range(min(8, len(part.labels)))))
    records[None] = [
        Record(metric="test_seconds", value=seconds, unit="seconds", n=len(part.labels)),
        *token_costs(network, batch["tokens"], config, compute_of(recipe, job.model)),
    ]
    return records


class PaddedSequences(torch.utils.data.Dataset):
    """Sequences of a part, cut to a length and filled up to the longest of their batch.

    Args:
        random: cut out a stretch at random, another one in every epoch, instead of the start.
    """

    unit = "sequences"

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


EXPERIMENT = Experiment(
    build=build,
    task_of=task_of,
    parts=parts,
    validate=validate,
    measure=measure,
    compare=compare,
)
