"""For every operator: its inputs, and all that can compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab import ops
from ssmlab.ops import _dispatch
from ssmlab.ops._dispatch import compute, example
from ssmlab.ops._example import Maker
from ssmlab.ops.directional_scan import reference as directions
from ssmlab.profiling.bench import gpu, opponents
from ssmlab.profiling.bench.shapes import Shape


@dataclass(frozen=True)
class Candidate:
    """Something that computes an operator.

    Args:
        name: the backend, the view or the package.
        call: function of the inputs by name; returns y.
        ours: whether it is this package's own.
        memory: bytes for every b d l n while it runs forward, 0 where none grow with n.
        saved: bytes for every b d l n that autograd keeps.
        least: seconds that it takes at the least, where that grows faster than b d l n.
    """

    name: str
    call: Callable[..., Tensor]
    ours: bool = True
    memory: int = 0
    saved: int = 0
    least: Callable[[Shape], float] = lambda shape: 0.0


@dataclass(frozen=True)
class Field:
    """All candidates of a shape.

    Args:
        candidates: ours first.
        ours: the one that a plain call takes.
        torch_path: the fastest of plain torch, which ours may not fall below; None where ours is that path itself.
        missing: what is not here, and why.
    """

    candidates: list[Candidate]
    ours: str
    torch_path: str | None
    missing: dict[str, str]


def make_inputs(shape: Shape, device: str) -> dict[str, Tensor]:
    """Random inputs as a block hands them over: per token in the shape's dtype and layout, parameters in float32."""
    facts = example(shape.op)
    make = Maker(getattr(torch, shape.dtype), device, shape.layout)
    inputs = facts.inputs(make, b=shape.b, d=shape.d, l=shape.l, n=shape.n)
    return {name: tensor for name, tensor in inputs.items() if name not in facts.not_timed}


def field(shape: Shape, inputs: dict[str, Tensor]) -> Field:
    """Who can compute these inputs here."""
    facts, tensors = example(shape.op), tuple(inputs.values())
    if facts.forms:
        return Field([Candidate(form, _first(shape.op, form)) for form in ("auto", *facts.forms)], "auto", None, {})
    names = [name for name in ops.BACKENDS[shape.op] if _dispatch.load(shape.op, name).unusable(tensors) is None]
    found = []
    for name in names:
        # Bytes as measured at (1, 1536, 196, 16).
        costs: dict = {"saved": 128, "least": _loop} if name == "reference" and facts.loops else {}
        found.append(Candidate(name, _first(shape.op, name), **costs))
    ours = _dispatch.choose(shape.op, tensors, None).__name__.rsplit(".", 1)[-1]
    torch_path = next((name for name in names if name not in ("native", "triton")), None)
    missing = {}
    others = _OPPONENTS.get(shape.op, []) + (gpu.OPPONENTS.get(shape.op, []) if tensors[0].is_cuda else [])
    for name, make, costs in others:
        try:
            found.append(Candidate(name, make(shape), False, **costs))
        except opponents.Missing as why:
            missing[name] = str(why)
    found.sort(key=lambda candidate: candidate.name != ours)
    return Field(found, ours, None if torch_path == ours else torch_path, missing)


def gradient(inputs: dict[str, Tensor]) -> Tensor:
    """The gradient of y that the backward pass starts from; y is like the first input."""
    like = next(iter(inputs.values()))
    values = torch.linspace(-1, 1, like.numel(), device=like.device).view(like.shape)
    return torch.empty_like(like).copy_(values)


def runner(call: Callable[..., Tensor], inputs: dict[str, Tensor], grad: Tensor | None) -> Callable[[], list[Tensor]]:
    """A function without arguments that runs a candidate: [y], and with a `grad` the gradient of every input too."""
    if grad is None:

        def forward():
            with torch.no_grad():
                return [call(**inputs)]

        return forward
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}

    def both():
        with torch.enable_grad():
            y = call(**leaves)
            return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), grad)]

    return both


def definition(op: str) -> Callable[..., Tensor]:
    """What all are compared with."""
    return _first(op, "reference")


def _first(op: str, form: str) -> Callable[..., Tensor]:
    """y by a backend or another form."""

    def call(**inputs):
        result = compute(op, form, inputs)
        return result[0] if isinstance(result, tuple) else result

    return call


def _four_scans(shape: Shape):
    """The map copied into every order and scanned by our plain scan, as code without a directional scan does."""

    def scan(x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, dt_softplus):
        return ops.selective_scan(x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=dt_softplus)

    def call(x, dt, A, B, C, D, dt_bias):
        return directions.differentiable(x, dt, A, B, C, D, dt_bias, True, scan=scan)

    return call


def _loop(shape: Shape) -> float:
    """A loop over tokens: to autograd, the gradient of the one token that a step reads is one of all tokens."""
    return 1e-9 * shape.elements * shape.l if shape.backward else 0.0


_OPPONENTS: dict[str, list] = {
    "selective_scan": [
        ("mambapy", opponents.mambapy_scan, {"memory": 24, "saved": 24}),
        ("transformers", opponents.transformers_scan, {"memory": 16, "saved": 40, "least": _loop}),
    ],
    "causal_conv1d": [("transformers", opponents.transformers_conv, {})],
    "directional_scan": [("four scans", _four_scans, {})],
    "ssd": [("transformers", opponents.transformers_ssd, {})],
}
