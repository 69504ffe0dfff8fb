"""The laws of the selective scan, every backend against the definition in float64, outputs and all gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.common import assert_equal_runs, relative_error, rounded, run
from ssmlab.core.errors import BackendError, ShapeError
from ssmlab.ops import _native, selective_scan

BUILT = pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")
FAST = ["chunked", pytest.param("native", marks=BUILT)]
LAYOUTS = ("tokens", "channels", "gaps")


def make(b, d, l, n, *, groups=None, constant=(), absent=(), complex_=False):
    """Arguments in float64. Complex numbers are pairs along the last axis, as `complex_scan` takes them."""
    k = 2 if complex_ else 1

    def values(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    def map_(name):
        return values(d, n * k) if name in constant else values(b, groups, n, l * k) if groups else values(b, n, l * k)

    A = -2 * torch.rand(d, n, dtype=torch.float64) - 0.05
    arguments = {
        "x": values(b, d, l), "dt": 0.6 * torch.rand(b, d, l, dtype=torch.float64),
        "A": torch.stack([A, 4 * values(d, n)], dim=-1).flatten(1) if complex_ else A,
        "B": map_("B"), "C": map_("C"), "D": values(d), "z": values(b, d, l), "dt_bias": 0.3 * values(d),
        "initial_state": values(b, d, n * k),
    }  # fmt: skip
    return {k: None if k in absent else t for k, t in arguments.items()}


def positional(arguments, dt_softplus=True):
    """What the registered operators take, by place."""
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
    return (*(arguments[name] for name in names), None, dt_softplus)


def packed(b, l, length):
    return (torch.arange(l)[None] // torch.tensor([[length + i] for i in range(b)])).to(torch.int32)


CASES = {
    "plain": ((2, 48, 130, 16), {}, {}),
    "one token, one state": ((2, 17, 1, 1), {}, {}),
    "groups": ((2, 40, 64, 3), {"groups": 4}, {}),
    "constant B": ((1, 24, 200, 5), {"constant": "B"}, {}),
    "constant C": ((1, 24, 65, 6), {"constant": "C"}, {}),
    "constant B and C": ((2, 24, 65, 2), {"constant": "BC"}, {}),
    "packed, many states": ((2, 20, 150, 64), {}, {"seq_idx": 50}),
    "short sequences": ((2, 16, 150, 16), {}, {"seq_idx": 1}),
    "several intervals": ((1, 5, 300, 40), {}, {}),
    "nothing optional": ((1, 300, 70, 4), {"absent": ("D", "z", "dt_bias", "initial_state")}, {"dt_softplus": False}),
    "no gate": ((3, 64, 129, 16), {"absent": ("z",)}, {}),
    "no bias": ((1, 33, 63, 8), {"absent": ("dt_bias",)}, {}),
    "no skip, no state": ((1, 20, 66, 8), {"absent": ("D", "initial_state")}, {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("backend", "layout"), [("chunked", "tokens"), *(pytest.param("native", x, marks=BUILT) for x in LAYOUTS)]
)
def test_backend_equals_definition(backend, layout, case):
    sizes, form, options = CASES[case]
    options = {"dt_softplus": True} | options
    if "seq_idx" in options:
        options["seq_idx"] = packed(sizes[0], sizes[2], options["seq_idx"])
    arguments = rounded(make(*sizes, **form), torch.float32)
    exact = run(selective_scan, arguments, torch.float64, "reference", **options)
    found = run(selective_scan, arguments, torch.float32, backend, layout, **options)
    assert_equal_runs(found, exact, torch.float32)


@pytest.mark.parametrize("layout", ["tokens", "channels"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", FAST)
def test_half_precisions_keep_a_float32_state(backend, dtype, layout):
    arguments = rounded(make(2, 48, 70, 16), dtype)
    exact = run(selective_scan, arguments, torch.float64, "reference", dt_softplus=True)
    assert_equal_runs(run(selective_scan, arguments, dtype, backend, layout, dt_softplus=True), exact, dtype)
    cast = {k: t.to(dtype) for k, t in arguments.items()}
    y, state = selective_scan(**cast, dt_softplus=True, backend=backend)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)


@pytest.mark.parametrize("backend", FAST)
def test_mixed_dtypes(backend):
    arguments = rounded(make(1, 20, 33, 8), torch.bfloat16)
    exact, _ = selective_scan(**arguments)
    kinds = {"x": torch.bfloat16, "B": torch.float16, "z": torch.bfloat16}
    y, _ = selective_scan(**{k: t.to(kinds.get(k, torch.float32)) for k, t in arguments.items()}, backend=backend)
    assert relative_error(y.double(), exact) < 8e-3


@pytest.mark.parametrize("groups", [(4, 2), (1, 4), (4, 1), (None, 4)])
def test_maps_may_differ_in_their_groups(groups):
    maps = [make(1, 8, 20, 4, groups=g) for g in groups]
    arguments = maps[0] | {"C": maps[1]["C"]}
    exact = run(selective_scan, arguments, torch.float64, "reference")
    for backend in (None, "chunked"):
        assert_equal_runs(run(selective_scan, arguments, torch.float32, backend), exact, torch.float32)


@BUILT
def test_the_kernels_refuse_groups_that_differ():
    arguments = {k: t.float() for k, t in make(1, 8, 20, 4, groups=4).items()}
    with pytest.raises(BackendError, match="B and C have different numbers of groups"):
        selective_scan(**arguments | {"C": arguments["C"][:, :2]}, backend="native")


@pytest.mark.parametrize("backend", ["reference", *FAST])
@settings(max_examples=15, deadline=None)
@given(sizes=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(2, 90), st.integers(1, 9)), data=st.data())
def test_halves_and_steps_equal_the_whole(backend, sizes, data):
    torch.manual_seed(0)  # for every example
    arguments = {k: t.float() for k, t in make(*sizes).items()}
    y, state = selective_scan(**arguments, dt_softplus=True, backend=backend)
    cut = data.draw(st.integers(0, sizes[2]))
    places = (0, cut, sizes[2]) if data.draw(st.booleans()) else range(sizes[2] + 1)
    carried, parts = arguments["initial_state"], []
    for begin, end in pairwise(places):
        piece = {k: t[..., begin:end] if k in ("x", "dt", "B", "C", "z") else t for k, t in arguments.items()}
        part, carried = selective_scan(**(piece | {"initial_state": carried}), dt_softplus=True, backend=backend)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=-1), y, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(carried, state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_packed_equals_separate(backend):
    arguments = {k: t.float() for k, t in make(1, 20, 100, 5, absent=("initial_state",)).items() if t is not None}
    lengths = [1, 63, 1, 30, 5]
    seq_idx = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    y, state = selective_scan(**arguments, seq_idx=seq_idx, backend=backend)
    begin = 0
    for length in lengths:
        piece = {k: t[..., begin : begin + length] if t.dim() == 3 else t for k, t in arguments.items()}
        alone, last = selective_scan(**piece, backend=backend)
        torch.testing.assert_close(y[..., begin : begin + length], alone, atol=1e-5, rtol=1e-5)
        begin += length
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_stays_in_its_row(backend, poison):
    arguments = {k: t.float() for k, t in make(3, 20, 40, 4).items()}
    clean, _ = selective_scan(**arguments, dt_softplus=True, backend=backend)
    arguments["x"][1, 7, 13] = poison
    y, _ = selective_scan(**arguments, dt_softplus=True, backend=backend)
    assert torch.equal(y[[0, 2]], clean[[0, 2]])
    assert torch.equal(y[1, :, :13], clean[1, :, :13])
    assert not y[1, 7, 13:].isfinite().any()


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("sizes", [(2, 5, 0, 3), (0, 5, 7, 3)])
def test_empty(backend, sizes):
    arguments = {k: t.float().requires_grad_() for k, t in make(*sizes).items()}
    y, state = selective_scan(**arguments, backend=backend)
    assert y.shape == sizes[:3]
    torch.testing.assert_close(state, arguments["initial_state"])
    (y.sum() + state.sum()).backward()
    assert torch.equal(arguments["initial_state"].grad, torch.ones_like(arguments["initial_state"]))


def test_double_precision_gradcheck():
    arguments = make(1, 2, 3, 2)
    names = list(arguments)
    leaves = [t.requires_grad_() for t in arguments.values()]
    assert torch.autograd.gradcheck(
        lambda *t: selective_scan(**dict(zip(names, t, strict=True)), dt_softplus=True, backend="reference"), leaves
    )


def test_float64_never_takes_float32_kernels():
    arguments = make(1, 4, 8, 3)
    y, state = selective_scan(**arguments)
    assert (y.dtype, state.dtype) == (torch.float64, torch.float64)
    with pytest.raises(BackendError, match="float64"):
        selective_scan(**arguments, backend="native")


def test_extreme_step_sizes_do_not_overflow():
    arguments = {k: t.float() for k, t in make(1, 16, 5, 4).items()}
    arguments["dt"] = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0]).expand(1, 16, 5)
    exact, _ = selective_scan(**{k: t.double() for k, t in arguments.items()}, dt_softplus=True)
    for backend in ("chunked", None):
        y, _ = selective_scan(**arguments, dt_softplus=True, backend=backend)
        assert relative_error(y.double(), exact) < 1e-6


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"B": torch.zeros(2, 9, 4)}, r"B must have shape \(b=2, n=4, l=9\).*got \(2, 9, 4\); B.permute\(0, 2, 1\)"),
        ({"z": torch.zeros(2, 5, 8)}, r"z must have shape \(b=2, d=5, l=9\), got \(2, 5, 8\)"),
        ({"C": torch.zeros(2, 3, 4, 9)}, "3 groups, which do not divide d=5"),
        ({"B": torch.zeros(5, 4, dtype=torch.complex64)}, "must be real"),
        ({"initial_state": torch.zeros(2, 4, 5)}, r"initial_state.permute\(0, 2, 1\)"),
    ],
)
def test_wrong_shapes_say_what_to_do(change, text):
    arguments = {"x": torch.zeros(2, 5, 9), "dt": torch.zeros(2, 5, 9), "A": torch.zeros(5, 4)}
    arguments |= {"B": torch.zeros(2, 4, 9), "C": torch.zeros(2, 4, 9)} | change
    with pytest.raises(ShapeError, match=text):
        selective_scan(**arguments)


def test_unknown_backend_is_refused(monkeypatch):
    arguments = make(1, 4, 8, 3)
    with pytest.raises(BackendError, match="unknown backend 'cuda'; there are native, triton, chunked, reference"):
        selective_scan(**arguments, backend="cuda")
    monkeypatch.setenv("SSMLAB_BACKEND", "fast")
    with pytest.raises(BackendError, match="SSMLAB_BACKEND=fast"):
        selective_scan(**arguments)
