"""What a vision model costs: parameters, operations, tokens and speed, as records."""

from typing import Any

import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.record import Record
from ssmlab.profiling import count_flops, count_parameters, images_per_second
from ssmlab.training.predict import autocast


def costs(network: nn.Module, task: Any, images: torch.Tensor, config: Any, compute: ComputeConfig) -> list[Record]:
    """Parameters, operations per image, tokens and speed, all of prediction in evaluation mode."""
    repeated = images[torch.arange(config.throughput_batch) % len(images)].to(compute.device)
    batch = task.prepare(repeated)
    with autocast(compute):
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
