"""How long training will take, from a few real steps on a copy that is thrown away."""

import copy
import time

import torch
from torch import nn

from ssmlab.core.device import ComputeConfig, memory_advice, same_random
from ssmlab.training.config import FitConfig
from ssmlab.training.predict import autocast
from ssmlab.training.task import Task

STEPS, ENOUGH = 3, 5.0  # at most so many, and none more after so many seconds


def estimate_seconds(
    network: nn.Module,
    task: Task,
    config: FitConfig,
    batch: dict[str, torch.Tensor],
    *,
    steps: int,
    evaluated: int,
    compute: ComputeConfig,
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
    with same_random(compute.device), memory_advice(getattr(network, "registry_name", "the model"), config):
        network = copy.deepcopy(network).to(compute.device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)
        batch = {name: tensor.to(compute.device) for name, tensor in batch.items()}

        def train_step():
            with autocast(compute):
                loss, _ = task.loss(network, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        def predict_step():
            with torch.inference_mode(), autocast(compute):
                task.loss(network, batch)

        per_step = _fastest(network.train(), train_step, compute)
        per_item = _fastest(network.eval(), predict_step, compute) / b
    return per_step * steps + per_item * evaluated


def _fastest(network: nn.Module, step, compute: ComputeConfig) -> float:
    """The fastest of a few, after one that prepares the kernels; where steps are long that one has to do."""
    times: list[float] = []
    while len(times) <= STEPS and sum(times) < ENOUGH:
        begin = time.perf_counter()
        step()
        if compute.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:] or times)
