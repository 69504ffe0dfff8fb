"""What a model costs: operations, images per second, latency, and memory of inference and of training.

Nothing heavy is imported before one of the names below is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmlab.profiling.flops import Counts, count_flops, count_parameters, evaluation
    from ssmlab.profiling.memory import PeakMemory, peak_memory
    from ssmlab.profiling.rounds import Call, Timings, forward_call, in_rounds
    from ssmlab.profiling.throughput import Throughput, images_per_second
    from ssmlab.profiling.training import TrainingStep, weight_bytes

__all__ = [
    "Call",
    "Counts",
    "PeakMemory",
    "Throughput",
    "Timings",
    "TrainingStep",
    "count_flops",
    "count_parameters",
    "evaluation",
    "forward_call",
    "images_per_second",
    "in_rounds",
    "peak_memory",
    "weight_bytes",
]
_FROM = {
    "Counts": "flops", "count_flops": "flops", "count_parameters": "flops", "evaluation": "flops",
    "PeakMemory": "memory", "peak_memory": "memory",
    "Call": "rounds", "Timings": "rounds", "forward_call": "rounds", "in_rounds": "rounds",
    "Throughput": "throughput", "images_per_second": "throughput",
    "TrainingStep": "training", "weight_bytes": "training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
