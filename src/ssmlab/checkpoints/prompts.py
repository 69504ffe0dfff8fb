"""What a language model has read, in a file: a long prompt is read once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_tensors
from ssmlab.generation.prompt_state import PromptState
from ssmlab.models.weights import one_line

FORMAT = "ssmlab reading 1"


def save_prompt_state(reading: PromptState, path: str | Path, model: Any, bound: dict[str, str] | None = None) -> Path:
    """Write a reading as safetensors, under a temporary name first.

    The header names the model, and holds how many tokens were read and hashes of them and of the model.

    Args:
        path: the file; its folder must be there.
        model: the one that read.
        bound: hashes of what the state belongs to besides, by what messages call it, such as "image" and "template";
            with "weights", that of the model too. It is loaded again where all are the same.
    """
    path = Path(path)
    tensors = {
        "logits": reading.logits,
        "lengths": torch.tensor([len(row) for row in reading.tokens]),
        "tokens": torch.tensor([token for row in reading.tokens for token in row]),
    }
    for i, layer in enumerate(reading.state):
        for (
            name,
            tensor,
        ) in layer._asdict().items():  # complex numbers as pairs, which every version of the format holds
            tensors[f"layers.{i}.{name}"] = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    header = {
        "format": FORMAT,
        "model": str(model.registry_name),
        "model_hash": (bound or {}).get("weights") or fingerprint(model),
        "tokens": str(len(tensors["tokens"])),
        "text_hash": _text_hash(tensors["lengths"], tensors["tokens"]),
    }
    header |= {f"bound {what}": value for what, value in (bound or {}).items()}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # layers may share
    header["values_hash"] = _values_hash(tensors)
    try:
        write_tensors(path, tensors, header)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be written: {one_line(error)}") from error
    return path


def load_prompt_state(path: str | Path, model: Any, bound: dict[str, str] | None = None) -> PromptState:
    """What `save_prompt_state` wrote, for the same model in the same precision, on the model's device.

    Args:
        bound: as for `save_prompt_state`, those that are known now; others of the file are not compared.
    Raises:
        ModelError: there is no such file, it is damaged or no reading, or another model wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no saved state {path}; --save-state writes one")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} is no saved state, or is damaged; --save-state FILE writes one") from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({one_line(error)}); --save-state FILE writes a saved state"
        ) from error
    if header.get("format") != FORMAT:
        raise ModelError(f"{path} is no saved state of this version ({FORMAT!r}); read the text again")
    if header["model_hash"] != ((bound or {}).get("weights") or fingerprint(model)):
        raise ModelError(
            f"{path} is of another model, or of other weights or another dtype of this one ({header['model']}); "
            "load it into the one that read the text"
        )
    for what, value in (bound or {}).items():
        if header.get(f"bound {what}") != value:
            raise ModelError(f"{path} is of another {what}; give the one that it was read with, or read it again")
    if header["text_hash"] != _text_hash(tensors["lengths"], tensors["tokens"]):
        raise ModelError(f"{path} is damaged, its tokens are not those of its header; read the text again")
    if header.get("values_hash", "") not in ("", _values_hash(tensors)):  # files of before have none
        raise ModelError(f"{path} is damaged, its values are not those that were written; read the text again")
    rows = tensors["tokens"].split(tensors["lengths"].tolist())
    device = model.backbone.embedding.weight.device
    with torch.no_grad():
        _, kinds = model(torch.zeros(1, 1, dtype=torch.int64, device=device))  # states of the types that they have
    states = []
    for i, kind in enumerate(kinds):
        found = {name: (tensors[f"layers.{i}.{name}"], own) for name, own in kind._asdict().items()}
        parts = (torch.view_as_complex(held) if own.is_complex() else held for held, own in found.values())
        states.append(type(kind)(*(part.to(device) for part in parts)))
    logits = tensors["logits"][:, : model.config.logits].to(device)
    return PromptState(tuple(tuple(row.tolist()) for row in rows), logits, tuple(states))


def fingerprint(model: Any) -> str:
    """A hash of the model's configuration, of its parameters' names, shapes and dtypes, and of some of their values."""
    config = {
        name: value
        for name, value in asdict(model.config).items()
        if name != "padded_logits" and not name.startswith("dropout_")  # no state depends on these
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        some = flat[:: max(1, len(flat) // 64)].cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(some.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text_hash(lengths: Tensor, tokens: Tensor) -> str:
    return hashlib.sha256(json.dumps([lengths.tolist(), tokens.tolist()]).encode()).hexdigest()


def _values_hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
