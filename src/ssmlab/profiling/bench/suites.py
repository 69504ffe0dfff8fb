"""What is measured besides operators, by name."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ssmlab.profiling.bench import cold, language, vision
from ssmlab.profiling.bench.results import Result


def suite(name: str, ops: list[str], device: str, budget: float, *, quick: bool = False) -> Iterator[list[Result]]:
    """The results of a suite, one part after the other.

    Args:
        name: of `SUITES`, but for "ops", which has rows of its own (`bench_ops`).
        ops: operators whose first calls are timed.
        budget: seconds of repeats for what is timed in turns.
        quick: tiny models and shapes, on a CPU too.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if name == "first":
        return cold.cold(cold.shapes(ops, device, quick=quick), device)
    if name == "language":
        return language.language(language.QUICK if quick else language.FULL, device, budget, wait)
    return vision.vision(vision.QUICK if quick else vision.FULL, device, budget, wait)
