"""For every operator: its inputs, and all that can compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ssmlab import ops
from ssmlab.ops import _dispatch
from ssmlab.ops.directional_scan import reference as directions
from ssmlab.profiling.bench import gpu, opponents
from ssmlab.profiling.bench.shapes import CHANNEL, DIRECTIONS, HEAD, WIDTH, Shape


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
    return _INPUTS[shape.op](shape, _Maker(shape, device))


def field(shape: Shape, inputs: dict[str, Tensor]) -> Field:
    """Who can compute these inputs here."""
    if shape.op == "lti":
        views = [
            Candidate(view, partial(_first, ops.lti, {"view": view})) for view in ("auto", "convolution", "recurrence")
        ]
        return Field(views, "auto", None, {})
    tensors = tuple(inputs.values())
    names = [name for name in ops.BACKENDS[shape.op] if _dispatch.load(shape.op, name).unusable(tensors) is None]
    options = OPTIONS[shape.op]
    found = [
        Candidate(
            name,
            partial(_first, getattr(ops, shape.op), options | {"backend": name}),
            **_COSTS.get((shape.op, name), {}),
        )
        for name in names
    ]
    ours = _dispatch.choose(shape.op, tensors, None).__name__.rsplit(".", 1)[-1]
    torch_path = next((name for name in names if name not in ("native", "triton")), None)
    missing = {}
    others = _OPPONENTS[shape.op] + (gpu.OPPONENTS[shape.op] if tensors[0].is_cuda else [])
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
    return partial(
        _first, getattr(ops, op), {"view": "recurrence"} if op == "lti" else {**OPTIONS[op], "backend": "reference"}
    )


def _first(function, options, **inputs) -> Tensor:
    result = function(**inputs, **options)
    return result[0] if isinstance(result, tuple) else result


def _four_scans(shape: Shape):
    """The map copied into every order and scanned by our plain scan, as code without a directional scan does."""

    def scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx):
        return ops.selective_scan(x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=dt_softplus)

    def call(x, dt, A, B, C, D, dt_bias):
        return directions.differentiable(x, dt, A, B, C, D, dt_bias, True, scan=scan)

    return call


OPTIONS: dict[str, dict] = {
    "selective_scan": {"dt_softplus": True},
    "causal_conv1d": {"activation": "silu"},
    "directional_scan": {"dt_softplus": True},
    "ssd": {"dt_softplus": True},
}


def _loop(shape: Shape) -> float:
    """A loop over tokens: to autograd, the gradient of the one token that a step reads is one of all tokens."""
    return 1e-9 * shape.elements * shape.l if shape.backward else 0.0


# Bytes as measured at (1, 1536, 196, 16). A convolution's reference has no loop over tokens.
_COSTS: dict[tuple[str, str], dict] = {
    (op, "reference"): {"saved": 128, "least": _loop} for op in ("selective_scan", "directional_scan")
} | {("ssd", "reference"): {"saved": 128, "least": _loop}}
_OPPONENTS: dict[str, list] = {
    "selective_scan": [
        ("mambapy", opponents.mambapy_scan, {"memory": 24, "saved": 24}),
        ("transformers", opponents.transformers_scan, {"memory": 16, "saved": 40, "least": _loop}),
    ],
    "causal_conv1d": [("transformers", opponents.transformers_conv, {})],
    "directional_scan": [("four scans", _four_scans, {})],
    "ssd": [("transformers", opponents.transformers_ssd, {})],
}


class _Maker:
    """Random tensors of a shape, the same every time."""

    def __init__(self, shape: Shape, device: str):
        self.random = torch.Generator().manual_seed(0)
        self.shape, self.device, self.dtype = shape, device, getattr(torch, shape.dtype)

    def parameter(self, *sizes: int) -> Tensor:
        return torch.randn(sizes, generator=self.random).to(self.device)

    def rates(self, *sizes: int) -> Tensor:
        return (-0.1 - 4 * torch.rand(sizes, generator=self.random)).to(self.device)

    def tokens(self, *sizes: int, shift: float = 0.0) -> Tensor:
        """(..., c, l), or (..., c, h, w) of a map, in the shape's layout."""
        axes = 2 if self.shape.op == "directional_scan" else 1  # those of the tokens
        made = (torch.randn(sizes, generator=self.random) + shift).to(self.device, self.dtype)
        if self.shape.layout != CHANNEL:
            return made
        return made.movedim(-1 - axes, -1).contiguous().movedim(-1, -1 - axes)


def _scan_inputs(shape: Shape, make: _Maker) -> dict[str, Tensor]:
    b, d, l, n = shape.b, shape.d, shape.l, shape.n
    return {
        "x": make.tokens(b, d, l), "dt": make.tokens(b, d, l, shift=-1.0), "A": make.rates(d, n),
        "B": make.tokens(b, n, l), "C": make.tokens(b, n, l), "D": make.parameter(d), "z": make.tokens(b, d, l),
        "dt_bias": make.parameter(d),
    }  # fmt: skip


def _conv_inputs(shape: Shape, make: _Maker) -> dict[str, Tensor]:
    weight, bias = make.parameter(shape.d, WIDTH), make.parameter(shape.d)
    return {"x": make.tokens(shape.b, shape.d, shape.l), "weight": weight, "bias": bias}


def _directional_inputs(shape: Shape, make: _Maker) -> dict[str, Tensor]:
    b, d, n, side, k = shape.b, shape.d, shape.n, shape.side, DIRECTIONS
    return {
        "x": make.tokens(b, d, side, side), "dt": make.tokens(b, k, d, side, side, shift=-1.0),
        "A": make.rates(k, d, n), "B": make.tokens(b, k, n, side, side), "C": make.tokens(b, k, n, side, side),
        "D": make.parameter(k, d), "dt_bias": make.parameter(k, d),
    }  # fmt: skip


def _ssd_inputs(shape: Shape, make: _Maker) -> dict[str, Tensor]:
    """One group of maps; the contract's axes are (b, l, ...), the layout that of `nn.Linear`."""
    b, l, n, h = shape.b, shape.l, shape.n, shape.d // HEAD
    return {
        "x": make.tokens(b, h * HEAD, l).mT.unflatten(-1, (h, HEAD)), "dt": make.tokens(b, h, l, shift=-1.0).mT,
        "A": make.rates(h), "B": make.tokens(b, n, l).mT[:, :, None], "C": make.tokens(b, n, l).mT[:, :, None],
        "D": make.parameter(h), "dt_bias": make.parameter(h),
    }  # fmt: skip


def _lti_inputs(shape: Shape, make: _Maker) -> dict[str, Tensor]:
    """S4D-Lin: A_n = -1/2 + i pi n (Gu et al. 2022, arXiv:2206.11893, section 4.3), steps of 0.001 to 0.1."""
    d, n = shape.d, shape.n
    numbers = torch.arange(n, device=make.device)
    return {
        "u": make.tokens(shape.b, d, shape.l),
        "dt": torch.logspace(-3, -1, d, device=make.device),
        "A": torch.complex(torch.full((d, n), -0.5, device=make.device), (torch.pi * numbers).expand(d, n)),
        "B": torch.complex(make.parameter(d, n), make.parameter(d, n)),
        "C": torch.complex(make.parameter(d, n), make.parameter(d, n)),
        "D": make.parameter(d),
    }


_INPUTS = {
    "selective_scan": _scan_inputs,
    "causal_conv1d": _conv_inputs,
    "directional_scan": _directional_inputs,
    "ssd": _ssd_inputs,
    "lti": _lti_inputs,
}
