"""What a model costs: operations, images per second, latency, and memory of inference and of training."""

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
