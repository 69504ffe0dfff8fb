"""Adapters in a run: put on before training, proved to learn, merged behind it, and what was forgotten measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssmlab import adapt
from ssmlab.adapt.applying import mergeable
from ssmlab.adapt.lora import widen
from ssmlab.adapt.parts import head_modules
from ssmlab.errors import RecipeError
from ssmlab.models.language_model import NO_DECAY
from ssmlab.nn import ClassifierHead, Linear, QuantizedLinear, quantize_linear_
from ssmlab.reports.record import Record
from ssmlab.training.growing import growth, write_tokenizer
from ssmlab.training.schema_adapt import method_of

FOLDER = "adapter"
_OPTIONS = ("rank", "dropout", "dora", "rslora", "tokens", "states", "share")


def asked(recipe: Any, model: Any) -> bool:
    """Whether `put_on` has something to do."""
    return bool(method_of(recipe, model)) or recipe.adapt.gradient_checkpointing


def put_on(recipe: Any, model: Any, network: nn.Module, task: Any, batch: dict, precision: str) -> None:
    """Adapt a network before it is trained, in place, where the recipe has adapters for it, and check them.

    Args:
        batch: of the task, which the check computes.
        precision: in which the network will be trained.
    Raises:
        UserError: the method does not fit the network, or an adapter would learn nothing.
    """
    config, method = recipe.adapt, method_of(recipe, model)
    if config.gradient_checkpointing:
        checkpoint_blocks(network)
    if not method:
        return
    if recipe.training_of(model).layer_decay < 1:
        raise RecipeError("training.layer_decay asks for the layers of a model without adapters; leave it at 1.0")
    if recipe.training_of(model).freeze:
        raise RecipeError("training.freeze: with adapters everything else is frozen already; leave it empty")
    keep_base(network, config.base, precision)
    options = {name: getattr(config, name) for name in _OPTIONS} | growth(recipe, method, task)
    if config.new_tokens:
        from ssmlab.training.texts import tokenizer_of

        network.tokenizer_files = tokenizer_of(recipe)[0].files
    train = tuple(dict.fromkeys([*config.train, *new_head(network, task)]))
    adapt.apply(network, method, alpha=config.alpha or None, train=train, **options)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16" and config.base == "bf16"):
        adapt.check(network, batch, task=task).raise_for_inert()


def checkpoint_blocks(network: Any) -> None:
    """Keep the inputs of blocks alone.

    Raises:
        RecipeError: the network cannot do it.
    """
    inner = getattr(network, "backbone", None)
    if hasattr(inner, "gradient_checkpointing"):
        inner.gradient_checkpointing = True
    elif hasattr(network, "set_grad_checkpointing"):
        network.set_grad_checkpointing(True)
    else:
        raise RecipeError(f"adapt.gradient_checkpointing: {type(network).__name__} cannot compute its blocks again")


def keep_base(network: Any, base: str, precision: str) -> None:
    """The frozen weights in a precision; the scans' dynamics stay in float32, and so do vectors of vision models.

    Raises:
        RecipeError: 8 bits for a network without layers that can have them, or 16 for one that is fed with 32.
    """
    language = hasattr(getattr(network, "config", None), "vocab_size")
    if base == "bf16":
        if not language and precision != "bf16":
            raise RecipeError("adapt.base=bf16: images are float32; add training.precision=bf16")
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2] not in (*NO_DECAY, "A_logs") and (language or parameter.ndim > 1):
                parameter.data = parameter.data.to(torch.bfloat16)
    if base == "int8" and language:
        quantize_linear_(network, skip=("lm_head",) if hasattr(network, "lm_head") else ())
    elif base == "int8":
        heads = [id(m) for m in network.modules() if isinstance(m, ClassifierHead)] or map(id, head_modules(network))
        _quantize(network, set(heads))


def _quantize(network: nn.Module, heads: set[int]) -> None:
    """8 bits for the linear layers of a vision model but its head; those over the channels of a map stay.

    Raises:
        RecipeError: it has none.
    """
    found = [name for name, child in network.named_modules() if type(child) in (nn.Linear, Linear)]
    inside = [name for name, child in network.named_modules() if id(child) in heads]
    names = [n for n in found if not any(n == head or n.startswith(f"{head}.") for head in inside)]
    if not names:
        raise RecipeError(f"adapt.base=int8: {type(network).__name__} has no linear layers for it; use bf16")
    for name in names:
        network.set_submodule(name, QuantizedLinear.of(network.get_submodule(name)))


def new_head(network: Any, task: Any) -> list[str]:
    """The classifier of a network, by the names of its modules: its classes are those of these data."""
    if not hasattr(task, "classes"):
        return []
    names = {id(module): name for name, module in network.named_modules()}
    heads = [m for m in network.modules() if isinstance(m, ClassifierHead)] or head_modules(network)
    return [names[id(head)] for head in heads]


def settle(network: nn.Module, folder: Path) -> bool:
    """Save the adapters of a trained network, and merge them where that can be, in float32.

    Returns:
        whether the network is one without adapters now, which can be saved as such.
    """
    if not hasattr(network, "adaptation"):
        return True
    adapt.save(network, folder / FOLDER)
    for place in (folder, folder / FOLDER):
        write_tokenizer(getattr(network, "tokenizer_files", {}), place)
    network.float()
    whole = mergeable(network)
    if whole:
        adapt.merge(network)
    widen(network)  # no file of weights holds 8 bits
    return whole


def trained_numbers(network: nn.Module) -> Record:
    """How many numbers are trained."""
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Record(metric="trained_parameters", value=count, unit="count")


class BaseTask:
    """The run that the models started from: its model, and its task on its validation part.

    Args:
        folder: of the finished run.
    """

    def __init__(self, folder: Path):
        from ssmlab.training.kinds import load_data, work_of
        from ssmlab.training.recipe import load_recipe
        from ssmlab.training.run import jobs_of

        recipe = load_recipe(folder)
        self.work = work_of(recipe, load_data(recipe))
        self.job = jobs_of(recipe, folder)[0]
        self.score, self.unit = f"base_{self.work.decides}", "fraction" if self.work.higher else "bits"
        self.before = self._measured(self.network())

    def network(self) -> nn.Module:
        """Its model, as it was."""
        return load_any(self.job.folder)

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


def load_any(folder: Path) -> nn.Module:
    """The model in a run's folder, of whatever kind it is."""
    if '"image_size"' in (folder / "preprocess.json").read_text("utf-8"):
        from ssmlab.models import load_model

        return load_model(folder)[0]
    from ssmlab.checkpoints.files import load_language_model

    return load_language_model(folder)


def run_base(recipe: Any, output: Path, progress: Any, overwrite: bool = False) -> Path | None:
    """Train the model that a recipe starts from, or find it, and let the recipe's models start from it.

    Args:
        overwrite: train it again; otherwise a run that is there goes on, or is taken as it is.
    Returns:
        the folder of its run; None where the recipe names none.
    """
    config = recipe.base
    if not (config.recipe or config.weights):
        return None
    if config.weights:
        folder = Path(config.weights)
        if not (folder / "run.json").is_file():
            raise RecipeError(f"base.weights={folder}: no run.json there; give the folder of a finished run")
    else:
        from ssmlab.training.recipe import load_recipe
        from ssmlab.training.run import run_recipe

        name = f"{recipe.name}-base"
        own = [f"data.path={config.data}"] if config.data else []
        own += [f"name={name}", f"device={recipe.device}"]
        base = load_recipe(config.recipe, [*config.overrides, *own], smoke=config.smoke)
        folder = run_recipe(base, output=output, resume=not overwrite, overwrite=overwrite, progress=progress)
    models = sorted(file.parent for file in folder.glob("models/*/model.safetensors"))
    if not models:
        raise RecipeError(f"{folder} has no trained model to start from")
    config.weights = str(folder)
    source = json.loads((models[0] / "config.json").read_text("utf-8"))
    for model in recipe.models:
        if not (model.weights or getattr(model, "pretrained", False)):
            model.weights = str(models[0])
            picture = "image_size" in source.get("config", {})  # models of sequences have the options of their folder
            if picture and model.name == source.get("model") and not model.options:
                given = ("num_classes", "image_size", "in_chans")
                sizes = {**source["config"].get("options", {}), **source["config"]}
                model.options = {name: value for name, value in sizes.items() if name not in (*given, "options")}
    return folder
