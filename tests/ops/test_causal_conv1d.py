"""The laws of the causal convolution, the native kernels against the definition in float64."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.common import assert_equal_runs, rounded, run
from ssmlab.core.errors import BackendError, ShapeError
from ssmlab.ops import _native, causal_conv1d

NATIVE = pytest.param("native", marks=pytest.mark.skipif(bool(_native.MISSING), reason="not built"))


def make(b, d, l, width, absent=()):
    def values(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    arguments = {"x": values(b, d, l), "weight": values(d, width), "bias": values(d)}
    arguments["initial_state"] = values(b, d, width - 1)
    return {k: None if k in absent else t for k, t in arguments.items()}


CASES = {
    "plain": ((2, 48, 300, 4), (), None),
    "one token": ((2, 5, 1, 4), (), None),
    "shorter than the filter": ((1, 5, 2, 4), ("initial_state",), None),
    "three taps": ((2, 33, 129, 3), ("bias",), None),
    "two taps": ((2, 300, 130, 2), (), None),
    "one tap": ((1, 16, 10, 1), (), None),
    "packed": ((3, 20, 257, 4), (), 7),
    "packed, shorter than the filter": ((2, 20, 130, 5), ("initial_state", "bias"), 2),
    "packed, single tokens": ((2, 20, 130, 3), (), 1),
}


@pytest.mark.parametrize("layout", ["tokens", "channels", "gaps"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", [NATIVE])
def test_backend_equals_definition(backend, case, activation, layout):
    sizes, absent, length = CASES[case]
    options = {"activation": activation}
    if length:
        options["seq_idx"] = torch.arange(sizes[2])[None] // torch.tensor([[length + i] for i in range(sizes[0])])
    arguments = rounded(make(*sizes, absent=absent), torch.float32)
    exact = run(causal_conv1d, arguments, torch.float64, "reference", **options)
    found = run(causal_conv1d, arguments, torch.float32, backend, layout, **options)
    assert_equal_runs(found, exact, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["reference", NATIVE])
def test_half_precisions(backend, dtype):
    arguments = rounded(make(2, 48, 70, 4), dtype)
    exact = run(causal_conv1d, arguments, torch.float64, "reference", activation="silu")
    assert_equal_runs(run(causal_conv1d, arguments, dtype, backend, activation="silu"), exact, dtype)


@pytest.mark.parametrize("backend", ["reference", NATIVE])
@settings(max_examples=20, deadline=None)
@given(sizes=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.integers(1, 6)), data=st.data())
def test_halves_and_steps_equal_the_whole(backend, sizes, data):
    torch.manual_seed(0)  # for every example
    arguments = {k: t.float() for k, t in make(*sizes).items()}
    y, state = causal_conv1d(**arguments, activation="silu", backend=backend)
    cut = data.draw(st.integers(0, sizes[2]))
    places = (0, cut, sizes[2]) if data.draw(st.booleans()) else range(sizes[2] + 1)
    carried, parts = arguments.pop("initial_state"), []
    x = arguments.pop("x")
    for begin, end in pairwise(places):
        part, carried = causal_conv1d(
            x[..., begin:end], **arguments, activation="silu", initial_state=carried, backend=backend
        )
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=-1), y)
    assert torch.equal(carried, state)


@pytest.mark.parametrize("backend", ["reference", NATIVE])
def test_packed_equals_separate(backend):
    arguments = {k: t.float() for k, t in make(1, 20, 100, 4, absent=("initial_state",)).items() if t is not None}
    x, lengths, begin = arguments.pop("x"), [1, 2, 63, 1, 30, 3], 0
    seq_idx = torch.repeat_interleave(torch.arange(6), torch.tensor(lengths))[None]
    y, state = causal_conv1d(x, **arguments, seq_idx=seq_idx, backend=backend)
    for length in lengths:
        alone, last = causal_conv1d(x[..., begin : begin + length], **arguments, backend=backend)
        torch.testing.assert_close(y[..., begin : begin + length], alone)
        begin += length
    assert torch.equal(state, last)


@pytest.mark.parametrize("backend", ["reference", NATIVE])
def test_the_future_does_not_matter(backend):
    arguments = {k: t.float() for k, t in make(1, 8, 30, 4).items()}
    y, _ = causal_conv1d(**arguments, backend=backend)
    arguments["x"][..., 20:] = float("nan")
    later, _ = causal_conv1d(**arguments, backend=backend)
    assert torch.equal(later[..., :20], y[..., :20])


def test_wrong_arguments_say_what_to_do():
    x, weight = torch.zeros(2, 5, 9), torch.zeros(5, 4)
    with pytest.raises(ShapeError, match="activation must be None or 'silu', got 'relu'"):
        causal_conv1d(x, weight, activation="relu")
    with pytest.raises(ShapeError, match=r"initial_state must have shape \(b=2, d=5, width-1=3\), got \(2, 5, 4\)"):
        causal_conv1d(x, weight, initial_state=torch.zeros(2, 5, 4))
    with pytest.raises(ShapeError, match="weight.permute"):
        causal_conv1d(x, weight.T)
    with pytest.raises(BackendError, match="float64"):
        causal_conv1d(x.double(), weight.double(), backend="native")
