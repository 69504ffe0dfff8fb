"""How long training will take, from a few real steps on a copy that is thrown away."""

import copy
import time

import torch
from torch import nn

from ssmlab.core.device import Placement, memory_advice, same_random
from ssmlab.training.config import Optimisation
from ssmlab.training.predict import autocast
from ssmlab.training.task import Task

STEPS, ENOUGH = 3, 5.0  # at most so many, and none more after so many seconds


def estimate_seconds(
    network: nn.Module,
    task: Task,
    config: Optimisation,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    steps: int,
    evaluated: int,
    placement: Placement,
) -> float:
    """Seconds for `steps` training steps and for predicting `evaluated` images.

    Args:
        images, labels: of the training part, on the CPU.
    """
    b = min(config.batch_size, len(labels))
    batch = {"images": images[:b], "labels": labels[:b]}
    return seconds_of(network, task, config, batch, steps=steps, evaluated=evaluated, placement=placement)


def seconds_of(
    network: nn.Module,
    task: Task,
    config: Optimisation,
    batch: dict[str, torch.Tensor],
    *,
    steps: int,
    evaluated: int,
    placement: Placement,
) -> float:
    """Seconds for `steps` training steps on such batches, and for predicting `evaluated` of their rows.

    Neither the network nor any random number is touched: the steps run on a copy, and the generators are put back.

    Args:
        batch: on the CPU.
    Raises:
        UserError: memory does not suffice.
    """
    b = len(batch["labels"])
    task = copy.deepcopy(task)  # it may carry a state
    with same_random(placement.device), memory_advice(getattr(network, "registry_name", "the model"), config):
        network = copy.deepcopy(network).to(placement.device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)
        batch = {name: tensor.to(placement.device) for name, tensor in batch.items()}

        def train_step():
            with autocast(placement):
                loss, _ = task.loss(network, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        def predict_step():
            with torch.inference_mode(), autocast(placement):
                task.loss(network, batch)

        per_step = _seconds(network.train(), train_step, placement)
        per_image = _seconds(network.eval(), predict_step, placement) / b
    return per_step * steps + per_image * evaluated


def _seconds(network: nn.Module, step, placement: Placement) -> float:
    """The fastest of a few, after one that prepares the kernels; where steps are long that one has to do."""
    times: list[float] = []
    while len(times) <= STEPS and sum(times) < ENOUGH:
        begin = time.perf_counter()
        step()
        if placement.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:] or times)
