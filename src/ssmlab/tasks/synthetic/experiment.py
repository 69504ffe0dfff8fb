"""Synthetic tasks in a run: a model is built, trained (`tasks.shared.experiment`), tested and compared."""

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
from ssmlab.tasks.language.rows import FILE, row_differences, row_metrics, token_costs, write_rows
from ssmlab.tasks.shared.experiment import Experiment, Records, compute_of
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.synthetic.data import Problem
from ssmlab.tasks.synthetic.recipe import SyntheticRecipe
from ssmlab.tasks.synthetic.task import Recall
from ssmlab.training.dataset import BatchedDataset
from ssmlab.training.parameters import freeze
from ssmlab.training.predict import Outputs, predict

Part = tuple[np.ndarray, np.ndarray]  # tokens and labels


def build(recipe: SyntheticRecipe, data: Problem, model: SequenceModel, seed: int) -> nn.Module:
    """The network with its initial weights, and what is frozen in it."""
    set_seed(seed)
    network: Any = build_language_model(model, "", recipe.data.vocab)
    config = recipe.training_of(model)
    network.backbone.gradient_checkpointing = config.gradient_checkpointing
    freeze(network, config.freeze)
    return network


def task_of(recipe: SyntheticRecipe, data: Problem, model: SequenceModel | None = None, network: Any = None) -> Recall:
    """Cross-entropy of the answers."""
    config = recipe.training if model is None else recipe.training_of(model)
    return Recall(vocab_size=recipe.data.vocab, label_smoothing=config.label_smoothing)


def parts(recipe: SyntheticRecipe, data: Problem, model: Any) -> tuple["NewEveryEpoch", BatchedDataset]:
    """Training part, which grows as the model's training says, and validation part."""
    config = recipe.training_of(model)
    return NewEveryEpoch(replace(data, epochs=config.epochs, curriculum=config.curriculum)), dataset_of(data.val)


class NewEveryEpoch(BatchedDataset):
    """The training part of a problem, with new sequences in every epoch."""

    def __init__(self, problem: Problem):
        super().__init__({})
        self.problem = problem
        self.begin_epoch(problem.epochs - 1)  # the longest, which says what memory and time are needed

    def begin_epoch(self, number: int) -> None:
        """Make the sequences of an epoch."""
        self.arrays = dataset_of(self.problem.epoch(number)).arrays


def dataset_of(part: Part) -> BatchedDataset:
    """Sequences as batches have them."""
    return BatchedDataset({"tokens": part[0], "labels": part[1]})


def predict_part(
    recipe: SyntheticRecipe,
    data: Problem,
    job: Job,
    network: nn.Module,
    task: Recall,
    part: Part,
    name: str = "",
    progress: Progress | None = None,
) -> Outputs:
    """Sums of every row of a part."""
    # longer sequences in smaller batches: the memory of a batch stays what it is
    size = max(1, recipe.evaluation.batch_size * data.val[0].shape[1] // part[0].shape[1])
    return predict(
        network,
        task,
        dataset_of(part),
        batch_size=size,
        compute=compute_of(recipe, job.model),
        title=f"{job.folder.name}: {name}",
        progress=progress,
    )


def validate(recipe: SyntheticRecipe, data: Problem, job: Job, network: nn.Module, task: Recall) -> dict[str, float]:
    """The numbers of the validation part."""
    sums, _ = predict_part(recipe, data, job, network, task, data.val)
    return {f"val_{name}": value for name, value in task.validation(sums).items()}


def measure(
    recipe: SyntheticRecipe, data: Problem, job: Job, network: nn.Module, task: Recall, progress: Progress
) -> Records:
    """Save the model, predict the validation part and once the test part and other lengths, and count the costs."""
    save_language_model(network, job.folder)
    write_json(job.folder / "preprocess.json", recipe.data.model_dump())
    config = recipe.evaluation
    records: Records = {}
    for name in ("val", "test"):
        sums, seconds = predict_part(recipe, data, job, network, task, getattr(data, name), name, progress)
        records[name] = row_metrics(task, sums, config.bootstrap)
    write_rows(job.folder / FILE, sums)
    further = data.further and {recipe.data.length: data.test, **data.further}
    for length, part in further.items():
        found, _ = predict_part(recipe, data, job, network, task, part, f"length {length:,}", progress)
        accuracy = next(r for r in row_metrics(task, found, config.bootstrap) if r.metric == "accuracy")
        records["test"].append(replace(accuracy, class_=f"length {length}"))
    tokens = torch.from_numpy(data.test[0][:64].astype(np.int64))
    records[None] = [
        Record(metric="test_seconds", value=seconds, unit="seconds", n=len(sums)),
        *token_costs(network, tokens, config, compute_of(recipe, job.model)),
    ]
    return records


def compare(recipe: SyntheticRecipe, data: Problem, jobs: list[Job]) -> list[tuple[str, Record]]:
    """The difference of every two models' accuracies, with its paired interval over rows and seeds."""
    return row_differences(jobs, task_of(recipe, data), recipe.evaluation.bootstrap)


EXPERIMENT = Experiment(
    build=build,
    task_of=task_of,
    parts=parts,
    validate=validate,
    measure=measure,
    compare=compare,
)
