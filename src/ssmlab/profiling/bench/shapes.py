"""What is measured: operators, sizes, dtypes and layouts in memory."""

from dataclasses import dataclass
from itertools import product
from math import isqrt

from ssmlab.ops._dispatch import example


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
        return self.b * self.d * self.l * self.n * example(self.op).directions

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
    facts = example(op)
    found = facts.quick if quick else facts.full
    if found is None:
        return []
    shapes = [
        Shape(op=op, backward=backward, b=b, d=d, l=l, n=n, dtype=dtype, layout=layout)
        for backward, dtype, layout, (b, d, l, n) in product((False, True), found.dtypes, found.layouts, found.sizes)
    ]
    order = [(shape.backward, shape.dtype, shape.layout) for shape in shapes]
    return sorted(shapes, key=lambda s: (order.index((s.backward, s.dtype, s.layout)), s.elements))
