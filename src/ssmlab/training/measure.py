"""What is measured after training: predictions on a part, their metrics, and what the model costs."""

import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ssmlab.profiling import count_flops, count_parameters, images_per_second
from ssmlab.reports.deciding import UNITS
from ssmlab.reports.record import Record
from ssmlab.tasks.classify import Classify
from ssmlab.training.device import Placement
from ssmlab.training.progress import Progress
from ssmlab.training.recipe import EvaluationConfig

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
    task: Classify,
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


def costs(
    network: nn.Module, task: Classify, images: torch.Tensor, config: EvaluationConfig, placement: Placement
) -> list[Record]:
    """Parameters, operations per image, tokens and speed, all of prediction in evaluation mode."""
    repeated = images[torch.arange(config.throughput_batch) % len(images)].to(placement.device)
    batch = task.prepare(repeated)
    with autocast(placement):
        speed = images_per_second(network, batch, config.throughput_repeats)
    counts = count_flops(network, batch[:1])
    records = [
        Record(metric="parameters", value=count_parameters(network), unit="count"),
        Record(metric="macs", value=counts.macs, unit="multiply-accumulates"),
        Record(metric="scan_macs", value=counts.scan_macs, unit="multiply-accumulates"),
        Record(metric="flops", value=counts.flops, unit="operations"),
        Record(metric="scan_flops", value=counts.scan_flops, unit="operations"),
        Record(
            metric="images_per_second",
            value=speed.median,
            unit="images/s",
            n=config.throughput_repeats,
            spread=(speed.low, speed.high),
        ),
        Record(metric="cold_seconds", value=speed.cold_seconds, unit="seconds"),
    ]
    tokens = getattr(network, "num_tokens", None)
    if tokens is not None:
        records.append(Record(metric="tokens", value=tokens, unit="tokens"))
    return records


def curves(log: list[dict]) -> dict[str, list[Record]]:
    """The Trainer's log as records, by part: loss, metrics, learning rate and epoch at every step that was logged."""
    found: dict[str, list[Record]] = {"train": [], "val": []}
    units = {"loss": "nats", "accuracy": "fraction", "token_accuracy": "fraction", "learning_rate": None, "epoch": None}
    units |= {f"bits_per_{unit}": "bits" for unit in UNITS}
    for row in log:
        part = "val" if "eval_loss" in row else "train" if "loss" in row else None
        prefix = "eval_" if part == "val" else ""
        for metric in units if part else ():
            key = metric if metric in ("learning_rate", "epoch") else prefix + metric
            if key in row:
                found[part].append(Record(metric=metric, value=row[key], unit=units[metric], step=row["step"]))
    return found
