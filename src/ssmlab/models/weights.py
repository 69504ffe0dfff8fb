"""Reading weights from files and fitting them to a network, with all disagreements reported together."""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.meta import on_meta

log = logging.getLogger(__name__)
LFS = b"version https://git-lfs"
WRAPPERS = ("state_dict", "model", "model_state_dict")
# what a damaged or hostile pickle makes torch's reader raise
UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, struct.error),
    *(TypeError, AttributeError, KeyError, IndexError),
)
# what trainers write next to the tensors: their arguments
ARGUMENTS = (
    *("argparse.Namespace", "types.SimpleNamespace", "yacs.config.CfgNode", "easydict.EasyDict"),
    *("pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib.WindowsPath", "pathlib._local.WindowsPath"),
)


@cache
def warn_once(message: str) -> None:
    """Say something about a file, which a run of several models and seeds reads many times."""
    log.warning("%s", message)


def read_state_dict(path: str | Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file, or from a .pth file without running code that it holds.

    The arguments that a trainer wrote next to the tensors are passed over.

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
    names = []  # such a file may hold a trainer's arguments, which are not built, and numbers of numpy; no others
    try:
        if zipfile.is_zipfile(path):
            with suppress(ValueError, RuntimeError, pickle.UnpicklingError):  # reported when the file is read
                names = [n for n in torch.serialization.get_unsafe_globals_in_checkpoint(path) if n in ARGUMENTS]
        with torch.serialization.safe_globals([*numpy_numbers(), *((_PassedOver, name) for name in names)]):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except UNREADABLE as error:
        raise ModelError(
            f"{path} holds more than tensors, or is no file of PyTorch ({one_line(error)}); save its state_dict alone"
        ) from error
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no named tensors; save a state_dict with torch.save or safetensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


class _PassedOver:
    """Stands for the arguments of a trainer in a file of weights: takes anything, and is an empty table."""

    def __new__(cls, *_args: Any) -> Any:
        return OrderedDict()  # the one mapping whose items and state torch's reader sets


def numpy_numbers() -> list[Any]:
    """What a number of numpy in a pickle is made of: values, not code; for `torch.serialization.safe_globals`."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]


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
    tied: dict[int, str] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        first = tied.setdefault(id(tensor), key)
        for name, alias in ((key, first), (first, key)):  # the same parameter under two names: either fills both
            if name not in state and alias in state:
                state = state | {name: state[alias]}
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


def check_sizes(source: Path, config: Any, weights: Path, build: Callable[[], nn.Module]) -> None:
    """Compare the sizes in a config.json with the header of the weights next to it, before anything is allocated.

    Args:
        source: the config's path, for the message.
        build: makes the network; it is called on the meta device, where networks that refuse that pass.
    Raises:
        ModelError: it describes a network that these weights cannot be of.
    """
    try:
        with safe_open(weights, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ModelError(f"{weights} is not a safetensors file: {one_line(error)}") from error
    check_depth(source, config, len(shapes))
    held = sum(map(prod, shapes))
    try:
        with on_meta():
            described = sum(tensor.numel() for tensor in build().state_dict().values())
    except (NotImplementedError, RuntimeError):
        return
    if described > 4 * held + 1024:
        raise ModelError(
            f"{source} describes a model of {described:,} numbers, {weights.name} holds {held:,}; they are not of one "
            "model, copy the folder again"
        )


def check_depth(source: Path, config: Any, tensors: int) -> None:
    """Refuse more layers than a file of weights has tensors; nothing is built for them.

    Raises:
        ModelError: a field that counts layers is larger.
    """
    for key, value in config.items() if isinstance(config, dict) else ():
        check_depth(source, value, tensors)
        counts = value if isinstance(value, (list, tuple)) else [value]
        if not any(word in key for word in ("layer", "depth", "block", "stage")):
            continue
        total = sum(count for count in counts if isinstance(count, (int, float)) and not isinstance(count, bool))
        if total > max(tensors, 1):
            raise ModelError(
                f"{source} has {key}={value}, but its weights are {tensors} tensors; copy the folder again"
            )


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__
