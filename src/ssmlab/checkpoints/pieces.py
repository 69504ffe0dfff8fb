"""Weights files read a piece at a time, so that a model in another precision than its file's is held once in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ssmlab.core.errors import ModelError
from ssmlab.models.download import WEIGHTS
from ssmlab.models.weights import read_state_dict

WINDOW = 8 * 2**20  # bytes that are read before a mapped file is let go of


def weights_files(folder: Path) -> list[Path]:
    """The one file of a folder's weights, or the parts that an index names.

    Raises:
        ModelError: there is none, or some parts are missing; all of them are listed.
    """
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise ModelError(f"{folder} has no weights; one of {', '.join(WEIGHTS)} must be there")
    if found[0].suffix != ".json":
        return found[:1]
    try:
        names = sorted(set(json.loads(found[0].read_text("utf-8"))["weight_map"].values()))
        if any(name in (".", "..") or Path(name).name != name or "\\" in name for name in names):
            raise ModelError(f"{found[0]} names files outside {folder}; a folder's weights lie in it")
        parts = [folder / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{found[0]} is no index of weights files; copy it again") from error
    missing = [part.name for part in parts if not part.is_file()]
    if missing or not parts:
        raise ModelError(f"{found[0]} names {', '.join(missing) or 'no parts'}, which {folder} lacks; copy it again")
    return parts


def outline(files: list[Path]) -> dict[str, Tensor]:
    """Every tensor by name, without values, on the meta device.

    Raises:
        ModelError: a file is damaged or holds more than tensors, or two of them hold the same name.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        own = {name: tensor.to("meta") for name, tensor in read_state_dict(file, mapped=True).items()}
        twice = found.keys() & own.keys()
        if twice:
            raise ModelError(f"{file} repeats {', '.join(sorted(twice)[:5])} of another part; copy the parts again")
        found |= own
    return found


def pieces(files: list[Path], window: float = WINDOW) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name, one after the other, in memory that is mapped from the file.

    A file is mapped anew after `window` bytes: the system counts what was read of a mapping as ours until it is gone.
    """
    for file in files:
        state, seen = read_state_dict(file, mapped=True), 0
        for name in list(state):
            if seen > window:
                state, seen = read_state_dict(file, mapped=True), 0
            tensor = state.pop(name)
            seen += tensor.nbytes
            yield name, tensor
