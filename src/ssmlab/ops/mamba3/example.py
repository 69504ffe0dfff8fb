"""What others know of Mamba-3's scan: arithmetic around one call of `ssd`, and a reference of its own."""

from torch import Tensor

from ssmlab.ops._example import Example, Maker
from ssmlab.ops.mamba3 import mamba3


def inputs(make: Maker, b: int, d: int, l: int, n: int, p: int = 5, g: int = 2, s: int = 2) -> dict[str, Tensor]:
    """d / p heads of p channels, one input and one output, s pairs of turning states."""
    h = d // p
    dt = make.uniform(b, l, h)
    return {
        "x": make.tokens(b, l, h, p), "dt": dt, "log_decay": -dt - 0.01, "trap": make.tokens(b, l, h),
        "B": make.tokens(b, l, 1, g, n), "C": make.tokens(b, l, 1, g, n), "angle": make.tokens(b, l, h, s),
        "D": make.parameter(h), "z": make.tokens(b, l, h, p), "B_bias": make.parameter(h, 1, n),
        "C_bias": make.parameter(h, 1, n),
    }  # fmt: skip


def call(form: str, **arguments) -> Tensor:
    """y."""
    return mamba3(**arguments, backend=None if form == "on ssd" else form)[0]


EXAMPLE = Example(
    inputs=inputs,
    axes={
        "x": "b l h p", "dt": "b l h", "log_decay": "b l h", "trap": "b l h", "B": "b l r g n", "C": "b l r g n",
        "angle": "b l h s", "D": "h", "z": "b l h p", "B_bias": "h r n", "C_bias": "h r n",
    },
    odd={"b": 2, "d": 20, "l": 131, "n": 6},
    forms=("on ssd",),
    call=call,
)  # fmt: skip
