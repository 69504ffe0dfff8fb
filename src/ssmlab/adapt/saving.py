"""Adapters in a folder of their own: adapter.json says what they are, adapter.safetensors holds what was trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssmlab.adapt.applying import Adapted, Spec, _spec, apply, base_state
from ssmlab.adapt.methods.low_rank import attached
from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_json, write_tensors

CONFIG, WEIGHTS = "adapter.json", "adapter.safetensors"
_FORMAT = 1


def save(model: Any, folder: str | Path) -> Path:
    """Write the adapters of a model; each file gets a temporary name first.

    Args:
        model: of `adapt.apply`, or what that returned.
        folder: made where it is missing.
    Raises:
        ModelError: the model has no adapters of `adapt.apply`.
    """
    model = model.model if isinstance(model, Adapted) else model
    spec, folder = _spec(model), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _own(model).items()}
    content = {
        "format": _FORMAT,
        "spec": asdict(spec),
        "base": {"name": getattr(model, "registry_name", type(model).__name__), "digest": digest(model)},
    }
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, content)
    return folder


def load(model: Any, folder: str | Path, *, other_base: bool = False) -> Adapted:
    """Put saved adapters on their base model, in place.

    Args:
        model: with the weights that the adapters were trained on.
        other_base: take a model with other weights, of the same shapes.
    Raises:
        ModelError: a file is missing or damaged, or the adapters belong to another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} has no {' and no '.join(missing)}; give the folder that adapt.save wrote")
    try:
        content = json.loads((folder / CONFIG).read_text("utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} is damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ModelError(f"{folder / CONFIG} is of another format than {_FORMAT}; use the version that wrote it")
    try:
        spec = Spec(**content["spec"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG} is not what adapt.save writes: {error}") from None
    options = {key: value for key, value in asdict(spec).items() if key not in ("method", "alpha")}
    with torch.random.fork_rng():
        adapted = apply(model, spec.method, alpha=spec.alpha, **options)
    own = _own(model)
    problems = [f"{name} is missing" for name in own.keys() - tensors.keys()]
    problems += [f"{name} has no place in the model" for name in tensors.keys() - own.keys()]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, the model's is {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise ModelError(
            f"{folder} does not fit this model: {'; '.join(sorted(problems)[:4])} ({len(problems)} in all)"
        )
    if not other_base and digest(model) != content["base"]["digest"]:
        raise ModelError(
            f"{folder} was trained on other weights of {content['base']['name']}; load these, or say other_base=True"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return adapted


def digest(model: nn.Module) -> str:
    """A hash of the frozen weights, rounded to bfloat16: a model and its copy in half precision have the same."""
    found = hashlib.sha256()
    for name, tensor in sorted(base_state(model).items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:32]


def _own(model: nn.Module) -> dict[str, Tensor]:
    """What an adapter consists of: everything that is trained, which entries of a tensor are, and what is counted."""
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for module_name, module, tensor in attached(model):
        for i, update in enumerate(module.parametrizations[tensor]):
            if hasattr(update, "index"):
                prefix = f"{module_name}." if module_name else ""
                found[f"{prefix}parametrizations.{tensor}.{i}.index"] = update.index
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not hasattr(module, "ssmlab_handle"):
            found |= {f"{name}.{buffer}": value for buffer, value in module.named_buffers(recurse=False)}
    return found
