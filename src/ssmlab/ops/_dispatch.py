"""The choice of a backend. Only this file knows what is installed; a backend requested by name runs or says why not."""

import os
from importlib import import_module
from types import ModuleType

from torch import Tensor

from ssmlab.core.errors import BackendError
from ssmlab.ops._example import Example

# Every operator and its backends, fastest first; `choose` takes the first that can run the call. Two have none of their
# own: `mamba3` is arithmetic around one call of `ssd`, whose backends it takes, and `lti` has views.
BACKENDS = {
    "selective_scan": ("native", "triton", "chunked", "reference"),
    "causal_conv1d": ("native", "triton", "reference"),
    "directional_scan": ("native", "triton", "chunked", "reference"),
    "ssd": ("native", "triton", "chunked", "reference"),
    "mamba3": (),
    "lti": (),
}
NAMES = ("native", "triton", "chunked", "reference")


_MODULES: dict[tuple[str, str], ModuleType] = {}


def load(op: str, name: str) -> ModuleType:
    """The module of a backend: `unusable(tensors) -> reason or None` and `forward(...)`."""
    if (op, name) not in _MODULES:
        _MODULES[op, name] = import_module(f"ssmlab.ops.{op}.{name}")
    return _MODULES[op, name]


def example(op: str) -> Example:
    """What doctor, benchmarks, FLOP counting and tests know of an operator."""
    return load(op, "example").EXAMPLE


def compute(op: str, form: str, arguments: dict[str, Tensor]):
    """The result of an operator by one of its backends or forms, with its example's options."""
    facts = example(op)
    if facts.call is not None:
        return facts.call(form, **arguments, **facts.options)
    return getattr(import_module(f"ssmlab.ops.{op}"), op)(**arguments, **facts.options, backend=form)


def choose(op: str, tensors: tuple[Tensor | None, ...], requested: str | None) -> ModuleType:
    """The backend for this call: the requested one, else the one SSMLAB_BACKEND names, else the fastest that can run.

    Raises:
        BackendError: `requested` or SSMLAB_BACKEND names no backend, or one that cannot run this call.
    """
    backends = BACKENDS[op]
    requested = _from_environment(backends) if requested is None else requested
    if requested is None:
        for name in backends:
            if load(op, name).unusable(tensors) is None:
                return load(op, name)
    if requested not in backends:
        raise BackendError(f"{op}: unknown backend {requested!r}; there are {', '.join(backends)}")
    reason = load(op, requested).unusable(tensors)
    if reason is not None:
        raise BackendError(f"{op}: backend {requested!r} cannot run this call: {reason}; leave it out to use another")
    return load(op, requested)


def _from_environment(backends: tuple[str, ...]) -> str | None:
    """SSMLAB_BACKEND; an operator without it (a convolution has no chunks) takes the next."""
    requested = os.environ.get("SSMLAB_BACKEND")
    if not requested:
        return None
    if requested not in NAMES:
        raise BackendError(f"SSMLAB_BACKEND={requested} names no backend; there are {', '.join(NAMES)}")
    return next(name for name in NAMES[NAMES.index(requested) :] if name in backends)


def active_backend(op: str) -> str:
    """The backend that a float32 call on the CPU takes.

    Raises:
        BackendError: SSMLAB_BACKEND asks for one that cannot run here.
    """
    requested = _from_environment(BACKENDS[op])
    return choose(op, (), requested).__name__.rsplit(".", 1)[-1]


def explain_backends() -> list[tuple[str, str, bool, str]]:
    """(operator, backend, usable on this machine's CPU, why or why not) for every operator, fastest first."""
    return [(op, *row) for op in BACKENDS for row in _explain(op)]


def _explain(op: str) -> list[tuple[str, bool, str]]:
    backends = BACKENDS[op]
    requested = _from_environment(backends)
    rows = []
    for name in backends:
        reason = load(op, name).unusable(())
        if reason is None and requested and requested != name:
            reason = f"SSMLAB_BACKEND asks for {requested}"
        rows.append((name, reason is None, reason or (load(op, name).__doc__ or "").split("\n")[0]))
    return rows
