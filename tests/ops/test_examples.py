"""Every operator of the dispatch table, by its example: backends against the definition, shapes, torch's own check."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ops.common import assert_equal_runs, run
from ssmlab import ops
from ssmlab.core.errors import ShapeError
from ssmlab.ops import _dispatch
from ssmlab.ops._example import CHANNEL, TIME, Maker
from ssmlab.profiling.flops import PARTS

SMALL = {"selective_scan": {"d": 20, "l": 70, "n": 5}, "causal_conv1d": {"d": 20, "l": 70}, "lti": {"d": 9, "l": 70}}


def example_of(op, **options):
    facts = _dispatch.example(op)
    return facts, facts.inputs(Maker(**options), **{**facts.odd, **SMALL.get(op, {})})


def forms_of(op):
    """What can compute it on this machine's CPU, fastest first."""
    usable = [name for name in ops.BACKENDS[op] if _dispatch.load(op, name).unusable(()) is None]
    return usable or list(_dispatch.example(op).forms)


def outputs_of(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("op", ops.BACKENDS)
def test_sizes_are_those_of_the_contract(op):
    """Axes of one letter have one size, and a wrong one is a `ShapeError`."""
    facts, inputs = example_of(op)
    assert list(inputs) == list(facts.axes)
    sizes: dict[str, int] = {}
    for name, tensor in inputs.items():
        for letter, size in zip(facts.axes[name].split(), tensor.shape, strict=True):
            assert sizes.setdefault(letter, size) == size, f"{name}: {letter}"
    first = next(iter(inputs))
    with pytest.raises(ShapeError, match=op):
        _dispatch.compute(op, "reference", inputs | {first: inputs[first][:, :-1]})
    assert facts.part in PARTS and set(facts.not_timed) <= set(inputs)


@pytest.mark.parametrize("op", ops.BACKENDS)
@pytest.mark.parametrize("layout", ["tokens", "channels", "gaps"])
def test_every_form_is_the_definition(op, layout):
    _, inputs = example_of(op)

    def function(*, backend, **arguments):
        return outputs_of(_dispatch.compute(op, backend, arguments))

    values = {name: tensor.double() for name, tensor in inputs.items()}
    exact = run(function, values, torch.float64, "reference")
    for form in forms_of(op):
        found = run(function, values, torch.float32, form, layout)
        assert_equal_runs(found, exact, torch.float32)


class Caught(TorchDispatchMode):
    """The calls of our operators."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ssmlab":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("op", ops.BACKENDS)
def test_torch_checks_the_operators(op):
    """Forward without gradients, then forward and backward: every operator that this calls passes `opcheck`."""
    _, inputs = example_of(op)
    form = forms_of(op)[0]
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    with Caught() as caught, torch.no_grad():
        _dispatch.compute(op, form, inputs)
    with caught:
        sum(y.sum() for y in outputs_of(_dispatch.compute(op, form, leaves))).backward()
    assert caught.calls or form in ("chunked", "reference")
    for func, args, kwargs in caught.calls:
        plain = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
        torch.library.opcheck(func, tuple(plain), kwargs)


@pytest.mark.parametrize("op", ops.BACKENDS)
def test_what_is_counted_has_a_formula(op):
    facts, inputs = example_of(op)
    for name in facts.counted:
        assert getattr(torch.ops.ssmlab, name) in flop_registry
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _dispatch.compute(op, forms_of(op)[0], inputs)
    ours = {str(name) for name in counter.get_flop_counts().get("Global", {}) if str(name).startswith("ssmlab.")}
    if facts.counted:
        assert ours and ours <= {f"ssmlab.{name}" for name in facts.counted}


@pytest.mark.parametrize("layout", [CHANNEL, TIME])
@pytest.mark.parametrize("op", [op for op in ops.BACKENDS if _dispatch.example(op).full])
def test_a_layout_moves_memory_and_no_numbers(op, layout):
    _, drawn = example_of(op)
    _, made = example_of(op, layout=layout)
    for name, tensor in made.items():
        assert torch.equal(tensor, drawn[name])
