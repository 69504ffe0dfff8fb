"""What is measured: operators, sizes, dtypes and layouts in memory."""

from dataclasses import dataclass
from itertools import product
from math import isqrt

DTYPES = ("float32", "bfloat16")
CHANNEL, TIME = "channel-contiguous", "time-contiguous"
HEAD, WIDTH, DIRECTIONS = 64, 4, 4

_CHANNELS, _LENGTHS = (64, 1536), (1, 49, 196, 3136)
# VMamba-T's maps at 224 x 224 pixels and their channels.
_MAPS = ((96, 56), (384, 14), (768, 7))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One call that is timed.

    Args:
        op: the operator.
        backward: forward and backward; else forward alone.
        d, l, n: channels, tokens, states of a channel; `ssd` has d / 64 heads of 64 channels, `directional_scan` a
            square map of l points, `causal_conv1d` no states (n = 1).
        dtype: of what there is for every token; parameters are float32.
        layout: whether neighbours in memory are channels of a token or tokens of a channel.
        b: rows of the batch.
    """

    op: str
    backward: bool
    d: int
    l: int
    n: int
    dtype: str
    layout: str
    b: int = 1

    @property
    def elements(self) -> int:
        """b d l n, the updates of a state; every direction of a map counts."""
        return self.b * self.d * self.l * self.n * (DIRECTIONS if self.op == "directional_scan" else 1)

    @property
    def passes(self) -> str:
        return "forward + backward" if self.backward else "forward"

    @property
    def side(self) -> int:
        """Of the map."""
        return isqrt(self.l)

    @property
    def text(self) -> str:
        """All of it in words; the class of a record."""
        sizes = f"b={self.b} d={self.d} l={self.l} n={self.n}"
        return f"{self.op}, {self.passes}, {sizes}, {self.dtype}, {self.layout}"


def grid(op: str, *, quick: bool = False) -> list[Shape]:
    """The shapes of an operator, small ones before large ones, so that these can be estimated from those.

    Args:
        quick: a few of them, none of them large.
    """
    rows = _QUICK[op] if quick else _FULL[op]
    shapes = [
        Shape(op=op, backward=backward, d=d, l=l, n=n, dtype=dtype, layout=layout)
        for backward, dtype, layout, (d, l, n) in product((False, True), *rows)
    ]
    order = [(shape.backward, shape.dtype, shape.layout) for shape in shapes]
    return sorted(shapes, key=lambda s: (order.index((s.backward, s.dtype, s.layout)), s.elements))


# dtypes, layouts, (d, l, n)
_FULL = {
    "selective_scan": (DTYPES, (CHANNEL, TIME), [*product(_CHANNELS, _LENGTHS, (1, 8, 16, 64))]),
    "causal_conv1d": (DTYPES, (CHANNEL, TIME), [*product(_CHANNELS, _LENGTHS, (1,))]),
    "directional_scan": (DTYPES, (CHANNEL, TIME), [(d, side**2, n) for d, side in _MAPS for n in (1, 16)]),
    "ssd": (DTYPES, (CHANNEL,), [*product(_CHANNELS, _LENGTHS, (64, 128))]),
    "lti": (("float32",), (CHANNEL,), [*product(_CHANNELS, _LENGTHS, (16, 64))]),
}
_QUICK = {
    "selective_scan": (("float32",), (CHANNEL, TIME), [(64, 1, 16), (64, 196, 1), (64, 196, 16), (256, 196, 16)]),
    "causal_conv1d": (("float32",), (CHANNEL, TIME), [(64, 1, 1), (64, 196, 1), (1536, 196, 1)]),
    "directional_scan": (("float32",), (CHANNEL, TIME), [(96, 49, 1), (384, 196, 1)]),
    "ssd": (("float32",), (CHANNEL,), [(64, 1, 64), (64, 196, 64), (256, 196, 64)]),
    "lti": (("float32",), (CHANNEL,), [(64, 1, 16), (64, 196, 16), (256, 196, 16)]),
}
OPS = tuple(_FULL)
