"""The laws of the state space dual, every backend against the definition in float64, outputs and all gradients."""

import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ops.common import assert_equal_runs, laid_out, relative_error, rounded, run
from ssmlab.core.errors import BackendError, ShapeError
from ssmlab.ops import _native, selective_scan, ssd

BUILT = pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")
FAST = ["chunked", pytest.param("native", marks=BUILT)]
BACKENDS = ["reference", *FAST]
OPTIONAL = ("D", "z", "dt_bias", "initial_state")
PER_TOKEN = ("x", "dt", "B", "C", "z", "seq_idx")
parts = sys.modules["ssmlab.ops.ssd.parts"]


def make(b, l, h, p, g, n, *, channel_skip=False, absent=()):
    def values(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    arguments = {
        "x": values(b, l, h, p), "dt": 0.6 * torch.rand(b, l, h, dtype=torch.float64),
        "A": -2 * torch.rand(h, dtype=torch.float64) - 0.05,
        "B": values(b, l, g, n), "C": values(b, l, g, n), "D": values(h, p) if channel_skip else values(h),
        "z": values(b, l, h, p), "dt_bias": 0.3 * values(h), "initial_state": values(b, h, p, n),
    }  # fmt: skip
    return {k: None if k in absent else t for k, t in arguments.items()}


def make_float(*sizes, **form):
    return {k: t.float() for k, t in make(*sizes, **form).items() if t is not None}


def packed(b, l, length):
    return (torch.arange(l)[None] // torch.tensor([[length + i] for i in range(b)])).to(torch.int32)


def piece(arguments, begin, end, **others):
    return {k: t[:, begin:end] if k in PER_TOKEN else t for k, t in arguments.items()} | others


CASES = {
    "plain": ((2, 130, 4, 8, 1, 16), {}, {}),
    "one token": ((2, 1, 6, 5, 3, 7), {}, {}),
    "one token, one of everything": ((1, 1, 1, 1, 1, 1), {}, {}),
    "one token, nothing optional": ((2, 1, 4, 3, 2, 4), {"absent": OPTIONAL}, {}),
    "two tokens": ((2, 2, 2, 3, 1, 4), {}, {}),
    "groups": ((2, 65, 6, 3, 2, 5), {}, {}),
    "a group for each head": ((2, 40, 4, 4, 4, 8), {}, {}),
    "one head, one channel, one state": ((3, 63, 1, 1, 1, 1), {}, {}),
    "skip of every channel": ((1, 64, 4, 8, 2, 16), {"channel_skip": True}, {}),
    "short sequences": ((2, 90, 4, 4, 2, 4), {}, {"seq_idx": 1}),
    "packed": ((2, 150, 4, 4, 1, 8), {}, {"seq_idx": 50}),
    "chunks of 7": ((2, 50, 4, 4, 2, 4), {}, {"chunk_size": 7}),
    "chunks of 1": ((2, 9, 4, 4, 2, 4), {}, {"chunk_size": 1}),
    "one long chunk, packed": ((1, 200, 2, 4, 1, 4), {}, {"chunk_size": 256, "seq_idx": 30}),
    "nothing optional": ((1, 70, 4, 4, 1, 4), {"absent": OPTIONAL}, {"dt_softplus": False}),
    "no gate": ((2, 66, 4, 4, 2, 4), {"absent": ("z",)}, {}),
    "no skip": ((2, 66, 4, 4, 2, 4), {"absent": ("D",)}, {}),
    "no bias, no state": ((2, 66, 4, 4, 2, 4), {"absent": ("dt_bias", "initial_state")}, {}),
}  # fmt: skip


def with_options(sizes, options):
    options = {"dt_softplus": True} | options
    if "seq_idx" in options:
        options["seq_idx"] = packed(sizes[0], sizes[1], options["seq_idx"])
    return options


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES)
def test_equals_definition(case, backend):
    sizes, form, options = CASES[case]
    options = with_options(sizes, options)
    arguments = rounded(make(*sizes, **form), torch.float32)
    exact = run(ssd, arguments, torch.float64, "reference", **options)
    for dtype in (torch.float64, torch.float32) if backend == "chunked" else (torch.float32,):
        assert_equal_runs(run(ssd, arguments, dtype, backend, **options), exact, dtype)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES)
def test_without_gradients_the_same(case, backend):
    sizes, form, options = CASES[case]
    options = with_options(sizes, options) | {"backend": backend}
    arguments = make_float(*sizes, **form)
    leaves = {k: t.clone().requires_grad_() for k, t in arguments.items()}
    for found, wanted in zip(ssd(**arguments, **options), ssd(**leaves, **options)):
        assert found.is_contiguous()
        if backend == "native" and sizes[1] > 1:
            assert torch.equal(found, wanted)
        else:
            torch.testing.assert_close(found, wanted.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", [1, 70])
@pytest.mark.parametrize("layout", ["channels", "gaps"])
def test_strides(layout, length, backend):
    arguments = rounded(make(2, length, 4, 6, 2, 5), torch.float32)
    exact = run(ssd, arguments, torch.float64, "reference", dt_softplus=True)
    found = run(ssd, arguments, torch.float32, backend, layout, dt_softplus=True)
    assert_equal_runs(found, exact, torch.float32)
    strided = {k: laid_out(t.float(), layout) for k, t in arguments.items()}
    for form in (backend, "reference"):
        y, state = ssd(**strided, dt_softplus=True, backend=form)
        assert y.is_contiguous() and state.is_contiguous()  # as the fake kernel says
        assert relative_error(y.double(), exact["out0"]) < 1e-6


def test_slices_of_one_projection():
    """x, B and C as a block has them, parts of the rows of one matrix."""
    arguments = {k: t.float() for k, t in make(2, 70, 4, 6, 2, 5).items()}
    rows = torch.cat([arguments[k].flatten(2) for k in ("x", "B", "C", "dt")], dim=-1).split([24, 10, 10, 4], dim=-1)
    shapes = ((4, 6), (2, 5), (2, 5), (4,))
    slices = {k: t.unflatten(-1, shape) for k, t, shape in zip(("x", "B", "C", "dt"), rows, shapes)}
    for found, wanted in zip(ssd(**(arguments | slices)), ssd(**arguments)):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("budget", [1, 150, 300, 400])
def test_rows_and_chunks_one_after_the_other(budget, monkeypatch):
    monkeypatch.setattr(parts, "BUDGET", {"cpu": budget, "other": budget})
    arguments = rounded(make(3, 45, 2, 4, 1, 5), torch.float32)
    options = {"chunk_size": 8, "seq_idx": packed(3, 45, 11), "dt_softplus": True}
    exact = run(ssd, arguments, torch.float64, "reference", **options)
    assert_equal_runs(run(ssd, arguments, torch.float32, "chunked", **options), exact, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_a_selective_scan_whose_heads_share_their_decay(backend):
    b, l, h, p, g, n = 2, 70, 4, 3, 2, 5

    def as_scan(x, dt, A, B, C, D, z, dt_bias, initial_state, **options):
        def channels(t):
            return t.expand(b, l, h, p).flatten(2).mT

        y, state = selective_scan(
            channels(x), channels(dt[..., None]), A[:, None].expand(h, p).reshape(-1, 1).expand(-1, n),
            B.permute(0, 2, 3, 1), C.permute(0, 2, 3, 1), D.flatten(), z=channels(z),
            dt_bias=dt_bias[:, None].expand(h, p).flatten(), initial_state=initial_state.flatten(1, 2), **options,
        )  # fmt: skip
        return y.mT.unflatten(2, (h, p)), state.unflatten(1, (h, p))

    arguments = make(b, l, h, p, g, n, channel_skip=True)
    options = {"dt_softplus": True, "seq_idx": packed(b, l, 20)}
    exact = run(as_scan, arguments, torch.float64, "reference", **options)
    dtype = torch.float32 if backend == "native" else torch.float64
    assert_equal_runs(run(ssd, arguments, dtype, backend, **options), exact, dtype)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("absent", [(), ("z",)])
@pytest.mark.parametrize("length", [1, 70])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_keep_a_float32_state(dtype, length, absent, backend):
    arguments = {k: t for k, t in make(2, length, 4, 8, 2, 16, absent=absent).items() if t is not None}
    arguments = rounded(arguments, dtype)
    exact = run(ssd, arguments, torch.float64, "reference", dt_softplus=True)
    assert_equal_runs(run(ssd, arguments, dtype, backend, dt_softplus=True), exact, dtype)
    cast = {k: t.to(dtype) for k, t in arguments.items()}
    y, state = ssd(**cast, dt_softplus=True, backend=backend)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(y.double(), exact["out0"], atol=5e-2, rtol=2e-2)
    assert relative_error(state.double(), exact["out1"]) < 1e-6


def test_mixed_dtypes():
    arguments = rounded(make(1, 33, 4, 4, 2, 8), torch.bfloat16)
    exact, _ = ssd(**arguments)
    kinds = {"x": torch.bfloat16, "B": torch.float16, "z": torch.bfloat16}
    y, _ = ssd(**{k: t.to(kinds.get(k, torch.float32)) for k, t in arguments.items()})
    assert relative_error(y.double(), exact) < 8e-3


@pytest.mark.parametrize("grad", [False, True])
def test_autocast_does_not_reach_the_products(grad):
    arguments = {k: t.requires_grad_(grad) for k, t in make_float(2, 70, 4, 4, 2, 8).items()}
    exact, _ = ssd(**arguments)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = ssd(**arguments)
        assert (y.dtype, state.dtype) == (torch.float32, torch.float32)
        (y.sum() + state.sum()).backward() if grad else None
    assert torch.equal(y, exact)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(*bounds) for bounds in ((1, 3), (2, 60), (1, 3), (1, 6), (1, 2), (1, 6)))),
    chunk_size=st.integers(1, 20),
    data=st.data(),
)
def test_halves_and_steps_equal_the_whole(backend, sizes, chunk_size, data):
    torch.manual_seed(0)  # for every example
    b, l, r, p, g, n = sizes
    arguments, options = make_float(b, l, r * g, p, g, n), {"dt_softplus": True, "backend": backend}
    y, state = ssd(**arguments, chunk_size=chunk_size, **options)
    cut = data.draw(st.integers(0, l))
    places = (0, cut, l) if data.draw(st.booleans()) else range(l + 1)
    carried, outputs = arguments["initial_state"], []
    for begin, end in pairwise(places):
        output, carried = ssd(**piece(arguments, begin, end, initial_state=carried), chunk_size=chunk_size, **options)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), y, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(carried, state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_cross_a_carried_state(backend):
    arguments = make(2, 50, 4, 3, 2, 4)

    def in_two(backend, **tensors):
        y, state = ssd(**piece(tensors, 0, 33), backend=backend)
        y_, state = ssd(**piece(tensors, 33, 50, initial_state=state), backend=backend)
        return torch.cat([y, y_], dim=1), state

    dtype = torch.float32 if backend == "native" else torch.float64
    arguments = rounded(arguments, dtype)
    exact = run(ssd, arguments, torch.float64, "reference")
    assert_equal_runs(run(in_two, arguments, dtype, backend), exact, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk_size", [16, 64])
def test_packed_equals_separate(backend, chunk_size):
    arguments = make_float(1, 100, 4, 3, 2, 5, absent=("initial_state",))
    lengths = [1, 63, 1, 30, 5]
    seq_idx = torch.repeat_interleave(torch.tensor([3, 1, 3, 0, 2]), torch.tensor(lengths))[None]
    options = {"chunk_size": chunk_size, "backend": backend}
    y, state = ssd(**arguments, seq_idx=seq_idx, **options)
    begin = 0
    for length in lengths:
        alone, last = ssd(**piece(arguments, begin, begin + length), **options)
        torch.testing.assert_close(y[:, begin : begin + length], alone, atol=1e-5, rtol=1e-5)
        begin += length
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["x", "dt", "B"])
def test_nan_stays_in_its_row(backend, name, poison):
    arguments = make_float(3, 40, 4, 5, 2, 4)
    options = {"dt_softplus": True, "chunk_size": 8, "backend": backend}
    clean, _ = ssd(**arguments, **options)
    heads = 1 if name == "B" else 2  # the second group, which serves heads 2 and 3, or head 2
    arguments[name][1, 13, heads] = poison
    y, state = ssd(**arguments, **options)
    assert torch.equal(y[[0, 2]], clean[[0, 2]])
    assert torch.equal(y[1, :8], clean[1, :8])
    assert torch.equal(y[1, :, :2], clean[1, :, :2])
    assert not y[1, 13:, 2].isfinite().any()
    assert not state[1, 2].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(2, 0, 4, 5, 2, 3), (0, 7, 4, 5, 2, 3)])
def test_empty(backend, sizes):
    arguments = {k: t.requires_grad_() for k, t in make_float(*sizes).items()}
    y, state = ssd(**arguments, backend=backend)
    assert y.shape == sizes[:4]
    torch.testing.assert_close(state, arguments["initial_state"])
    (y.sum() + state.sum()).backward()
    assert torch.equal(arguments["initial_state"].grad, torch.ones_like(arguments["initial_state"]))
    with torch.no_grad():
        _, state = ssd(**arguments, backend=backend)
    assert state.data_ptr() != arguments["initial_state"].data_ptr() or not state.numel()


def test_double_precision_gradcheck():
    arguments = make(1, 3, 2, 2, 1, 2)
    names, leaves = list(arguments), [t.requires_grad_() for t in arguments.values()]
    for backend in ("reference", "chunked"):
        assert torch.autograd.gradcheck(
            lambda *t, backend=backend: ssd(**dict(zip(names, t)), dt_softplus=True, chunk_size=2, backend=backend),
            leaves,
        )


@pytest.mark.parametrize("backend", FAST)
def test_extreme_step_sizes_do_not_overflow(backend):
    arguments = rounded(make(1, 90, 2, 4, 1, 4), torch.float32)
    arguments["dt"] = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0], dtype=torch.float64).repeat(18)[None, :, None]
    arguments["dt"] = arguments["dt"].repeat(1, 1, 2)
    exact = run(ssd, arguments, torch.float64, "reference", dt_softplus=True)
    found = run(ssd, arguments, torch.float32, backend, dt_softplus=True)
    assert_equal_runs(found, exact, torch.float32)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("rate", [1e-4, 1.0, 30.0])
def test_a_head_of_any_decay_keeps_its_digits(rate, backend):
    """Heads are judged one by one: the gradient of a strong decay is small beside what its sums are made of."""
    arguments = rounded(make(1, 256, 3, 4, 1, 4, absent=("dt_bias",)), torch.float32)
    arguments["A"] = torch.full((3,), -rate, dtype=torch.float64)
    arguments["dt"] = arguments["dt"] + 0.2
    arguments = rounded(arguments, torch.float32)
    exact = run(ssd, arguments, torch.float64, "reference", chunk_size=256)
    found = run(ssd, arguments, torch.float32, backend, chunk_size=256)
    assert_equal_runs(found, exact, torch.float32)


@pytest.mark.parametrize("backend", FAST)
def test_growth_is_followed_too(backend):
    arguments = rounded(make(1, 50, 2, 4, 1, 4), torch.float32)
    arguments["A"] = -arguments["A"] / 4
    exact = run(ssd, arguments, torch.float64, "reference")
    assert_equal_runs(run(ssd, arguments, torch.float32, backend), exact, torch.float32)


def test_no_tensor_of_tokens_times_states():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for t in result if isinstance(result, tuple | list) else [result]:
                self.size = max(self.size, t.numel() if isinstance(t, torch.Tensor) else 0)
            return result

    b, l, h, p, g, n = 2, 1024, 4, 16, 1, 32
    a, scan = make_float(b, l, h, p, g, n), sys.modules["ssmlab.ops.ssd.chunked"]
    arguments = (*(a[k] for k in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")), True, a["initial_state"], None, 64)
    with Largest() as seen:
        scan.scan_forward(*arguments, False)
        y, state, saved = scan.scan_forward(*arguments, True)
        inputs = (a["x"], a["dt"].abs(), a["A"], a["B"], a["C"], a["D"])
        scan.scan_backward(y, state, saved, *inputs, None, 64)
    assert seen.size <= parts.BUDGET["cpu"] < b * l * h * p * n / 10
    assert saved.numel() == (l // 64 + 1) * b * h * p * n


@pytest.mark.parametrize("backend", FAST)
def test_saved_for_backward(backend):
    sizes = {}

    def pack(t):
        sizes[t.data_ptr()] = t.numel()
        return t

    b, l, h, p, g, n = 1, 1024, 4, 16, 1, 32
    leaves = {k: t.requires_grad_() for k, t in make_float(b, l, h, p, g, n, absent=("z",)).items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ssd(**leaves, dt_softplus=True, chunk_size=128, backend=backend)
    states = (l // 128 + 1 if backend == "chunked" else l // 64) * b * h * p * n
    assert sum(sizes.values()) < 1.1 * (states + sum(t.numel() for t in leaves.values()) + l * h)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"B": torch.zeros(2, 1, 9, 4)},
            r"B must have shape \(b=2, l=9, g, n\).*got \(2, 1, 9, 4\); B.permute\(0, 2, 1",
        ),
        ({"C": torch.zeros(2, 9, 2, 4)}, r"C must have shape \(b=2, l=9, g=1, n=4\), got \(2, 9, 2, 4\)"),
        ({"z": torch.zeros(2, 9, 15)}, r"z must have shape \(b=2, l=9, h=3, p=5\), got \(2, 9, 15\)"),
        ({"D": torch.zeros(5, 3)}, r"D must have shape \(h=3\) or \(h=3, p=5\), got \(5, 3\); D.permute\(1, 0\)"),
        ({"B": torch.zeros(2, 9, 2, 4), "C": torch.zeros(2, 9, 2, 4)}, "g=2 groups, which do not divide h=3"),
        ({"A": torch.zeros(3, dtype=torch.complex64)}, "must be real.*selective_scan"),
        ({"initial_state": torch.zeros(2, 3, 4, 5)}, r"initial_state.permute\(0, 1, 3, 2\)"),
        ({"chunk_size": 0}, "chunk_size must be 1 or more, got 0"),
    ],
)
def test_wrong_arguments_say_what_to_do(change, text):
    arguments = {"x": torch.zeros(2, 9, 3, 5), "dt": torch.zeros(2, 9, 3), "A": torch.zeros(3)}
    arguments |= {"B": torch.zeros(2, 9, 1, 4), "C": torch.zeros(2, 9, 1, 4)} | change
    with pytest.raises(ShapeError, match=text):
        ssd(**arguments)


def test_unknown_backend_is_refused():
    with pytest.raises(BackendError, match="unknown backend 'cuda'; there are native, triton, chunked, reference"):
        ssd(**make(1, 4, 2, 2, 1, 2), backend="cuda")


@BUILT
def test_native_refuses_double_precision():
    with pytest.raises(BackendError, match="float64"):
        ssd(**make(1, 4, 2, 2, 1, 2), backend="native")


def positional(absent=(), sizes=(2, 70, 4, 3, 2, 5)):
    a = {k: None if t is None else t.float() for k, t in make(*sizes, absent=absent).items()}
    named = (a[k] for k in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias"))
    return *named, True, a["initial_state"], None, 16


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("absent", [(), OPTIONAL])
@pytest.mark.parametrize("save", [True, False])
def test_opcheck(absent, save, backend):
    arguments = positional(absent)
    torch.library.opcheck(torch.ops.ssmlab.ssd, (*arguments, save, backend))
    torch.library.opcheck(torch.ops.ssmlab.ssd, (*arguments, False, "reference"))
    y, state, saved = torch.ops.ssmlab.ssd(*arguments, True, backend)
    z = arguments[6] if backend == "native" else None
    torch.library.opcheck(torch.ops.ssmlab.ssd_backward, (y, state, saved, *arguments[:6], None, 16, z, backend))


@pytest.mark.parametrize("length", [1, 70])
def test_compiles_without_graph_breaks(length):
    arguments = {k: t.requires_grad_() for k, t in make_float(2, length, 4, 3, 2, 5).items()}
    names, leaves = list(arguments), list(arguments.values())

    def loss(*tensors):
        y, state = ssd(**dict(zip(names, tensors)), dt_softplus=True, chunk_size=16)
        return y.sin().sum() + state.sin().sum()

    exact = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, gradient in zip(torch.autograd.grad(compiled(*leaves), leaves), exact):
        torch.testing.assert_close(found, gradient)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*leaves), loss(*leaves))


def test_exports_with_a_dynamic_length():
    class Block(torch.nn.Module):
        def forward(self, *arguments):
            return ssd(*arguments, chunk_size=16)

    arguments = positional()[:5]
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = ({1: length}, {1: length}, None, {1: length}, {1: length})
    with torch.no_grad():
        program = torch.export.export(Block(), arguments, dynamic_shapes=(shapes,))
        longer = [torch.cat([t, t], dim=1) if t.dim() > 1 else t for t in arguments]
        for found, wanted in zip(program.module()(*longer), Block()(*longer)):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is (deprecated|not supported):FutureWarning")  # forward mode
def test_functional_gradients_and_vmap(length):
    x, dt, A, B, C, *_, h0, _, _ = positional(sizes=(2, length, 4, 3, 2, 5))

    def loss(A, x, h0, backend=None):
        y, state = ssd(x, dt[:1], A, B[:1], C[:1], initial_state=h0, chunk_size=8, backend=backend)
        return y.sin().sum() + state.sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(A, x[:, None], h0[:, None])
    values = torch.func.vmap(loss, (None, 0, 0))(A, x[:, None], h0[:, None])
    for i in range(2):
        one = (A, x[i : i + 1], h0[i : i + 1])
        torch.testing.assert_close(each[i], torch.func.grad(loss)(*one))
        torch.testing.assert_close(values[i], loss(*one))
        torch.testing.assert_close(each[i], torch.func.grad(loss)(*one, "reference"), atol=1e-4, rtol=1e-4)
    if length > 1:
        with pytest.raises(RuntimeError, match="forward|jvp"):  # never a silent zero tangent
            torch.func.jvp(lambda A: loss(A, x[:1], h0[:1]), (A,), (A,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_products_are_counted(backend):
    x, dt, A, B, C, *_ = positional()
    (b, l, h, p), (g, n), q = x.shape, B.shape[2:], 16
    chunks = [q] * (l // q) + [l % q]
    macs = b * sum(q * q * g * n + h * (q * q * p + 2 * q * n * p) for q in chunks)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ssd(x, dt, A, B, C, chunk_size=q, backend=backend)
    assert counter.get_total_flops() == 2 * macs
    if backend != "reference":
        with FlopCounterMode(display=False) as counter:
            ssd(x.requires_grad_(), dt, A, B, C, chunk_size=q, backend=backend)[0].sum().backward()
        assert counter.get_total_flops() == 3 * 2 * macs


@BUILT
@pytest.mark.parametrize("sizes", [(2, 1, 1), (67, 4, 7), (33, 17, 15), (70, 33, 34), (130, 64, 20), (5, 100, 130)])
def test_every_instruction_set_at_sizes_around_its_width(instruction_set, sizes):
    l, p, n = sizes
    arguments = rounded(make(2, l, 4, p, 2, n), torch.float32)
    options = {"dt_softplus": True, "seq_idx": packed(2, l, 40)}
    exact = run(ssd, arguments, torch.float64, "reference", **options)
    for layout in ("tokens", "channels"):
        found = run(ssd, arguments, torch.float32, "native", layout, **options)
        assert_equal_runs(found, exact, torch.float32)


@BUILT
def test_any_number_of_threads_gives_the_same_bits():
    arguments, before, results = make(3, 150, 12, 8, 2, 9), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(run(ssd, arguments, torch.float32, "native", dt_softplus=True, seq_idx=packed(3, 150, 60)))
    finally:
        torch.set_num_threads(before)
    for name, value in results[0].items():
        assert all(torch.equal(value, other[name]) for other in results[1:]), name


@BUILT
@pytest.mark.parametrize("length", [1, 70])
def test_without_the_library_the_chunks_are_taken(length, monkeypatch):
    arguments = make_float(2, length, 4, 3, 2, 5)
    exact, _ = ssd(**arguments, backend="chunked")
    monkeypatch.setattr(_native, "MISSING", "the native library was not built")
    assert torch.equal(ssd(**arguments)[0], exact)
    with pytest.raises(BackendError, match="was not built"):
        ssd(**arguments, backend="native")
