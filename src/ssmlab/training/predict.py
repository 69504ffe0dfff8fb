"""A model's outputs for every item of a dataset, in evaluation mode."""

import time
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.progress import Progress
from ssmlab.training.dataset import as_dataset, batch_of
from ssmlab.training.distributed import Share, gather, in_order, shared_world
from ssmlab.training.task import Task

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Outputs(NamedTuple):
    """What a task calls the outputs of every item (n, ...), float32 in the order of the items, and the seconds."""

    values: np.ndarray
    seconds: float


def autocast(compute: ComputeConfig):
    """The precision of a device as a context."""
    if compute.precision == "float32":
        return nullcontext()
    return torch.autocast(compute.device, _DTYPES[compute.precision])


def predict(
    model: nn.Module,
    task: Task,
    dataset: Any,
    *,
    batch_size: int,
    compute: ComputeConfig,
    title: str = "",
    progress: Progress | None = None,
) -> Outputs:
    """The task's outputs for a dataset.

    Args:
        model: on the device of `compute`.
        dataset: of any kind that `fit` takes, with a length; one that has `streams` is read so many rows at a time.
            Within `distributed.sharing` every process computes its share of each batch, and all of them get all.
    """
    progress, world = progress or Progress(), shared_world()
    if world.size > 1:
        dataset = Share(as_dataset(dataset, batch_size), task, world)
    model.eval()
    size = getattr(dataset, "streams", 0) or batch_size
    found, steps = [], -(-len(dataset) // size)
    progress.start(title, steps, unit=getattr(dataset, "unit", "items"), per_step=size)
    begin = time.perf_counter()
    try:
        with torch.inference_mode(), autocast(compute):
            for step in range(steps):
                rows = list(range(step * size, min((step + 1) * size, len(dataset))))
                batch = batch_of(dataset, rows, task)
                own = int(batch.pop("share")[0]) if world.size > 1 else None
                batch = {name: tensor.to(compute.device) for name, tensor in batch.items()}
                found.append(task.outputs(model, batch)[:own].float().cpu())
                progress.update(step + 1)
    finally:
        progress.stop()
    parts = gather(world, [rows.numpy() for rows in found])
    return Outputs(in_order(parts), time.perf_counter() - begin)
