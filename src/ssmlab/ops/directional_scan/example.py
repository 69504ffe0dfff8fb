"""What others know of the directional scan."""

from math import isqrt

from torch import Tensor

from ssmlab.ops._example import CHANNEL, TIME, Example, Grid, Maker

_MAPS = ((96, 56), (192, 28), (384, 14), (768, 7))  # channels and side of VMamba-T's maps at 224 x 224 pixels


def inputs(make: Maker, b: int, d: int, l: int, n: int, k: int = 4, height: int | None = None) -> dict[str, Tensor]:
    """All tensors, of a map of l points; a square one unless its height is given."""
    h = height or isqrt(l)
    w = l // h
    return {
        "x": make.tokens(b, d, h, w, channels=1), "dt": make.tokens(b, k, d, h, w, channels=2, shift=-1.0),
        "A": make.rates(k, d, n), "B": make.tokens(b, k, n, h, w, channels=2),
        "C": make.tokens(b, k, n, h, w, channels=2), "D": make.parameter(k, d), "dt_bias": make.parameter(k, d),
    }  # fmt: skip


_LAYOUTS = (CHANNEL, TIME)
EXAMPLE = Example(
    inputs=inputs,
    axes={
        "x": "b d h w", "dt": "b k d h w", "A": "k d n", "B": "b k n h w", "C": "b k n h w", "D": "k d",
        "dt_bias": "k d",
    },
    odd={"b": 2, "d": 19, "l": 99, "n": 5, "height": 9},
    options={"dt_softplus": True},
    part="scans",
    counted=("directional_scan",),
    full=Grid([(1, d, side**2, n) for d, side in (_MAPS[0], _MAPS[2], _MAPS[3]) for n in (1, 16)], _LAYOUTS),
    quick=Grid([(1, 96, 49, 1), (1, 384, 196, 1)], _LAYOUTS, ("float32",)),
    gpu=Grid([(b, d, side**2, 16) for b in (1, 128) for d, side in _MAPS], dtypes=("bfloat16",)),
    gpu_quick=Grid([(1, 96, 56**2, 16)], dtypes=("bfloat16",)),
    directions=4,
    loops=True,
    is_map=True,
)  # fmt: skip
