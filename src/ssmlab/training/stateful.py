"""The state that a task carries from step to step, in a checkpoint, so that a resumed training goes on with it."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "carried.safetensors"  # in a checkpoint


def save_states(task: Any, folder: Path) -> None:
    """Write the state that training carries, if the task carries any."""
    layers = getattr(task, "states", {}).get(True)
    if layers is None:
        return
    tensors = {
        f"{i}.{name}": tensor.contiguous() for i, state in enumerate(layers) for name, tensor in state._asdict().items()
    }
    save_file(tensors, folder / FILE)


def load_states(task: Any, network: nn.Module, folder: Path) -> None:
    """Give the task the state that a checkpoint holds.

    Args:
        network: a language model on the device where it is trained; it says which kinds of state its layers have.
    """
    if not (folder / FILE).is_file():
        return
    device = next(network.parameters()).device
    tensors = load_file(folder / FILE, device=str(device))
    was = network.training
    with torch.no_grad():
        _, like = network.eval()(torch.zeros(1, 1, dtype=torch.int64, device=device))
    network.train(was)
    task.states[True] = tuple(
        type(state)(**{name: tensors[f"{i}.{name}"] for name in state._fields}) for i, state in enumerate(like)
    )
