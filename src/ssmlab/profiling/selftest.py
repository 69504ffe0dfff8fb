"""Every backend of every operator against its reference in float64: does it compute the right thing on this machine?"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab import ops
from ssmlab.ops import _dispatch
from ssmlab.ops._example import Maker

# The worst of every output and every gradient, as ||y - y64|| / ||y64||.
OUTPUT_LIMIT, GRADIENT_LIMIT = 1e-6, 1e-5


@dataclass(frozen=True)
class Outcome:
    """One backend's errors, and milliseconds for a forward pass of the test's size."""

    op: str
    backend: str
    output_error: float
    gradient_error: float
    milliseconds: float

    @property
    def passed(self) -> bool:
        # A NaN is no error below a limit.
        return self.output_error <= OUTPUT_LIMIT and self.gradient_error <= GRADIENT_LIMIT


def self_test() -> list[Outcome]:
    """Run every usable backend in float32 with all optional arguments, forward and backward."""
    calls = [(op, backend) for op, backend, usable, _ in ops.explain_backends() if usable]
    calls += [(name, form) for name in ops.BACKENDS for form in _dispatch.example(name).forms]
    outcomes = []
    for op, form in calls:
        facts = _dispatch.example(op)
        tensors = facts.inputs(Maker(), **facts.odd)
        exact = _run(op, {name: t.double() for name, t in tensors.items()}, "reference")
        found = _run(op, tensors, form)
        outputs, gradients = (_worst(a, b) for a, b in zip(found, exact, strict=True))
        times = []
        with torch.no_grad():
            for _ in range(4):
                begin = time.perf_counter()
                _dispatch.compute(op, form, tensors)
                times.append(time.perf_counter() - begin)
        outcomes.append(Outcome(op, form, outputs, gradients, 1000 * min(times[1:])))
    return outcomes


def _run(op: str, tensors: dict[str, Tensor], form: str) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and the gradient of every input."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    result = _dispatch.compute(op, form, leaves)
    outputs = list(result) if isinstance(result, tuple) else [result]
    weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in outputs]
    loss = sum((y * weight).sum() for y, weight in zip(outputs, weights, strict=True))
    return [y.detach() for y in outputs], list(torch.autograd.grad(loss, list(leaves.values())))


def _worst(found: list[Tensor], exact: list[Tensor]) -> float:
    errors = [(a.double() - b.double()).norm() / b.double().norm() for a, b in zip(found, exact, strict=True)]
    return float(torch.stack(errors).max())  # NaN stays NaN
