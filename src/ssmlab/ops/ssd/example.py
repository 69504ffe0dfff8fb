"""What others know of the state space dual."""

from itertools import product

from torch import Tensor

from ssmlab.ops._example import CHANNELS, GPU_SIZES, LENGTHS, Example, Grid, Maker


def inputs(make: Maker, b: int, d: int, l: int, n: int, p: int = 64, g: int = 1) -> dict[str, Tensor]:
    """All tensors but seq_idx, d / p heads of p channels, as `nn.Linear` leaves them in memory."""
    h = d // p
    return {
        "x": make.tokens(b, l, h, p), "dt": make.tokens(b, l, h, shift=-1.0), "A": make.rates(h),
        "B": make.tokens(b, l, g, n), "C": make.tokens(b, l, g, n), "D": make.parameter(h),
        "z": make.tokens(b, l, h, p), "dt_bias": make.parameter(h), "initial_state": make.parameter(b, h, p, n),
    }  # fmt: skip


EXAMPLE = Example(
    inputs=inputs,
    axes={
        "x": "b l h p", "dt": "b l h", "A": "h", "B": "b l g n", "C": "b l g n", "D": "h", "z": "b l h p",
        "dt_bias": "h", "initial_state": "b h p n",
    },
    odd={"b": 2, "d": 30, "l": 131, "n": 7, "p": 5, "g": 2},
    options={"dt_softplus": True},
    part="scans",
    counted=("ssd",),
    full=Grid([*product((1,), CHANNELS, LENGTHS, (64, 128))]),
    quick=Grid([(1, 64, 1, 64), (1, 64, 196, 64), (1, 256, 196, 64)], dtypes=("float32",)),
    gpu=Grid([(*size, 128) for size in GPU_SIZES], dtypes=("bfloat16",)),
    gpu_quick=Grid([(1, 1024, 1024, 128)], dtypes=("bfloat16",)),
    not_timed=("z", "initial_state"),
    loops=True,
    yardsticks=("attention",),
)  # fmt: skip
