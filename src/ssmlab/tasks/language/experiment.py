"""Language models in a run: what `Work` asks, answered for rows of tokens."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.core.errors import ModelError, RecipeError
from ssmlab.core.files import write_atomically, write_json
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.data.text import chat_template
from ssmlab.data.text.chat_template import ChatTemplate
from ssmlab.data.text.packing import Rows
from ssmlab.data.text.tokenizer_files import VOCABULARY, merged
from ssmlab.data.text.tokenizers import FILES
from ssmlab.models import create_model
from ssmlab.tasks.language.new_tokens import base_vocabulary
from ssmlab.tasks.language.recipe import SequenceModel
from ssmlab.tasks.language.rows import FILE, predict_rows, row_differences, row_metrics, token_costs, write_rows
from ssmlab.tasks.language.task import Language
from ssmlab.tasks.shared.work import Served, Work
from ssmlab.training.parameters import freeze


class LanguageWork(Work):
    """The work on `Texts`."""

    higher = False

    @property
    def decides(self) -> str:
        return f"bits_per_{self.data.unit}"

    def build(self, model: SequenceModel, seed: int) -> nn.Module:
        set_seed(seed)
        size = base_vocabulary(self.recipe, model, self.data.vocab_size)
        network = build_language_model(model, getattr(self.recipe, "model", ""), size)
        config = self.recipe.training_of(model)
        network.backbone.gradient_checkpointing = config.gradient_checkpointing
        if config.carry_state and _grows(network):
            raise RecipeError(
                f"training.carry_state: the state of {model.label} grows with the text, as attention's does; compare "
                "recurrent models, or leave it false"
            )
        freeze(network, config.freeze)
        return network

    def task(self, model: SequenceModel | None, network: nn.Module | None, part: str = "val") -> Language:
        """Bits count for the units of a part: where tokens are no bytes, parts differ a little."""
        asked = int((self.data.rows[part].labels() != -100).sum())
        config = self.recipe.training if model is None else self.recipe.training_of(model)
        return Language(
            vocab_size=self.data.vocab_size,
            unit=self.data.unit,
            tokens_per_unit=asked / self.data.units[part],
            carry=config.carry_state,
        )

    def parts(self, model: SequenceModel | None) -> tuple[Served, Served]:
        return served(self.data.rows["train"]), served(self.data.rows["val"])

    def validate(self, network: nn.Module, task: Language, job: Any) -> dict[str, float]:
        return {f"val_{name}": value for name, value in task.validation(self._predict(network, job, "val")[0]).items()}

    def measure(self, job: Any, network: nn.Module, task: Language, progress: Progress):
        self.save(network, job.folder)
        config = self.recipe.evaluation
        records: dict[str | None, list[Record]] = {}
        for name in ("val", "test"):
            sums, seconds = self._predict(network, job, name, progress)
            records[name] = row_metrics(self.task(job.model, network, name), sums, config.bootstrap)
        write_rows(job.folder / FILE, sums)
        tokens = torch.from_numpy(self.data.rows["test"].tokens[:64, :-1].astype(np.int64))
        records[None] = [
            Record(metric="test_seconds", value=seconds, unit="seconds", n=len(sums)),
            *token_costs(network, tokens, config, self.placement(job.model)),
        ]
        return records

    def _predict(self, network, job, name: str, progress: Progress | None = None):
        return predict_rows(
            network,
            self.task(job.model, network, name),
            served(self.data.rows[name]),
            batch_size=self.recipe.evaluation.batch_size,
            placement=self.placement(job.model),
            title=f"{job.folder.name}: {name}" if progress else "",
            progress=progress,
        )

    def compared(self, jobs: list[Any]) -> list[tuple[str, Record]]:
        return row_differences(jobs, self.task(None, None, "test"), self.recipe.evaluation.bootstrap)

    def save(self, network: nn.Module, folder: Path) -> None:
        """The model, its tokenizer, and what its tokens are."""
        save_language_model(network, folder)
        config, template = self.recipe.data, self.data.template
        copy_tokenizer(self.data.tokenizer, folder, chat=template is None)
        tokens = {"kind": config.kind, "tokenizer": self.data.tokenizer, "mark": self.data.mark}
        if isinstance(template, ChatTemplate):
            write_atomically(folder / chat_template.FILE, template.text)
        elif template is not None:
            tokens["template"] = template
        write_json(folder / "preprocess.json", tokens | {"length": config.length})


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


def served(rows: Rows) -> Served:
    """Rows as torch serves them."""
    arrays = {"tokens": rows.tokens[:, :-1], "labels": rows.labels()}
    documents = rows.documents[:, :-1]
    if (documents != documents[:, :1]).any():
        arrays["seq_idx"] = documents
    if rows.lanes:
        arrays["fresh"] = rows.fresh
    return Served({name: np.ascontiguousarray(values) for name, values in arrays.items()}, rows.lanes)


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


def _grows(network: nn.Module) -> bool:
    with torch.no_grad():
        tokens = torch.zeros(1, 2, dtype=torch.int64)
        one, two = (network.eval()(tokens[:, :count])[1] for count in (1, 2))
    network.train()
    sizes = [sum(t.numel() for layer in state for t in layer) for state in (one, two)]
    return sizes[0] != sizes[1]
