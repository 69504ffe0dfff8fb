"""The measurement: every shape with all that can compute it, torch.exp and a copy next to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ssmlab.core.record import Record
from ssmlab.profiling.bench import candidates, gpu
from ssmlab.profiling.bench.options import BUDGET, LIMIT
from ssmlab.profiling.bench.shapes import Shape
from ssmlab.profiling.bench.timing import Timing, interleaved

EXP, COPY = "torch.exp", "copy"
MEMORY = 4 * 2**30  # bytes beyond which a candidate is left out
ROOM = 2**27  # floats of a yardstick's buffer, larger than any cache; what is larger is done in passes over it


@dataclass(frozen=True)
class Row:
    """A shape and its timings by candidate, ours first, torch.exp and the copy last.

    Args:
        ours: what a plain call takes.
        torch_path: the fastest of our backends in plain torch, None where `ours` is it.
        missing: what could not be measured, and why.
    """

    shape: Shape
    ours: str
    torch_path: str | None
    timings: dict[str, Timing]
    missing: dict[str, str] = field(default_factory=dict)

    def seconds(self, candidate: str) -> float | None:
        """The median, or the estimate where it was skipped."""
        timing = self.timings.get(candidate)
        return timing.median if timing else None

    @property
    def per_element(self) -> float:
        """Nanoseconds of ours for each of the b d l n updates."""
        return 1e9 * (self.seconds(self.ours) or 0.0) / self.shape.elements

    def times(self, yardstick: str) -> float | None:
        """How many times as long as the yardstick ours takes."""
        other = self.seconds(yardstick)
        return (self.seconds(self.ours) or 0.0) / other if other else None


def bench_ops(
    shapes: list[Shape],
    *,
    device: str = "cpu",
    budget: float = BUDGET,
    limit: float = LIMIT,
    left_out: frozenset[tuple[str, str, str]] = frozenset(),
) -> Iterator[Row]:
    """Time every shape, all of its candidates in turns.

    A candidate, not ours, is left out of a shape where it would take more than `limit` seconds, by what it took in the
    nearest shape that was timed, or more than 4 GiB.

    Args:
        shapes: of `grid`: small ones first.
        device: "cpu" or "cuda".
        budget: seconds of repeats for a shape.
        left_out: (operator, candidate, dtype) that are not to be timed.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    room = _Room(max((shape.elements for shape in shapes), default=1), device)
    known: dict[tuple[str, bool, str], list[tuple[Shape, float]]] = {}
    for shape in shapes:
        inputs = candidates.make_inputs(shape, device)
        entrants = candidates.field(shape, inputs)
        grad = candidates.gradient(inputs) if shape.backward else None
        calls, timings = {}, {}
        for entrant in entrants.candidates:
            if (shape.op, entrant.name, shape.dtype) in left_out:
                continue
            skipped = (
                None
                if entrant.name == entrants.ours
                else _skip(entrant, shape, known.get(_kind(entrant, shape), []), limit)
            )
            timings[entrant.name] = skipped or Timing()
            if not skipped:
                calls[entrant.name] = candidates.runner(entrant.call, inputs, grad)
        yardsticks = (gpu.yardsticks(shape, inputs) if device == "cuda" else {}) | room.yardsticks(shape, inputs)
        timings |= interleaved(calls | yardsticks, budget, wait)
        for entrant in entrants.candidates:
            if entrant.name in calls:
                known.setdefault(_kind(entrant, shape), []).append((shape, timings[entrant.name].median or 0.0))
        yield Row(shape, entrants.ours, entrants.torch_path, timings, entrants.missing)


def records(rows: list[Row]) -> list[Record]:
    """`time` of every candidate and shape, with the least and the most; `estimated_time` where it was skipped."""
    made = []
    for row in rows:
        for name, timing in row.timings.items():
            shared: dict[str, Any] = {"model": name, "class_": row.shape.text, "unit": "seconds"}
            if timing.seconds:
                spread = (min(timing.seconds), max(timing.seconds))
                made.append(
                    Record(metric="time", value=median(timing.seconds), n=len(timing.seconds), spread=spread, **shared)
                )
            elif timing.estimate is not None:
                made.append(Record(metric="estimated_time", value=timing.estimate, n=0, **shared))
    return made


def _skip(entrant: candidates.Candidate, shape: Shape, known: list[tuple[Shape, float]], limit: float) -> Timing | None:
    """Why a candidate is left out, or None."""
    estimate = entrant.least(shape) or None
    if known:  # of shapes equally near, the one that makes it more
        near = min(_distance(shape, other) for other, _ in known)
        scaled = [s * shape.elements / other.elements for other, s in known if _distance(shape, other) < near + 1e-6]
        estimate = max(estimate or 0.0, *scaled)
    memory = shape.elements * (entrant.memory + (entrant.saved if shape.backward else 0))
    if memory > MEMORY:
        return Timing(estimate=estimate, reason=f"{memory / 2**30:.1f} GiB")
    if estimate is not None and estimate > limit:
        return Timing(estimate=estimate, reason=f"estimated {estimate:.2g} s")
    return None


def _distance(a: Shape, b: Shape) -> float:
    """How far one shape is from being like another: first in sizes, then in dtype and layout."""
    sizes = sum(abs(math.log(x / y)) for x, y in ((a.d, b.d), (a.l, b.l), (a.n, b.n)))
    return sizes + 0.1 * (a.dtype != b.dtype) + 0.1 * (a.layout != b.layout)


def _kind(entrant: candidates.Candidate, shape: Shape) -> tuple[str, bool, str]:
    return shape.op, shape.backward, entrant.name


class _Room:
    """Two buffers for the yardsticks, made once: fresh memory would be timed otherwise."""

    def __init__(self, size: int, device: str):
        self.device = device
        self.source = self.target = torch.empty(0, device=device)
        self._grow(size)

    def yardsticks(self, shape: Shape, inputs: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
        """torch.exp of b d l n float32 numbers, and a copy of as many bytes as the call has to read and to write."""
        values = list(inputs.values())
        size = sum(t.nbytes for t in values) + values[0].nbytes  # y is like the first
        floats = (2 * size if shape.backward else size) // 4  # every one of them has a gradient
        self._grow(floats)
        exp, copy = self._passes(shape.elements), self._passes(floats)
        return {
            EXP: lambda: [torch.exp(source, out=target) for source, target in exp],
            COPY: lambda: [target.copy_(source) for source, target in copy],
        }

    def _grow(self, size: int) -> None:
        size = min(size, ROOM)
        if size > len(self.source):
            self.source = torch.full((size,), -1.0, device=self.device)
            self.target = torch.zeros(size, device=self.device)

    def _passes(self, size: int) -> list[tuple[Tensor, Tensor]]:
        sizes = [ROOM] * (size // ROOM) + [size % ROOM] * (size % ROOM > 0)
        return [(self.source[:part], self.target[:part]) for part in sizes]
