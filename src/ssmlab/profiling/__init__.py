"""What a model costs: operations, images per second and memory."""

from ssmlab.profiling.flops import Counts, count_flops, count_parameters
from ssmlab.profiling.memory import peak_memory
from ssmlab.profiling.throughput import Throughput, images_per_second

__all__ = ["Counts", "Throughput", "count_flops", "count_parameters", "images_per_second", "peak_memory"]
