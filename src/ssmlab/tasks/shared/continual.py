"""What a recipe says against forgetting, around a training: terms of the loss, or another parametrisation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab import adapt
from ssmlab.adapt.forgetting.reward import Reward, load_score
from ssmlab.adapt.forgetting.terms import (
    EWC,
    Distillation,
    NextToken,
    Rehearsal,
    Remembering,
    SwappedHeads,
    View,
    fisher_diagonal,
)
from ssmlab.adapt.methods.orthogonal import merge_orthogonal, tune_orthogonally
from ssmlab.core.errors import RecipeError
from ssmlab.core.record import Record
from ssmlab.tasks.shared.adapting import head_of, new_head
from ssmlab.tasks.shared.base_task import BaseTask
from ssmlab.tasks.shared.tables import ContinualConfig
from ssmlab.training.dataset import batch_of
from ssmlab.training.task import Task

FISHER_BATCH = 8


def continual_of(model: Any) -> ContinualConfig:
    """What a model of a recipe says; models of some tasks have none."""
    return getattr(model, "remedy", ContinualConfig())


@contextmanager
def remembering(base: BaseTask | None, model: Any, network: nn.Module, task: Task, device: str) -> Iterator[Task]:
    """The task to train with: that of the new data, with the model's remedy.

    With orthogonal tuning the network is another one in the meantime, and has its own layers again afterwards.

    Args:
        base: the run that the network started from; None where the recipe has none.
        device: where the network is trained.
    Raises:
        RecipeError: a remedy without a base.
    """
    config = continual_of(model)
    if config.method == "none":
        yield task
        return
    if base is None:
        raise RecipeError(f"{model.label}: remedy.method={config.method} needs the old task; give base.recipe")
    if config.method == "osf":
        if hasattr(network, "adaptation"):
            raise RecipeError(f"{model.label}: remedy.method=osf trains the weights themselves; leave adapters out")
        tune_orthogonally(network, share=config.share, train=head_of(network, task))
        yield task
        merge_orthogonal(network)
        return
    network.to(device)
    yield Remembering(task, [_term(name, config, base, network, device) for name in config.method.split("+")])


def _term(method: str, config: ContinualConfig, base: BaseTask, network: nn.Module, device: str) -> Any:
    old = base.network().to(device).eval().requires_grad_(False)
    view, part, task = old_view(network, old).to(device), base.train_part(), base.task(old)
    if method == "rehearsal":
        return Rehearsal(view, task, part, config.share)
    source = part if config.inputs == "old" else None

    def inputs(batch: dict[str, Tensor]):
        """From a batch, of either task, what a view takes: images as the old task normalises them, or tokens."""
        if hasattr(task, "prepare"):
            return (task.prepare(batch["images"]),), {}, None
        named = {name: batch[name] for name in ("mask", "seq_idx") if name in batch}
        return (batch["tokens"],), named, batch.get("mask")

    if method == "distillation":
        return Distillation(view, old_view(old, old), inputs, config.weight, config.temperature, source)
    if method == "reward":
        if not hasattr(task, "vocab_size"):
            raise RecipeError("remedy.method=reward is for what a language model writes; use distillation")
        return Reward(
            view,
            old_view(old, old),
            inputs,
            task.vocab_size,
            score=load_score(config.reward) if config.reward else None,
            weight=config.weight,
            beta=config.beta,
            rows=config.rows,
            prompt=config.prompt,
            tokens=config.tokens,
            part=source,
        )
    anchor = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    rows = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[: config.examples].tolist()
    batches = (
        {name: tensor.to(device) for name, tensor in batch_of(part, rows[begin : begin + FISHER_BATCH], task).items()}
        for begin in range(0, len(rows), FISHER_BATCH)
    )
    return EWC(fisher_diagonal(view, batches, inputs), anchor, config.weight)


def old_view(network: Any, base: Any) -> View:
    """A network as the old task sees it: with the heads of the base, but a language model with its own."""
    if hasattr(base, "lm_head"):
        return SwappedHeads(network, {}) if hasattr(network, "lm_head") else NextToken(network, base.lm_head)
    return SwappedHeads(network, {name: base.get_submodule(name) for name in new_head(base)})


def switched_off(base: BaseTask | None, network: Any) -> list[Record]:
    """What is forgotten with adapters switched off at the old task: nothing, if the base has stayed as it was."""
    if base is None or not hasattr(network, "adaptation"):
        return []
    with adapt.disabled(network):
        return [
            Record(metric=r.metric, value=r.value, unit=r.unit, n=r.n, class_="adapters off")
            for r in base.forgotten(network)
        ]
