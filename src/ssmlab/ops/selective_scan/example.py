"""What others know of the selective scan."""

from itertools import product

from torch import Tensor

from ssmlab.ops._example import CHANNEL, CHANNELS, GPU_SIZES, LENGTHS, TIME, Example, Grid, Maker


def inputs(make: Maker, b: int, d: int, l: int, n: int) -> dict[str, Tensor]:
    """All tensors but seq_idx."""
    return {
        "x": make.tokens(b, l, d, channels=-1).mT, "dt": make.tokens(b, l, d, channels=-1, shift=-1.0).mT,
        "A": make.rates(d, n), "B": make.tokens(b, n, l, channels=1), "C": make.tokens(b, n, l, channels=1),
        "D": make.parameter(d), "z": make.tokens(b, l, d, channels=-1).mT, "dt_bias": make.parameter(d),
        "initial_state": make.parameter(b, d, n),
    }  # fmt: skip


_LAYOUTS = (CHANNEL, TIME)
EXAMPLE = Example(
    inputs=inputs,
    axes={
        "x": "b d l", "dt": "b d l", "A": "d n", "B": "b n l", "C": "b n l", "D": "d", "z": "b d l", "dt_bias": "d",
        "initial_state": "b d n",
    },
    odd={"b": 2, "d": 67, "l": 131, "n": 16},
    options={"dt_softplus": True},
    part="scans",
    counted=("selective_scan", "selective_scan_held"),
    full=Grid([*product((1,), CHANNELS, LENGTHS, (1, 8, 16, 64))], _LAYOUTS),
    quick=Grid([(1, 64, 1, 16), (1, 64, 196, 1), (1, 64, 196, 16), (1, 256, 196, 16)], _LAYOUTS, ("float32",)),
    gpu=Grid([(*size, 16) for size in GPU_SIZES], (TIME, CHANNEL), ("bfloat16",)),
    gpu_quick=Grid([(1, 1024, 1024, 16)], (TIME, CHANNEL), ("bfloat16",)),
    not_timed=("initial_state",),
    loops=True,
    yardsticks=("attention", "exp in registers"),
)  # fmt: skip
