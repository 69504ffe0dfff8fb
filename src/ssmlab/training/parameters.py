"""Which parameters of a model are trained, which of them decay, at which learning rate and by which optimizer."""

from collections.abc import Callable
from fnmatch import filter as matching
from typing import Any

import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import UserError
from ssmlab.nn import ClassifierHead
from ssmlab.training.config import FitConfig

BACKBONE = "backbone"


def decayed(model: nn.Module) -> list[str]:
    """Parameters that weight decay applies to: matrices and filters, not vectors (norms, biases, D), and none that the
    model's `no_weight_decay()` names, as timm's models do and ours with the scan's A."""
    spared = _spared(model)
    return [name for name, parameter in model.named_parameters() if parameter.ndim > 1 and name not in spared]


def _spared(model) -> set[str]:
    return set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()


def layer_groups(model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups for an optimizer with a learning rate that falls by a factor from each layer to the one before it.

    Layer i of L learns at learning_rate * layer_decay^(L - 1 - i), the classifier at learning_rate. Source: BEiT (Bao
    et al. 2021, arXiv:2106.08254), by timm's `param_groups_layer_decay`.

    Raises:
        UserError: the model does not say, by `group_matcher`, what its layers are.
    """
    from timm.optim import param_groups_layer_decay

    if not hasattr(model, "group_matcher"):
        raise UserError(
            f"training.layer_decay needs to know the layers: {_name(model)} has no group_matcher(), as timm's models "
            "have; leave it at 1.0"
        )
    groups = param_groups_layer_decay(
        model, weight_decay=weight_decay, no_weight_decay_list=_spared(model), layer_decay=layer_decay
    )
    return [{**group, "lr": learning_rate * group["lr_scale"]} for group in groups]


def optimizer_of(config: FitConfig, device: ComputeConfig) -> tuple[Callable, dict[str, Any]]:
    """The class of the optimizer and its options."""
    if config.optimizer == "sgd":  # as nnU-Net has it
        return torch.optim.SGD, {
            "lr": config.learning_rate, "momentum": config.momentum, "nesterov": config.momentum > 0
        }  # fmt: skip
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    betas = (0.9, config.adam_beta2)
    return kind, {"lr": config.learning_rate, "betas": betas, "fused": device.device in ("cpu", "cuda")}


def part_groups(model: nn.Module, config: FitConfig) -> list[dict]:
    """Groups for an optimizer with a learning rate for each part of `config.rates`, with and without weight decay.

    Raises:
        UserError: a part names nothing.
    """
    names, groups = set(decayed(model)), dict[tuple[float, bool], list[nn.Parameter]]()
    used = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = next((part for part in config.rates if name == part or name.startswith(f"{part}.")), None)
        used.add(part)
        rate = config.learning_rate if part is None else config.rates[part]
        groups.setdefault((rate, name in names), []).append(parameter)
    unused = [part for part in config.rates if part not in used]
    if unused:
        parts = ", ".join(name for name, _ in model.named_children())
        raise UserError(f"training.rates: nothing of {unused[0]!r} is trained in {_name(model)}; its parts are {parts}")
    decay = config.weight_decay
    return [
        {"params": found, "lr": rate, "weight_decay": decay if decays else 0.0}
        for (rate, decays), found in groups.items()
    ]


def optimizer_groups(network: nn.Module, config: FitConfig) -> list[dict]:
    """The groups of an optimizer whose learning rate depends on the layer or the part; the first one has the rate of
    the log.

    Raises:
        UserError: both are asked for, or a layer or part is not there.
    """
    if config.rates and config.layer_decay < 1:
        raise UserError("training.rates and training.layer_decay both say learning rates; give one of them")
    if config.rates:
        return sorted(part_groups(network, config), key=lambda group: -group["lr"])
    groups = layer_groups(network, config.learning_rate, config.weight_decay, config.layer_decay)
    return sorted(groups, key=lambda group: -group["lr"])


def freeze(model: nn.Module, patterns: list[str]) -> None:
    """Take parameters out of the training.

    Args:
        patterns: "backbone" for everything but the classifier (with the hidden layer of ours), which leaves a linear
            probe; or names of parameters or modules, with the wildcards * and ?, such as "layer1" or "*.norm.*".
    Raises:
        UserError: a pattern names nothing, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        named = [*matching(parameters, pattern), *matching(parameters, f"{pattern}.*")]
        found = _backbone(model) if pattern == BACKBONE else named
        if not found:
            parts = ", ".join(name for name, _ in model.named_children())
            raise UserError(
                f"training.freeze: {_name(model)} has no parameter {pattern!r}; its parts are {parts}, and "
                f"{BACKBONE!r} is everything but the classifier"
            )
        for name in found:
            parameters[name].requires_grad = False
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"training.freeze={patterns} leaves nothing of {_name(model)} to train")


def _backbone(model):
    head = getattr(model, "head", None)
    if not isinstance(head, ClassifierHead):
        head = model.get_classifier() if hasattr(model, "get_classifier") else None
    heads = head if isinstance(head, (tuple, list)) else [head]  # timm's distilled models have two
    kept = {id(parameter) for part in heads if part is not None for parameter in part.parameters()}
    return [name for name, parameter in model.named_parameters() if kept and id(parameter) not in kept]


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The outermost modules whose parameters are all frozen: their batch norms and dropouts stay as in evaluation."""
    found = []
    for module in model.children():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            found.append(module)
        else:
            found += frozen_modules(module)
    return found


def _name(model):
    return getattr(model, "registry_name", type(model).__name__)
