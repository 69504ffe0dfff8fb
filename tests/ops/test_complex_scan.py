"""The selective scan with a complex A: the laws, outputs and all gradients against the definition in complex128."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from ops.common import assert_equal_runs, relative_error, rounded, run
from ops.test_selective_scan import BUILT, CASES, FAST, LAYOUTS, make, packed, positional
from ssmlab.core.errors import BackendError, ShapeError
from ssmlab.ops import selective_scan


def number(pairs: torch.Tensor) -> torch.Tensor:
    pairs = pairs.to(torch.promote_types(pairs.dtype, torch.float32))
    return torch.complex(*pairs.unflatten(-1, (-1, 2)).unbind(-1))


def complex_scan(*, A, B, C, initial_state=None, **others):
    """The scan with A, constant maps and states as pairs of real numbers, so that `run` has real leaves. Its gradients
    are those of torch's convention exactly where the pairs' gradients are right."""
    B, C = (number(map_) if map_.dim() == 2 else map_ for map_ in (B, C))
    state = None if initial_state is None else number(initial_state)
    y, final = selective_scan(A=number(A), B=B, C=C, initial_state=state, **others)
    return y, torch.view_as_real(final).flatten(2)


def check(arguments, backend="native", layout="tokens", dtype=torch.float32, **options):
    arguments = rounded(arguments, dtype)
    exact = run(complex_scan, arguments, torch.float64, "reference", **options)
    assert_equal_runs(run(complex_scan, arguments, dtype, backend, layout, **options), exact, dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
@BUILT
def test_native_equals_definition(layout, case):
    sizes, form, options = CASES[case]
    options = {"dt_softplus": True} | options
    if "seq_idx" in options:
        options["seq_idx"] = packed(sizes[0], sizes[2], options["seq_idx"])
    check(make(*sizes, **form, complex_=True), layout=layout, **options)


@pytest.mark.parametrize("constant", ["", "B", "C", "BC"])
def test_chunked_equals_definition(constant):
    check(make(2, 6, 90, 4, constant=constant, complex_=True), "chunked", dtype=torch.float64, dt_softplus=True)


@pytest.mark.parametrize("n", [1, 3, 8, 16, 64])
@pytest.mark.parametrize("l", [1, 2, 63, 64, 65, 131])
@BUILT
def test_native_at_sizes_around_its_blocks(n, l):
    check(make(1, 5, l, n, complex_=True), dt_softplus=True)


@pytest.mark.parametrize("layout", ["tokens", "channels"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BUILT
def test_half_precisions_keep_a_float32_state(dtype, layout):
    check(make(2, 48, 70, 16, complex_=True), layout=layout, dtype=dtype, dt_softplus=True)
    cast = {k: t.to(dtype) for k, t in make(1, 4, 5, 3, complex_=True).items()}
    selective = {"A": number(cast["A"]), "initial_state": number(cast["initial_state"])}
    y, state = selective_scan(**cast | selective, backend="native")
    assert (y.dtype, state.dtype) == (dtype, torch.complex64)


@pytest.mark.parametrize("largest", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("dt_softplus", [False, True])
@BUILT
def test_fast_rotations_keep_their_phase(dt_softplus, largest):
    """S4D-Lin's A = -1/2 + i pi k turns by up to 200 radians for each unit of dt: a step rounded to float32 would
    already be 1e-5 wrong."""
    b, d, l, n = 2, 20, 131, 64
    arguments = make(b, d, l, n, complex_=True, absent=("D", "z", "dt_bias", "initial_state"))
    A = torch.stack([torch.full((n,), -0.5), math.pi * torch.arange(n)], dim=-1)
    arguments["A"] = A.double().flatten().expand(d, 2 * n)
    dt = largest * torch.logspace(-2, 0, d, dtype=torch.float64)[:, None] * (0.5 + 0.5 * arguments["dt"])
    arguments["dt"] = dt + torch.log(-torch.expm1(-dt)) if dt_softplus else dt
    check(arguments, dt_softplus=dt_softplus)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@settings(max_examples=15, deadline=None)
@given(sizes=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(2, 90), st.integers(1, 9)), data=st.data())
def test_halves_and_steps_equal_the_whole(backend, sizes, data):
    torch.manual_seed(0)  # for every example
    arguments = {k: t.float() for k, t in make(*sizes, complex_=True).items()}
    y, state = complex_scan(**arguments, dt_softplus=True, backend=backend)
    cut = data.draw(st.integers(0, sizes[2]))
    places = (0, cut, sizes[2]) if data.draw(st.booleans()) else range(sizes[2] + 1)
    carried, parts = arguments["initial_state"], []
    for begin, end in pairwise(places):
        piece = {k: t[..., begin:end] if k in ("x", "dt", "z") else t for k, t in arguments.items()}
        piece |= {k: arguments[k][..., 2 * begin : 2 * end] for k in "BC"} | {"initial_state": carried}
        part, carried = complex_scan(**piece, dt_softplus=True, backend=backend)
        parts.append(part)
    assert relative_error(torch.cat(parts, dim=-1), y) < 5e-6 and relative_error(carried, state) < 5e-6


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_packed_equals_separate(backend):
    arguments = make(1, 20, 100, 5, complex_=True, absent=("initial_state",))
    arguments = {k: t.float() for k, t in arguments.items() if t is not None}
    lengths = [1, 63, 1, 30, 5]
    seq_idx = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    y, state = complex_scan(**arguments, dt_softplus=True, seq_idx=seq_idx, backend=backend)
    begin = 0
    for length in lengths:
        piece = {k: t[..., begin : begin + length] if k in ("x", "dt", "z") else t for k, t in arguments.items()}
        piece |= {k: arguments[k][..., 2 * begin : 2 * (begin + length)] for k in "BC"}
        alone, last = complex_scan(**piece, dt_softplus=True, backend=backend)
        torch.testing.assert_close(y[..., begin : begin + length], alone, atol=1e-5, rtol=1e-5)
        begin += length
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("where", ["x", "dt"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_stays_in_its_row(backend, where, poison):
    arguments = {k: t.float() for k, t in make(3, 20, 40, 4, complex_=True).items()}
    clean, _ = complex_scan(**arguments, backend=backend)
    arguments[where][1, 7, 13] = poison
    y, _ = complex_scan(**arguments, backend=backend)
    assert torch.equal(y[[0, 2]], clean[[0, 2]])
    assert torch.equal(y[1, :, :13], clean[1, :, :13])
    assert torch.equal(y[1, :7], clean[1, :7]) and torch.equal(y[1, 8:], clean[1, 8:])
    assert not y[1, 7, 13].isfinite()


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("sizes", [(2, 5, 0, 3), (0, 5, 7, 3)])
def test_empty(backend, sizes):
    arguments = {k: t.float().requires_grad_() for k, t in make(*sizes, complex_=True).items()}
    y, state = complex_scan(**arguments, backend=backend)
    assert y.shape == sizes[:3]
    torch.testing.assert_close(state, arguments["initial_state"])
    (y.sum() + state.sum()).backward()
    assert torch.equal(arguments["initial_state"].grad, torch.ones_like(arguments["initial_state"]))


def numbers(sizes=(2, 20, 70, 5), **form):
    """Arguments in float32 and complex64."""
    a = {k: None if t is None else t.float() for k, t in make(*sizes, complex_=True, **form).items()}
    for k in ("A", "B", "C", "initial_state"):
        if a[k] is not None and (k not in "BC" or a[k].dim() == 2):
            a[k] = number(a[k])
    return a


@BUILT
def test_complex_arguments_may_lie_in_any_way():
    a = numbers(constant="BC")
    y, state = selective_scan(**a, backend="native")
    views = {"A": a["A"].mT.contiguous().mT, "B": a["B"].conj().resolve_conj().conj()}
    views |= {"C": torch.view_as_complex(torch.view_as_real(a["C"]).flip(0)).flip(0)}
    views |= {"initial_state": a["initial_state"].permute(2, 0, 1).contiguous().permute(1, 2, 0).conj()}
    same, last = selective_scan(**a | views | {"initial_state": views["initial_state"].conj()}, backend="native")
    assert torch.equal(y, same) and torch.equal(state, last)
    shared = {"A": a["A"][:1].expand(20, 5)}
    exact = selective_scan(**a | {"A": shared["A"].clone()}, backend="native")[0]
    assert torch.equal(selective_scan(**a | shared, backend="native")[0], exact)


@pytest.mark.parametrize("backend", FAST)
def test_a_real_state_may_start_a_complex_scan(backend):
    a = numbers()
    for state in (a["initial_state"].real.contiguous(), a["initial_state"].real):
        state = state.detach().requires_grad_()
        y, last = selective_scan(**a | {"initial_state": state}, backend=backend)
        same, _ = selective_scan(**a | {"initial_state": state.detach().to(torch.complex64)}, backend=backend)
        torch.testing.assert_close(y.detach(), same)
        (gradient,) = torch.autograd.grad(y.sum() + last.real.sum(), state)
        exact = state.detach().double().requires_grad_()
        wide = {k: t.to(torch.promote_types(t.dtype, torch.float64)) for k, t in a.items()}
        y, last = selective_scan(**wide | {"initial_state": exact}, backend="reference")
        assert relative_error(gradient, torch.autograd.grad(y.sum() + last.real.sum(), exact)[0]) < 1e-5


@BUILT
def test_what_the_kernels_refuse():
    a = numbers()
    with pytest.raises(BackendError, match="complex128"):
        selective_scan(**a | {"A": a["A"].to(torch.complex128)}, backend="native")
    with pytest.raises(ShapeError, match="initial_state must be real"):
        selective_scan(**a | {"A": a["A"].real, "B": a["B"][..., ::2], "C": a["C"][..., ::2]}, backend="native")


@pytest.mark.parametrize(
    "form",
    [{}, {"absent": ("D", "z", "dt_bias", "initial_state")}, {"groups": 4}, {"constant": "B"}, {"constant": "BC"}],
)
@BUILT
def test_opcheck(form):
    arguments = positional(numbers(**form))
    for save in (True, False):
        torch.library.opcheck(torch.ops.ssmlab.selective_scan, (*arguments, save, "native"))
    y, state, saved = torch.ops.ssmlab.selective_scan(*arguments, True, "native")
    torch.library.opcheck(torch.ops.ssmlab.selective_scan_backward, (y, state, saved, *arguments, "native"))


@BUILT
def test_opcheck_with_a_real_state():
    a = numbers()
    arguments = positional(a | {"initial_state": a["initial_state"].real})
    y, state, saved = torch.ops.ssmlab.selective_scan(*arguments, True, "native")
    torch.library.opcheck(torch.ops.ssmlab.selective_scan_backward, (y, state, saved, *arguments, "native"))


@BUILT
def test_compiles_without_graph_breaks():
    def loss(x, dt, A, B, C):
        return selective_scan(x, dt, A, B, C, dt_softplus=True)[0].sin().sum()

    leaves = [t.requires_grad_() for t in positional(numbers())[:5]]
    exact = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, gradient in zip(torch.autograd.grad(compiled(*leaves), leaves), exact, strict=True):
        torch.testing.assert_close(found, gradient)


@BUILT
def test_functional_gradients():
    x, dt, A, B, C, *_ = positional(numbers())

    def loss(A, backend=None):
        return selective_scan(x, dt, A, B, C, backend=backend)[0].sin().sum()

    found, exact = torch.func.grad(loss)(A), torch.func.grad(loss)(A, "reference")
    assert relative_error(found, exact) < 1e-5


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_a_complex_state_counts_as_two_numbers(backend):
    a = numbers()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        selective_scan(**a, backend=backend)
    b, d, l = a["x"].shape
    assert counter.get_total_flops() == 2 * (9 * b * d * l * 2 * a["A"].shape[1] + b * d * l)
