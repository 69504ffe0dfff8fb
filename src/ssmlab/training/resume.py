"""Checkpoints that are complete or absent, the newest complete one, and the state that a task hands on in them."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ssmlab.core.checksums import FILE as CHECKSUMS
from ssmlab.core.checksums import damages, write_checksums
from ssmlab.core.errors import UserError
from ssmlab.core.stamp import processor
from ssmlab.core.world import World
from ssmlab.models.weights import one_line
from ssmlab.training.distributed import gather

PARTIAL = ".partial"
BEST = "best-{}.safetensors"  # next to the checkpoints: the weights after the best step so far
OLD_BEST = "best.safetensors"  # of versions before
STATES = "carried.safetensors"
SAME_UPDATE = ("accumulation", "sharding")  # may be others when a training goes on
_ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def commit(folder: Path, name: str, best: int | None = None) -> Path:
    """Move `folder/.partial/<name>`, written in full, to `folder/<name>`, and delete older checkpoints.

    The rename is atomic: whoever is killed before it leaves a `.partial` that nobody reads.

    Args:
        best: the step whose weights next to the checkpoints belong to this one.
    """
    partial, final = folder / PARTIAL / name, folder / name
    kept = folder / BEST.format(best)
    files = {file.name: file for file in partial.iterdir()} | ({f"../{kept.name}": kept} if kept.is_file() else {})
    write_checksums(partial, files)
    for file in (*files.values(), partial / CHECKSUMS):
        _to_disk(file)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    _to_disk(folder)
    shutil.rmtree(folder / PARTIAL)
    for other in folder.glob("checkpoint-*"):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    for file in folder.glob(BEST.format("*")):
        if file != kept:
            file.unlink()
    return final


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint with the most steps whose every file can be read and is as it was written, or None."""
    return next((path for path in _checkpoints(folder) if is_complete(path)), None)


def flaws(folder: Path) -> list[str]:
    """What is wrong with checkpoints that are newer than the newest complete one, a sentence each."""
    found = []
    for path in _checkpoints(folder):
        if not (wrong := flaw_of(path)):
            break
        found.append(wrong)
    return found


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    return sorted(found, key=lambda path: -int(path.name.split("-")[1]))


def is_complete(checkpoint: Path) -> bool:
    """Whether every file is there, whole, and as it was written."""
    return not flaw_of(checkpoint)


def flaw_of(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, or "".

    A cut archive has no directory at its end, a cut tensor file is short; all else is told by the checksums, which
    checkpoints of older versions do not have.
    """
    try:
        for name in _ARCHIVES:
            if not zipfile.is_zipfile(checkpoint / name):
                return f"{checkpoint / name} is missing or cut"
        for name in ("trainer_state.json", "clock.json"):
            json.loads((checkpoint / name).read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", "pt"):
            return next(iter(damages(checkpoint)), "")
    except (OSError, ValueError, SafetensorError) as error:
        return f"{checkpoint} cannot be read ({one_line(error)})"


def best_weights(folder: Path, step: int | None) -> Path:
    """The file of the best step's weights.

    Raises:
        UserError: it has gone.
    """
    for name in (BEST.format(step), OLD_BEST):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder / BEST.format(step)} is missing, the weights of the best epoch; put it back, or delete {folder} and "
        "train again"
    )


def _to_disk(path: Path) -> None:
    """Have the system write it out, so that a power cut after the rename leaves no empty file."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_same(checkpoint: Path, module: nn.Module, config: Any) -> dict[str, Any]:
    """What `clock.json` of a checkpoint holds, if it is one of this model and configuration.

    Raises:
        UserError: it is of another one.
    """
    clock = json.loads((checkpoint / "clock.json").read_text(encoding="utf-8"))
    now, before = config.model_dump(mode="json"), clock.get("config", {})  # checkpoints of older versions have none
    changed = [
        f"{key}={value} (now {now.get(key)})"
        for key, value in before.items()
        if value != now.get(key) and key not in SAME_UPDATE
    ]
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    changed += ["another model"] if shapes != own else []
    if changed:
        raise UserError(
            f"{checkpoint.parent.parent} holds a training of {', '.join(changed[:4])}; go on with that one, begin "
            "again with resume=False, or take another folder"
        )
    return clock


def circumstances(device: str, processes: int = 1) -> dict[str, Any]:
    """What the bits of a result depend on besides recipe, data and seed."""
    return {
        "processes": processes,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor(),
    }


def other_circumstances(clock: dict[str, Any], device: str, processes: int = 1) -> str:
    """What is other than before a training was interrupted, in words; "" where nothing is, or it is not known."""
    now = circumstances(device, processes)
    changed = [f"{name} {now[name]} (was {was})" for name, was in clock.get("on", {}).items() if now.get(name) != was]
    return ", ".join(changed)


def contiguous(state: dict) -> dict:
    """Tensors as safetensors takes them: in one piece, and none that shares memory with another, as tied weights do."""
    seen, separate = set(), {}
    for name, tensor in state.items():
        tensor = tensor.contiguous()
        separate[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return separate


def whole_states(task: Any, world: World) -> dict[str, Tensor]:
    """The state that training carries, of all processes' rows; {} where the task carries none. All must call it."""
    layers = getattr(task, "states", {}).get(True)
    if layers is None:
        return {}
    own = {f"{i}.{name}": tensor.cpu() for i, state in enumerate(layers) for name, tensor in state._asdict().items()}
    parts = gather(world, own)
    return {name: torch.cat([part[name] for part in parts]) for name in own}


def load_states(task: Any, network: nn.Module, folder: Path, world: World) -> None:
    """Give the task the state that a checkpoint holds, of this process' rows.

    Args:
        network: a language model on the device where it is trained; it says which kinds of state its layers have.
    """
    if not (folder / STATES).is_file():
        return
    device = next(network.parameters()).device
    tensors = load_file(folder / STATES, device=str(device))
    was = network.training
    with torch.no_grad():
        _, like = network.eval()(torch.zeros(1, 1, dtype=torch.int64, device=device))
    network.train(was)
    task.states[True] = tuple(
        type(state)(**{name: _own_rows(tensors[f"{i}.{name}"], world) for name in state._fields})
        for i, state in enumerate(like)
    )


def _own_rows(tensor: Tensor, world: World) -> Tensor:
    return tensor[world.share(len(tensor))]
