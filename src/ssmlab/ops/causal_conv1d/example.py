"""What others know of the causal convolution."""

from itertools import product

from torch import Tensor

from ssmlab.ops._example import CHANNEL, CHANNELS, GPU_SIZES, LENGTHS, TIME, Example, Grid, Maker


def inputs(make: Maker, b: int, d: int, l: int, n: int = 1, width: int = 4) -> dict[str, Tensor]:
    """All tensors but seq_idx; there are no states (n = 1)."""
    return {
        "x": make.tokens(b, l, d, channels=-1).mT, "weight": make.parameter(d, width), "bias": make.parameter(d),
        "initial_state": make.parameter(b, d, width - 1),
    }  # fmt: skip


_LAYOUTS = (CHANNEL, TIME)
EXAMPLE = Example(
    inputs=inputs,
    axes={"x": "b d l", "weight": "d width", "bias": "d", "initial_state": "b d past"},
    odd={"b": 2, "d": 67, "l": 131},
    options={"activation": "silu"},
    part="convolutions",
    counted=("causal_conv1d",),
    full=Grid([*product((1,), CHANNELS, LENGTHS, (1,))], _LAYOUTS),
    quick=Grid([(1, 64, 1, 1), (1, 64, 196, 1), (1, 1536, 196, 1)], _LAYOUTS, ("float32",)),
    gpu=Grid([(*size, 1) for size in GPU_SIZES], (TIME, CHANNEL), ("bfloat16",)),
    gpu_quick=Grid([(1, 1024, 1024, 1)], (TIME, CHANNEL), ("bfloat16",)),
    not_timed=("initial_state",),
)
