"""Reading weights from files and fitting them to a network, with all disagreements reported together."""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ssmlab.errors import ModelError

log = logging.getLogger(__name__)
LFS = b"version https://git-lfs"
WRAPPERS = ("state_dict", "model", "model_state_dict")


@cache
def warn_once(message: str) -> None:
    """Say something about a file, which a run of several models and seeds reads many times."""
    log.warning("%s", message)


def read_state_dict(path: str | Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file, or from a .pth file without running code that it holds.

    Args:
        mapped: values stay in the file until they are looked at (.safetensors always, a .pth of torch 1.6 or later).
    Raises:
        ModelError: there is no such file, or it holds no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}; give a .safetensors or .pth file")
    with open(path, "rb") as file:
        if file.read(len(LFS)) == LFS:
            raise ModelError(f"{path} is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is not a safetensors file: {one_line(error)}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, struct.error) as error:
        raise ModelError(
            f"{path} holds more than tensors, or is no file of PyTorch ({one_line(error)}); save its state_dict alone"
        ) from error
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no named tensors; save a state_dict with torch.save or safetensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


def fit(model: nn.Module, state: dict[str, Tensor], source: str, *, replaceable: str | None = None) -> None:
    """Load tensors into a network; every one must be used and every parameter filled.

    Args:
        source: what the message calls the tensors' origin, usually a path.
        replaceable: name of a layer that keeps its initial values where the file has another size of it: the
            classifier, when the classes are others. The log says so.
    Raises:
        ModelError: names or shapes disagree; all of them are listed.
    """
    own = model.state_dict()
    if replaceable is not None:
        other = [k for k in state if k.startswith(f"{replaceable}.") and k in own and own[k].shape != state[k].shape]
        if other:
            warn_once(f"{source} has a classifier for {len(state[other[0]])} classes; ours starts anew")
            state = state | {key: own[key] for key in other}
    state = state | {key: state[other] for key, other in _tied(model).items() if key not in state and other in state}
    problems = [f"missing in the file: {key}" for key in own if key not in state]
    problems += [f"unknown to the model: {key}" for key in state if key not in own]
    problems += [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ModelError(f"{source} does not fit {type(model).__name__}, {len(problems)} keys disagree:{lines}")
    model.load_state_dict(state)


def _tied(model: nn.Module) -> dict[str, str]:
    """Keys that are the same parameter as an earlier one: it fills them too. And the other way round."""
    names: dict[int, str] = {}
    tied: dict[str, str] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        first = names.setdefault(id(tensor), key)
        if first != key:
            tied |= {key: first, first: key}
    return tied


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__
