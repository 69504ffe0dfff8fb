"""Calls of several models timed in turns, so that a machine that changes its speed favours none of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssmlab.profiling.throughput import Throughput


@dataclass(frozen=True)
class Timings:
    """Seconds of the same call, repeated.

    items: what one call gets through, such as the images of a batch.
    cold: of the first call, which also prepares kernels and memory; not among `seconds`.
    seconds: of the warm calls, in order.
    """

    items: int
    cold: float
    seconds: tuple[float, ...]

    @property
    def throughput(self) -> Throughput:
        """Items per second."""
        rates = [self.items / seconds for seconds in self.seconds]
        return Throughput(statistics.median(rates), min(rates), max(rates), self.cold)

    def percentile(self, percent: float) -> float:
        """Seconds that this percentage of the warm calls did not exceed, interpolated between two of them."""
        ordered = sorted(self.seconds)
        position = percent / 100 * (len(ordered) - 1)
        below = int(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True)
class Call:
    """What is timed: a function without arguments, and how many items it gets through; `device` is waited for."""

    function: Callable[[], object]
    items: int
    device: torch.device

    def seconds(self) -> float:
        """Wall-clock time of one call."""
        self._wait()
        begin = time.perf_counter()
        self.function()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def forward_call(model: nn.Module, batch: Tensor) -> Call:
    """The forward pass of a batch (b, ...) in inference mode; the model is to be in evaluation mode."""

    def forward() -> None:
        with torch.inference_mode():
            model(batch)

    return Call(forward, len(batch), batch.device)


def in_rounds(
    calls: dict[str, Call],
    rounds: int,
    *,
    calls_a_round: int = 1,
    warmup: int = 2,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, Timings]:
    """Time every call once a round, beginning with another one each round.

    The first call of each is timed apart, `warmup` more are not timed.

    Args:
        rounds: at least 1.
        calls_a_round: how often each is called before the next one's turn.
        progress: called with the number of turns that are done, `rounds * len(calls)` at the end.
    """
    if rounds < 1:
        raise ValueError(f"in_rounds: rounds must be at least 1, got {rounds}")
    cold = {name: call.seconds() for name, call in calls.items()}
    for _ in range(warmup):
        for call in calls.values():
            call.function()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names, turns = list(calls), 0
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name] += [calls[name].seconds() for _ in range(calls_a_round)]
            turns += 1
            progress(turns)
    return {name: Timings(call.items, cold[name], tuple(seconds[name])) for name, call in calls.items()}
