"""Whether the candidates compute the same thing: what disagrees is not worth a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab.ops._dispatch import example
from ssmlab.profiling.bench.candidates import definition, field, gradient, make_inputs, runner
from ssmlab.profiling.bench.shapes import Shape


@dataclass(frozen=True)
class Disagreement:
    """A candidate whose result is wrong: by how much, or how it failed."""

    op: str
    candidate: str
    dtype: str
    ours: bool
    what: str


def disagreements(shapes: list[Shape], device: str = "cpu") -> list[Disagreement]:
    """Compare every candidate with the definition in float64: 49 tokens forward and backward, and one token."""
    found = []
    for op, dtype, layout in dict.fromkeys((s.op, s.dtype, s.layout) for s in shapes):
        for l, backward in ((49, True), (1, False)):
            shape = Shape(op=op, backward=backward, d=256, l=l, n=16, dtype=dtype, layout=layout)
            found += _compare(shape, device)
    return list(dict.fromkeys(found))


def _compare(shape: Shape, device: str) -> list[Disagreement]:
    inputs = make_inputs(shape, device)
    grad = gradient(inputs) if shape.backward else None
    exact = runner(
        definition(shape.op), {k: _double(t) for k, t in inputs.items()}, None if grad is None else _double(grad)
    )()
    wrong, limit = [], example(shape.op).limits[shape.dtype]
    for candidate in field(shape, inputs).candidates:
        try:
            error = _error(runner(candidate.call, inputs, grad)(), exact)
            # A NaN is no error below a limit.
            what = "" if error <= limit else f"error {error:.1e}, limit {limit:g}"
        except RuntimeError as failure:
            what = str(failure).split("\n")[0]
        if what:
            wrong.append(Disagreement(shape.op, candidate.name, shape.dtype, candidate.ours, what))
    return wrong


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float64))


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    errors = [(a.to(b.dtype) - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)]
    return float(torch.stack(errors).max())
