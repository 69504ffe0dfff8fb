"""Every backend of every operator against its reference in float64: does it compute the right thing on this machine?"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab import ops

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
    usable = [(op, backend) for op, backend, usable, _ in ops.explain_backends() if usable]
    outcomes = []
    for op, backend in [*usable, ("mamba3", "on ssd"), ("lti", "convolution"), ("lti", "recurrence")]:
        function, (tensors, options) = BUILT.get(op) or getattr(ops, op), INPUTS[op]()
        exact = _run(function, {name: t.double() for name, t in tensors.items()}, options, "reference")
        found = _run(function, tensors, options, backend)
        outputs, gradients = (_worst(a, b) for a, b in zip(found, exact, strict=True))
        times = []
        with torch.no_grad():
            for _ in range(4):
                begin = time.perf_counter()
                function(**tensors, **options, backend=backend)
                times.append(time.perf_counter() - begin)
        outcomes.append(Outcome(op, backend, outputs, gradients, 1000 * min(times[1:])))
    return outcomes


def _run(function, tensors: dict[str, Tensor], options: dict, backend: str) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and the gradient of every input."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    result = function(**leaves, **options, backend=backend)
    outputs = list(result) if isinstance(result, tuple) else [result]
    weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in outputs]
    loss = sum((y * weight).sum() for y, weight in zip(outputs, weights, strict=True))
    return [y.detach() for y in outputs], list(torch.autograd.grad(loss, list(leaves.values())))


def _worst(found: list[Tensor], exact: list[Tensor]) -> float:
    errors = [(a.double() - b.double()).norm() / b.double().norm() for a, b in zip(found, exact, strict=True)]
    return float(torch.stack(errors).max())  # NaN stays NaN


def _scan_inputs(b: int = 2, d: int = 67, length: int = 131, n: int = 16):
    """Odd sizes, so that every kernel meets its remainders."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    tensors = {
        "x": normal(b, length, d).mT,
        "dt": normal(b, length, d).mT - 1,
        "A": -torch.rand((d, n), generator=random) * 4 - 0.1,
        "B": normal(b, n, length),
        "C": normal(b, n, length),
        "D": normal(d),
        "z": normal(b, length, d).mT,
        "dt_bias": normal(d),
        "initial_state": normal(b, d, n),
    }
    return tensors, {"dt_softplus": True}


def _conv_inputs(b: int = 2, d: int = 67, length: int = 131, width: int = 4):
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    tensors = {
        "x": normal(b, length, d).mT,
        "weight": normal(d, width),
        "bias": normal(d),
        "initial_state": normal(b, d, width - 1),
    }
    return tensors, {"activation": "silu"}


def _directional_inputs(b: int = 2, d: int = 19, height: int = 9, width: int = 11, n: int = 5, k: int = 4):
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    tensors = {
        "x": normal(b, d, height, width),
        "dt": normal(b, k, d, height, width) - 1,
        "A": -torch.rand((k, d, n), generator=random) * 4 - 0.1,
        "B": normal(b, k, n, height, width),
        "C": normal(b, k, n, height, width),
        "D": normal(k, d),
        "dt_bias": normal(k, d),
    }
    return tensors, {"dt_softplus": True}


def _ssd_inputs(b: int = 2, length: int = 131, h: int = 6, p: int = 5, g: int = 2, n: int = 7):
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    tensors = {
        "x": normal(b, length, h, p),
        "dt": normal(b, length, h) - 1,
        "A": -torch.rand(h, generator=random) * 4 - 0.1,
        "B": normal(b, length, g, n),
        "C": normal(b, length, g, n),
        "D": normal(h),
        "z": normal(b, length, h, p),
        "dt_bias": normal(h),
        "initial_state": normal(b, h, p, n),
    }
    return tensors, {"dt_softplus": True}


def _mamba3_inputs(b: int = 2, length: int = 131, h: int = 4, p: int = 5, g: int = 2, n: int = 6, s: int = 2):
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    dt = torch.rand((b, length, h), generator=random)
    tensors = {
        "x": normal(b, length, h, p),
        "dt": dt,
        "log_decay": -dt - 0.01,
        "trap": normal(b, length, h),
        "B": normal(b, length, 1, g, n),
        "C": normal(b, length, 1, g, n),
        "angle": normal(b, length, h, s),
        "D": normal(h),
        "z": normal(b, length, h, p),
        "B_bias": normal(h, 1, n),
        "C_bias": normal(h, 1, n),
    }
    return tensors, {}


def _lti_inputs(b: int = 2, d: int = 67, length: int = 131, n: int = 8):
    random = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(shape, generator=random)

    tensors = {
        "u": uniform(b, d, length) - 0.5,
        "dt": 0.1 * uniform(d) + 0.01,
        "A": -4 * uniform(d, n) - 0.1,
        "B": uniform(d, n) - 0.5,
        "C": uniform(d, n) - 0.5,
        "D": uniform(d),
    }
    return tensors, {}


def _mamba3(backend: str, **tensors):
    return ops.mamba3(**tensors, backend=None if backend == "on ssd" else backend)[0]


def _lti(backend: str, **tensors):
    return ops.lti(**tensors, view="recurrence" if backend == "reference" else backend)


# Operators that choose no backend themselves, called as if they did.
BUILT = {"mamba3": _mamba3, "lti": _lti}

# An operator without inputs here is an error of `doctor`, and of its test.
INPUTS = {
    "selective_scan": _scan_inputs,
    "causal_conv1d": _conv_inputs,
    "directional_scan": _directional_inputs,
    "ssd": _ssd_inputs,
    "mamba3": _mamba3_inputs,
    "lti": _lti_inputs,
}
