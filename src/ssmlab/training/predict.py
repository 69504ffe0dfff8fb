"""What is measured after training: predictions on a part, their metrics, and what the model costs."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmlab.core.device import Placement
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outputs:
    """Logits (n, classes) float32 in the order of the images, and the seconds that it took to get them."""

    logits: np.ndarray
    seconds: float


def autocast(placement: Placement):
    """The precision of a placement as a context."""
    if placement.precision == "float32":
        return nullcontext()
    return torch.autocast(placement.device, _DTYPES[placement.precision])


def predict(
    network: nn.Module,
    task: Any,
    images: torch.Tensor,
    *,
    batch_size: int,
    placement: Placement,
    title: str = "",
    progress: Progress | None = None,
) -> Outputs:
    """Logits of images (n, 3, h, w) uint8, in evaluation mode."""
    progress = progress or Progress()
    network.eval()
    steps = -(-len(images) // batch_size)
    found = []
    progress.start(title, steps, per_step=batch_size)
    begin = time.perf_counter()
    try:
        with torch.inference_mode(), autocast(placement):
            for step in range(steps):
                batch = images[step * batch_size : (step + 1) * batch_size].to(placement.device)
                found.append(network(task.prepare(batch)).float().cpu())
                progress.update(step + 1)
    finally:
        progress.stop()
    return Outputs(torch.cat(found).numpy(), time.perf_counter() - begin)


def curves(log: list[dict]) -> dict[str, list[Record]]:
    """The Trainer's log as records, by part: loss, metrics, learning rate and epoch at every step that was logged."""
    found: dict[str, list[Record]] = {"train": [], "val": []}
    units = {"loss": "nats", "accuracy": "fraction", "token_accuracy": "fraction", "learning_rate": None, "epoch": None}
    bits = (key.removeprefix("eval_") for row in log for key in row)
    units |= {metric: "bits" for metric in bits if metric.startswith("bits_per_")}
    for row in log:
        part = "val" if "eval_loss" in row else "train" if "loss" in row else None
        prefix = "eval_" if part == "val" else ""
        for metric in units if part else ():
            key = metric if metric in ("learning_rate", "epoch") else prefix + metric
            if key in row:
                found[part].append(Record(metric=metric, value=row[key], unit=units[metric], step=row["step"]))
    return found
