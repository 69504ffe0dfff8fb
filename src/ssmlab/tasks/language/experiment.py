"""Language models in a run: one is built, trained (`tasks.shared.experiment`), tested and compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import set_seed

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.core.errors import ModelError, RecipeError
from ssmlab.core.files import write_atomically, write_json
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.data.stream.texts import joined
from ssmlab.data.text import chat_template
from ssmlab.data.text.chat_template import ChatTemplate
from ssmlab.data.text.packing import Rows
from ssmlab.data.text.tokenizer_files import VOCABULARY, merged
from ssmlab.data.text.tokenizers import FILES
from ssmlab.models import create_model
from ssmlab.tasks.language.new_tokens import base_vocabulary
from ssmlab.tasks.language.recipe import LanguageRecipe, SequenceModel
from ssmlab.tasks.language.rows import FILE, row_differences, row_metrics, token_costs, write_rows
from ssmlab.tasks.language.task import IGNORE, Language
from ssmlab.tasks.language.texts import Texts
from ssmlab.tasks.shared.experiment import Experiment, Records, compute_of
from ssmlab.tasks.shared.job import Job
from ssmlab.training.dataset import BatchedDataset, StreamDataset
from ssmlab.training.parameters import freeze
from ssmlab.training.predict import Outputs, predict


def build(recipe: LanguageRecipe, data: Texts, model: SequenceModel, seed: int) -> nn.Module:
    """The network with its initial weights, and what is frozen in it.

    Raises:
        RecipeError: states are to be handed on, and the network's grow with the text.
    """
    set_seed(seed)
    size = base_vocabulary(recipe, model, data.vocab_size)
    network: Any = build_language_model(model, recipe.model, size)
    config = recipe.training_of(model)
    network.backbone.gradient_checkpointing = config.gradient_checkpointing
    if config.carry_state:
        with torch.no_grad():
            tokens = torch.zeros(1, 2, dtype=torch.int64)
            states = [network.eval()(tokens[:, :count])[1] for count in (1, 2)]
        network.train()
        one, two = (sum(t.numel() for layer in state for t in layer) for state in states)
        if one != two:
            raise RecipeError(
                f"training.carry_state: the state of {model.label} grows with the text, as attention's does; compare "
                "recurrent models, or leave it false"
            )
    freeze(network, config.freeze)
    return network


def task_of(recipe: LanguageRecipe, data: Texts, model: SequenceModel | None = None, network: Any = None) -> Language:
    """The task of the validation part."""
    return task_of_part(recipe, data, "val", model)


def task_of_part(recipe: LanguageRecipe, data: Texts, part: str, model: SequenceModel | None = None) -> Language:
    """Bits count for the units of a part: where tokens are no bytes, parts differ a little."""
    count = int((data.rows[part].labels() != IGNORE).sum())
    config = recipe.training if model is None else recipe.training_of(model)
    return Language(
        vocab_size=data.vocab_size,
        unit=data.unit,
        tokens_per_unit=count / data.units[part],
        stateful=config.carry_state,
    )


def parts(recipe: LanguageRecipe, data: Texts, model: Any = None) -> tuple[Dataset, BatchedDataset]:
    """Training and validation part."""
    val = dataset_of(data.rows["val"])
    if data.train is None:
        return dataset_of(data.rows["train"]), val
    size = recipe.training_of(model).batch_size if model else recipe.training.batch_size
    return StreamDataset(data.train.open(), data.train.items, size, batch_of_rows, "rows"), val


def batch_of_rows(rows: list[Rows]) -> dict[str, torch.Tensor]:
    """Single rows as a batch."""
    return dataset_of(joined(rows)).__getitems__(list(range(len(rows))))


def dataset_of(rows: Rows) -> BatchedDataset:
    """Rows as batches have them."""
    arrays = {"tokens": rows.tokens[:, :-1], "labels": rows.labels()}
    documents = rows.documents[:, :-1]
    if (documents != documents[:, :1]).any():
        arrays["seq_idx"] = documents
    if rows.streams:
        arrays["fresh"] = rows.fresh
    return BatchedDataset({name: np.ascontiguousarray(values) for name, values in arrays.items()}, rows.streams)


def predict_part(
    recipe: LanguageRecipe, data: Texts, job: Job, network: nn.Module, name: str, progress: Progress | None
) -> Outputs:
    """Sums of every row of a part."""
    return predict(
        network,
        task_of_part(recipe, data, name, job.model),
        dataset_of(data.rows[name]),
        batch_size=recipe.evaluation.batch_size,
        compute=compute_of(recipe, job.model),
        title=f"{job.folder.name}: {name}",
        progress=progress,
    )


def validate(recipe: LanguageRecipe, data: Texts, job: Job, network: nn.Module, task: Language) -> dict[str, float]:
    """The numbers of the validation part."""
    sums, _ = predict_part(recipe, data, job, network, "val", None)
    return {f"val_{name}": value for name, value in task.validation(sums).items()}


def measure(
    recipe: LanguageRecipe, data: Texts, job: Job, network: nn.Module, task: Language, progress: Progress
) -> Records:
    """Save the model, predict the validation part and once the test part, and count what the model costs."""
    save(recipe, data, network, job.folder)
    config = recipe.evaluation
    records: Records = {}
    for name in ("val", "test"):
        sums, seconds = predict_part(recipe, data, job, network, name, progress)
        records[name] = row_metrics(task_of_part(recipe, data, name, job.model), sums, config.bootstrap)
    write_rows(job.folder / FILE, sums)
    tokens = torch.from_numpy(data.rows["test"].tokens[:64, :-1].astype(np.int64))
    records[None] = [
        Record(metric="test_seconds", value=seconds, unit="seconds", n=len(sums)),
        *token_costs(network, tokens, config, compute_of(recipe, job.model)),
    ]
    return records


def compare(recipe: LanguageRecipe, data: Texts, jobs: list[Job]) -> list[tuple[str, Record]]:
    """The difference of every two models in bits, with its paired interval over rows and seeds."""
    return row_differences(jobs, task_of_part(recipe, data, "test"), recipe.evaluation.bootstrap)


def save(recipe: LanguageRecipe, data: Texts, network: nn.Module, folder: Path) -> None:
    """The model, its tokenizer, and what its tokens are."""
    save_language_model(network, folder)
    config, template = recipe.data, data.template
    copy_tokenizer(data.tokenizer, folder, chat=template is None)
    tokens = {"kind": config.kind, "tokenizer": data.tokenizer, "mark": data.separator_id}
    if isinstance(template, ChatTemplate):
        write_atomically(folder / chat_template.FILE, template.text)
    elif template is not None:
        tokens["template"] = template
    write_json(
        folder / "preprocess.json", tokens | {"length": config.length} | ({"rate": data.rate} if data.rate else {})
    )


def build_language_model(model: SequenceModel, start: str, vocab_size: int) -> nn.Module:
    """A language model with initial weights, or with those of a folder.

    Args:
        start: a folder that models without weights of their own start from, or "".
    Raises:
        ModelError: the folder's model is another one than named, or has fewer tokens than the data.
    """
    folder = model.name if model.pretrained else model.weights or start
    if not folder:
        return create_model(model.name, vocab_size=vocab_size, **model.options)
    network = load_language_model(folder)
    if network.config.padded_vocab < vocab_size:
        raise ModelError(
            f"{folder} has {network.config.padded_vocab} tokens, the data {vocab_size}; use the model's own tokenizer"
        )
    if model.options:
        raise ModelError(
            f"{model.label} has the options of {folder}; those of the recipe are others: take them away with "
            "models.N.options={} (N counts from 0)"
        )
    return network


def copy_tokenizer(source: str, folder: Path, *, chat: bool = True) -> None:
    """The tokenizer's file next to the model, under the name by which it is found there.

    Args:
        chat: its chat template too, which the model was not trained on if it was trained on chats in another form.
    """
    path = Path(source)
    if not path.is_file():
        return
    if path.name == VOCABULARY:
        write_atomically(folder / FILES[0], merged(path))
    else:
        shutil.copyfile(path, folder / FILES[0 if path.suffix == ".json" else 1])
    config = path.parent / chat_template.CONFIG
    if config.is_file():
        values = json.loads(config.read_text("utf-8"))
        if not chat:
            values.pop("chat_template", None)
        write_atomically(folder / config.name, json.dumps(values) + "\n")
    template = path.parent / chat_template.FILE
    if chat and template.is_file():
        shutil.copyfile(template, folder / template.name)


EXPERIMENT = Experiment(
    build=build,
    task_of=task_of,
    parts=parts,
    validate=validate,
    measure=measure,
    compare=compare,
    primary_metric=lambda data: f"bits_per_{data.unit}",
    higher_is_better=False,
)
