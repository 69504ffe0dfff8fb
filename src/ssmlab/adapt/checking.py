"""Whether an adaptation happens: what of it receives gradient, how much it reaches, and whether merging changes it.

A layer that is wrapped but never called trains nothing, and nothing fails: a block that reads `layer.weight` and
multiplies by it itself sees the base's weight. The probe below runs the model once, forward and backward.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssmlab.adapt.applying import base_state
from ssmlab.adapt.methods.lora import Beside, widen, wrapped
from ssmlab.adapt.methods.low_rank import bake
from ssmlab.core.errors import ModelError
from ssmlab.models.registry import kind_of

_SHOWN = 8  # names in a message; more are reported by pattern
_PERTURBATION = 0.02  # of what starts at zero, which would hold back the gradient of its partner


@dataclass(frozen=True, kw_only=True)
class Row:
    """A tensor with an adapter.

    name: of the base's tensor, or of what is next to the weights.
    parameters: numbers that are trained for it.
    gradient: the smallest norm of the gradient among them; 0 where one received none, NaN where it is not finite.
    merged: the largest difference between the layer's merged and unmerged output, over the largest output; None where
        the update acts on the tensor itself, so that both are the same computation, or cannot be merged.
    """

    name: str
    parameters: int
    gradient: float
    merged: float | None

    @property
    def inert(self) -> bool:
        """Whether nothing will be learned here."""
        return not 0 < self.gradient < float("inf")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `check` found.

    rows: every adapted tensor.
    layers: layers of the model that training reaches, and all that have parameters.
    parameters: numbers in the base's tensors that training reaches, and all of them.
    trainable: numbers that are trained.
    merged: the largest difference between merged and unmerged outputs, over the largest output; None where it cannot
        be merged.
    limit: of `merged`, the square root of the rounding error of the coarsest dtype in the model: 3e-4 in float32, 0.09
        in bfloat16. Rounding adds up to some dozens of such errors, which stays far below; an adapter that part of
        the model does not see differs by a share of its update, which is far above.
    """

    rows: tuple[Row, ...]
    layers: tuple[int, int]
    parameters: tuple[int, int]
    trainable: int
    merged: float | None
    limit: float

    @property
    def inert(self) -> list[str]:
        """The tensors whose adapter learns nothing."""
        return [row.name for row in self.rows if row.inert]

    def raise_for_inert(self) -> None:
        """Stop where an adapter learns nothing, or where the merged model would be another one.

        Raises:
            ModelError: with the names, or with the difference.
        """
        if self.inert:
            raise ModelError(
                f"{len(self.inert)} of {len(self.rows)} adapters receive no gradient: {shortened(self.inert)}; the "
                "model's forward does not call these layers (for transformers' models see ssmlab.adapt.prepare), or "
                "the loss does not depend on them; leave them out of the method, or repair the forward"
            )
        apart = {row.name: row.merged for row in self.rows if row.merged is not None}
        apart |= {"the model": self.merged} if self.merged is not None else {}
        over = [f"{name} by {value:.1e}" for name, value in apart.items() if not value <= self.limit]
        if over:
            raise ModelError(
                f"merged and unmerged outputs differ: {', '.join(over[-_SHOWN:])} of the largest output, of which "
                f"rounding explains {self.limit:.0e} at most; a part of the forward sees the adapters and another one "
                "the base's weights: repair the forward, or leave these layers out of the method"
            )


def check(model: Any, batch: Any = None, *, task: Any = None, seed: int = 0) -> Report:
    """Run a model with adapters once, forward and backward, in training mode; it is left as it was.

    What starts at zero is set to small random values for this, and dropout is off.

    Args:
        model: of `adapt.apply`, or any other whose trained parameters require a gradient, PEFT's included.
        batch: what the model is called with (a tensor, a tuple, or a dict of keywords), or with `task` a batch of
            it; None makes one of random tokens or pixels.
        task: a `tasks.Task`, whose loss is taken; without it a random direction in the outputs.
        seed: of everything random.
    Returns:
        What was found; `Report.raise_for_inert` makes an error of it.
    Raises:
        ModelError: nothing is trained, or the model does not say what it reads and no batch is given.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    idle = {  # parameters of PEFT's adapters that somebody has switched off, which takes their gradient
        f"{name}.{own}": parameter
        for name, layer in wrapped(model)
        if layer.disable_adapters
        for own, parameter in layer.named_parameters()
        if own.partition(".")[0] in layer.adapter_layer_names and not parameter.requires_grad  # type: ignore[operator]
    }
    if not trained and not idle:
        raise ModelError(f"{type(model).__name__} has no adapters: no parameter requires a gradient")
    if batch is None:
        batch = example_batch(model, seed)
    with _as_it_was(model), torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in trained.values():
                p.copy_(torch.where(p == 0, _PERTURBATION * torch.randn_like(p), p))
        # Training mode, but what drops or counts is as in evaluation: a dropped branch is not an inert adapter
        model.train()
        for module in model.modules():
            if isinstance(module, _BatchNorm) or "Drop" in type(module).__name__:
                module.eval()
        norms, loss = dict.fromkeys([*idle, *trained], 0.0), _loss(model, batch, task)
        if loss.requires_grad:  # else nothing that is trained has a part in it
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            norms |= {n: g.float().norm().item() for n, g in zip(trained, gradients, strict=True) if g is not None}
        merged, layers = _merged_difference(model.eval(), batch, task)
    return _report(model, trained | idle, norms, merged, layers)


def example_batch(model: Any, seed: int = 0) -> Any:
    """Random input of the form that a model reads: tokens (2, 32), or two images in the dtype of its weights.

    Raises:
        ModelError: the model does not say.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = getattr(model, "config", None)
    first = next(model.parameters())
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary:
        tokens = torch.randint(0, vocabulary, (2, 32), generator=generator).to(first.device)
        return {"input_ids": tokens, "use_cache": False} if hasattr(config, "model_type") else tokens
    known, plan = getattr(model, "default_cfg", None), getattr(config, "plan", None)
    if plan is not None:  # of a segmentation network
        return torch.randn(2, config.in_chans, *plan.patch_size, generator=generator).to(first)
    if known is None:
        raise ModelError(f"{type(model).__name__} does not say what it reads; give check a batch")
    channels, side, _ = known["input_size"]
    side = getattr(config, "image_size", None) or side
    dtype = first.dtype if first.is_floating_point() else torch.float32
    return torch.randn(2, channels, side, side, generator=generator).to(first.device, dtype)


def shortened(names: list[str]) -> str:
    """Names for a message; many of them as patterns, with * for numbers, and their counts."""
    if len(names) <= _SHOWN:
        return ", ".join(names)
    patterns = Counter(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names)
    return ", ".join(f"{pattern} ({count})" if count > 1 else pattern for pattern, count in patterns.items())


def adapted_tensor(parameter: str) -> str:
    """The base's tensor that a trained parameter belongs to, by its name; its own where there is none."""
    name = re.sub(r"\.lora_.*$", ".weight", parameter)
    name = re.sub(r"(^|\.)parametrizations\.([^.]+)\.\d+\..*$", r"\1\2", name)
    return _plain(name)


def _plain(name: str) -> str:
    return re.sub(r"\.base_layer(?=\.|$)", "", name)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Parameters that are trained, buffers and modes are put back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    values = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in (*buffers, *values):
                tensor.copy_(value)
        for module, mode in modes:
            module.training = mode


def _loss(model: Any, batch: Any, task: Any) -> Tensor:
    if task is not None:
        return task.loss(model, batch)[0]
    found = _called(model, batch)
    outputs = found if isinstance(found, list) else [found]  # a list holds answers of several resolutions
    answers = [_first(output).float() for output in outputs]
    return torch.stack([(y * torch.randn_like(y)).mean() for y in answers]).sum()


def _called(model: Any, batch: Any) -> Any:
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, Tensor) and kind_of(getattr(model, "registry_name", None)) == "translation":
        return model(batch, model.read_source(batch))  # a translation of itself
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _first(found: Any) -> Tensor:
    """The first tensor of what a model returns; its logits where they have a name."""
    if isinstance(found, Tensor):
        return found
    if hasattr(found, "logits"):
        return found.logits
    return _first(next(iter(found.values() if isinstance(found, dict) else found)))


@torch.no_grad()
def _merged_difference(model: Any, batch: Any, task: Any) -> tuple[float | None, dict[str, float]]:
    """Of the whole model, and of every layer that is wrapped, by name."""
    if any(hasattr(module, "beside_active") and not isinstance(module, Beside) for module in model.modules()):
        return None, {}

    def run(model: nn.Module) -> Tensor:
        if not task:
            return _first(_called(model, batch))
        # What the model answers to a task's batch: the task's own outputs may count, and jump where logits hardly move
        found: list[Tensor] = []
        handle = model.register_forward_hook(lambda module, inputs, output: found.append(_first(output)))
        try:
            outputs = task.loss(model, batch)[1]
        finally:
            handle.remove()
        return found[0] if found else outputs

    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        calls[name] = inputs[0], output

    handles = [layer.register_forward_hook(partial(keep, name)) for name, layer in wrapped(model)]
    try:
        unmerged = run(model)
    finally:
        for handle in handles:
            handle.remove()
    merged = copy.deepcopy(model)
    bake(merged)
    for _, layer in wrapped(merged):  # PEFT's layers for parameters and tokens cannot be taken out one by one
        if not layer.merged:
            layer.merge()  # type: ignore[operator]
    widen(merged)
    layers = {_plain(name): _difference(merged.get_submodule(name)(x), y) for name, (x, y) in calls.items()}
    return _difference(run(merged), unmerged), layers


def _difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)).item()


def _report(model: Any, trained: dict, norms: dict[str, float], merged: float | None, layers: dict) -> Report:
    sizes: Counter[str] = Counter()
    smallest: dict[str, float] = {}
    of_parameters = {name: layer.parameter_name for name, layer in wrapped(model) if hasattr(layer, "parameter_name")}
    for name, parameter in trained.items():
        layer, lora, _ = name.partition(".lora_")
        own = lora and of_parameters.get(layer)  # PEFT's form for a parameter, in which a whole block is wrapped
        tensor = f"{_plain(layer)}.{own}" if own else adapted_tensor(name)
        sizes[tensor] += parameter.numel()
        smallest[tensor] = min(smallest.get(tensor, float("inf")), norms[name], key=lambda v: (v == v, v))
    rows = tuple(
        Row(name=name, parameters=sizes[name], gradient=smallest[name], merged=layers.get(name.rpartition(".")[0]))
        for name in sizes
    )
    reached = {row.name for row in rows if not row.inert}
    base = {name: t.numel() for name, t in base_state(model).items() if adapted_tensor(name) == name}
    base |= {name: p.numel() for name, p in trained.items() if adapted_tensor(name) == name}
    owners = {name.rpartition(".")[0] for name in base}
    # the limit is the square root of the largest rounding error among the dtypes that compute
    parameters = list(model.parameters())
    kinds, device = {p.dtype for p in parameters if p.is_floating_point()}, parameters[0].device.type
    if torch.is_autocast_enabled(device):
        kinds.add(torch.get_autocast_dtype(device))
    return Report(
        rows=rows,
        layers=(len(owners & {name.rpartition(".")[0] for name in reached}), len(owners)),
        parameters=(sum(base[name] for name in reached & base.keys()), sum(base.values())),
        trainable=sum(p.numel() for p in trained.values()),
        merged=merged,
        limit=max(torch.finfo(kind).eps for kind in kinds) ** 0.5,
    )
