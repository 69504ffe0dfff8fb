"""The laws of the time-invariant operator: both views against the definition and each other, outputs and gradients."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import cont2discrete
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ops.common import laid_out, relative_error
from ssmlab.core.errors import ShapeError
from ssmlab.ops import _native, discretize, lti, lti_convolution, lti_kernel, lti_recurrence, selective_scan
from ssmlab.ops.lti.direct import LENGTH, long_conv, usable
from ssmlab.ops.lti.views import CHUNK

VIEWS = ("convolution", "recurrence")
METHODS = ("zoh", "bilinear")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def make(b, d, l, n, *, kind="complex", absent=(), seed=0):
    """S4D-like modes, slow ones (dt A = 5e-5) and fast ones, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def values(*shape, complex_=False):
        dtype = torch.complex128 if complex_ else torch.float64
        return torch.randn(*shape, dtype=dtype, generator=generator)

    complex_ = kind != "real"
    A = -torch.rand(d, n, dtype=torch.float64, generator=generator) - 0.05
    if complex_:
        A = torch.complex(A, 3.1 * torch.arange(n, dtype=torch.float64).expand(d, n))
    arguments = {
        "u": values(b, d, l), "dt": 10 ** (-3 + 2 * torch.rand(d, dtype=torch.float64, generator=generator)), "A": A,
        "B": values(d, n, complex_=kind == "complex"), "C": values(d, n, complex_=complex_), "D": values(d),
        "initial_state": values(b, d, n, complex_=complex_),
    }  # fmt: skip
    return {k: None if k in absent else t for k, t in arguments.items()}


def cast(arguments, dtype):
    return {
        k: None if t is None else t.to(dtype.to_complex() if t.is_complex() else dtype) for k, t in arguments.items()
    }


def everything(arguments, function=lti, **options):
    """Outputs, and the gradients of every argument against fixed output gradients, all as real float64."""
    leaves = {k: t.detach().requires_grad_() for k, t in arguments.items() if t is not None}
    outputs = [torch.view_as_real(t) if t.is_complex() else t for t in function(**leaves, **options)]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in outputs]
    loss = sum(((t.double() * w).sum() for t, w in zip(outputs, weights)), torch.zeros(()))
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    found = {"y": outputs[0], "state": outputs[1]} | dict(zip(leaves, gradients))
    return {k: (torch.view_as_real(t) if t.is_complex() else t).detach().double() for k, t in found.items()}


def assert_equal(found, exact, tolerance):
    errors = {k: relative_error(found[k], exact[k]) for k in exact}
    assert all(e <= tolerance for e in errors.values()), errors


def by_hand(u, dt, A, B, C, D, initial_state, method):
    """The definition in numpy, one multiplication at a time."""
    u, dt, A, B, C, D, h = (t.numpy() for t in (u, dt, A, B, C, D, initial_state))
    z = dt[:, None] * A
    a, b = np.exp(z), np.expm1(z) / A * B
    if method == "bilinear":
        a, b = (1 + z / 2) / (1 - z / 2), dt[:, None] * B / (1 - z / 2)
    y = np.zeros(u.shape)
    for t in range(u.shape[2]):
        h = a * h + b * u[:, :, t, None]
        out = (C * h).sum(-1)
        y[:, :, t] = (2 * out.real if np.iscomplexobj(A) else out) + D * u[:, :, t]
    return torch.from_numpy(y), torch.from_numpy(h)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 200])
@pytest.mark.parametrize("kind", ["complex", "real", "complex, real B"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("view", VIEWS)
def test_the_definition(view, method, kind, length):
    arguments = make(2, 3, length, 4, kind=kind)
    y, state = by_hand(**arguments, method=method)
    found, last = lti(**arguments, discretization=method, view=view)
    assert relative_error(found, y) < 1e-12
    assert relative_error(torch.view_as_real(last.cdouble()), torch.view_as_real(state.cdouble())) < 1e-12


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["complex", "real"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(2, 3, 1, 2), (1, 2, 5, 3), (2, 3, 63, 4), (2, 3, 193, 4), (1, 2, 2000, 2)])
def test_both_views_are_equal_outputs_state_and_gradients(sizes, method, kind, dtype):
    arguments = cast(cast(make(*sizes, kind=kind), torch.float32), dtype)
    exact = everything(cast(arguments, torch.float64), discretization=method, view="recurrence")
    for view in VIEWS:
        found = everything(arguments, discretization=method, view=view)
        assert_equal(found, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("absent", ["D", "initial_state"])
def test_an_absent_argument_is_zero(view, absent):
    arguments = make(2, 3, 70, 4)
    zero = everything(arguments | {absent: torch.zeros_like(arguments[absent])}, view=view)
    zero.pop(absent)
    assert_equal(everything(arguments | {absent: None}, view=view), zero, 1e-12)


def test_the_named_views_are_the_views():
    arguments = make(2, 3, 70, 4)
    y, state = lti(**arguments, view="recurrence")
    named, last = lti_recurrence(**arguments)
    assert torch.equal(named, y) and torch.equal(last, state)
    assert torch.equal(lti_convolution(**arguments), lti(**arguments, view="convolution")[0])


@pytest.mark.parametrize("length", [1, 70, 1100])
def test_auto_is_one_of_the_views(length):
    arguments = make(1, 2, length, 3)
    auto = lti(**arguments)
    assert any(
        torch.equal(auto[0], y) and torch.equal(auto[1], h) for y, h in (lti(**arguments, view=v) for v in VIEWS)
    )


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, top) for top in (3, 4, 150, 5))),
    view=st.sampled_from(VIEWS),
    method=st.sampled_from(METHODS),
    kind=st.sampled_from(["complex", "real"]),
    data=st.data(),
)
def test_halves_and_steps_equal_the_whole(sizes, view, method, kind, data):
    arguments = make(*sizes, kind=kind)
    y, state = lti(**arguments, discretization=method, view=view)
    cut = data.draw(st.integers(0, sizes[2]))
    places = (0, cut, sizes[2]) if data.draw(st.booleans()) else range(sizes[2] + 1)
    u, carried = arguments.pop("u"), arguments.pop("initial_state")
    parts = []
    for begin, end in pairwise(places):
        part, carried = lti(u[..., begin:end], **arguments, discretization=method, view=view, initial_state=carried)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=-1), y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(carried, state, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")
def test_short_sequences_are_convolved_term_by_term_unless_asked_otherwise(monkeypatch):
    arguments = cast(make(2, 3, 40, 4), torch.float32)
    monkeypatch.delenv("SSMLAB_BACKEND", raising=False)
    direct = everything(arguments, view="convolution")
    assert usable(torch.zeros(1, 1, LENGTH - 1)) and not usable(torch.zeros(1, 1, LENGTH))
    assert not usable(torch.zeros(1, 1, 8, dtype=torch.float64)) and not usable(torch.zeros(1, 1, 8, device="meta"))
    with LoggingOps() as log:
        lti(**arguments)
    assert torch.ops.ssmlab.long_conv.default in log.seen
    monkeypatch.setenv("SSMLAB_BACKEND", "reference")
    with LoggingOps() as log:
        lti(**arguments)
    assert torch.ops.ssmlab.long_conv.default not in log.seen
    assert_equal(everything(arguments, view="convolution"), direct, 2e-6)


class LoggingOps(TorchDispatchMode):
    """Which operators ran."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.seen.add(function)
        return function(*arguments, **(options or {}))


@pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")
def test_the_direct_convolution_is_an_operator_of_torch():
    u, K = torch.randn(2, 3, 9), torch.randn(3, 9)
    for backwards in (False, True):
        torch.library.opcheck(torch.ops.ssmlab.long_conv, (u, K, backwards))
    torch.library.opcheck(torch.ops.ssmlab.long_conv_filter, (u, u.flip(0)))
    with FlopCounterMode(display=False) as counter:
        long_conv(u.requires_grad_(), K.requires_grad_()).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 3 * 9 * 10
    rows = torch.func.vmap(long_conv, in_dims=(0, None))(torch.stack([u, 2 * u]), K)
    torch.testing.assert_close(rows[1], 2 * long_conv(u, K))


def test_float32_steps_follow_slow_states():
    """dt A = -5e-5: exp(dt A) rounded to float32 would be wrong by 6e-4 of the decay, 3e-3 of the state after these."""
    d, l = 8, 1000
    dt, A = torch.full((d,), 1e-4), torch.linspace(-0.4, -0.6, d)[:, None]
    arguments = {"dt": dt, "A": A, "B": torch.ones(d, 1), "C": torch.ones(d, 1)}
    start = torch.ones(1, d, 1)
    exact = torch.exp(l * dt.double()[:, None] * A.double())[None]
    state = start
    for _ in range(l):
        _, state = lti(torch.zeros(1, d, 1), **arguments, initial_state=state)
    assert relative_error(state.double(), exact) < 2e-5
    for view in VIEWS:
        _, state = lti(torch.zeros(1, d, l), **arguments, initial_state=start, view=view)
        assert relative_error(state.double(), exact) < 1e-7


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["complex", "real"])
def test_gradcheck(view, method, kind):
    arguments = make(1, 2, 5, 2, kind=kind)
    names, leaves = list(arguments), [t.requires_grad_() for t in arguments.values()]

    def function(*tensors):
        return lti(**dict(zip(names, tensors)), discretization=method, view=view)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_compute_in_float32(view, dtype):
    arguments = cast(make(2, 3, 90, 4), torch.float32)
    arguments["u"] = arguments["u"].to(dtype)
    exact, last = lti(**(arguments | {"u": arguments["u"].float()}), view=view)
    y, state = lti(**arguments, view=view)
    assert (y.dtype, state.dtype) == (dtype, torch.complex64)
    assert torch.equal(y, exact.to(dtype)) and torch.equal(state, last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = lti(**(arguments | {"u": arguments["u"].float()}), view=view)
    assert torch.equal(inside, exact)


@pytest.mark.parametrize("view", VIEWS)
def test_meta_tensors_have_the_right_shapes(view):
    y, state = lti(**{k: t.to("meta") for k, t in cast(make(2, 3, 90, 4), torch.float32).items()}, view=view)
    assert (y.shape, y.dtype, state.shape, state.dtype) == ((2, 3, 90), torch.float32, (2, 3, 4), torch.complex64)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("layout", ["channels", "gaps"])
def test_strides(view, layout):
    arguments = make(2, 5, 70, 3)
    exact = everything(arguments, view=view)
    real = {k: laid_out(t, layout) for k, t in arguments.items() if k == "u"}
    turned = {k: arguments[k].mT.contiguous().mT for k in ("A", "B", "C", "initial_state")}
    assert_equal(everything(arguments | real | turned, view=view), exact, 1e-12)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("sizes", [(2, 5, 0, 3), (0, 5, 7, 3), (0, 5, 1, 3), (2, 5, 7, 0)])
def test_empty(view, sizes):
    arguments = {k: t.requires_grad_() for k, t in make(*sizes).items()}
    y, state = lti(**arguments, view=view)
    assert y.shape == sizes[:3] and state.shape == (*sizes[:2], sizes[3])
    (y.sum() + state.real.sum()).backward()
    if sizes[2] == 0:
        assert torch.equal(state, arguments["initial_state"])
        assert torch.equal(arguments["initial_state"].grad.real, torch.ones(2, 5, 3, dtype=torch.float64))


@pytest.mark.parametrize("view", VIEWS)
def test_rows_are_independent_and_nan_stays_in_its_channel(view):
    arguments = make(3, 4, 80, 3)
    clean, _ = lti(**arguments, view=view)
    arguments["u"][1, 2, 30] = float("nan")
    y, state = lti(**arguments, view=view)
    hit = torch.zeros(3, 4, dtype=torch.bool)
    hit[1, 2] = True
    assert torch.equal(y[~hit], clean[~hit]) and state[~hit].isfinite().all()
    assert y[1, 2, 30:].isnan().all() and state[1, 2].isnan().all()


def test_the_recurrence_ignores_the_future_to_the_bit():
    arguments = cast(make(1, 3, 200, 4), torch.float32)
    y, _ = lti_recurrence(**arguments)
    arguments["u"][..., 130:] = 1e30
    later, _ = lti_recurrence(**arguments)
    assert torch.equal(later[..., :130], y[..., :130])
    arguments["u"][..., 130:] = float("inf")  # these reach back to the start of their chunk
    later, _ = lti_recurrence(**arguments)
    assert torch.equal(later[..., : 130 - CHUNK], y[..., : 130 - CHUNK])


@pytest.mark.parametrize("method", METHODS)
def test_discretisations_agree_with_scipy(method):
    arguments = make(1, 2, 1, 3)
    dt, A, B = (arguments[k] for k in ("dt", "A", "B"))
    a, b = discretize(dt, A, B, method)
    for i in range(2):
        system = (np.diag(A[i].numpy()), B[i].numpy()[:, None], np.ones((1, 3)), np.zeros((1, 1)))
        expected = cont2discrete(system, float(dt[i]), method)
        np.testing.assert_allclose(a[i].numpy(), np.diag(expected[0]), rtol=1e-12)
        np.testing.assert_allclose(b[i].numpy(), expected[1][:, 0], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_order_hold_is_regular_where_A_vanishes(dtype):
    """B_bar = dt B and dB_bar/dA = dt^2 B / 2 at A = 0, and no digits are lost near it."""
    A = torch.tensor([[0.0, 1e-30, -1e-12, -1e-5, 1e-5, -0.09, -0.11, 0.11]], dtype=dtype, requires_grad=True)
    dt, B = torch.ones(1, dtype=dtype), torch.ones(1, 8, dtype=dtype)
    _, b = discretize(dt, A, B)
    (gradient,) = torch.autograd.grad(b.sum(), A)
    z = A.detach().double().numpy().astype(np.longdouble)
    series = sum(z**k / np.prod(np.arange(1, k + 2, dtype=np.longdouble)) for k in range(25))
    slope = sum(k * z ** (k - 1) / np.prod(np.arange(1, k + 2, dtype=np.longdouble)) for k in range(1, 25))
    rtol = max(1e-14, 4 * torch.finfo(dtype).eps)
    np.testing.assert_allclose(b.detach().double().numpy(), series.astype(float), rtol=rtol)
    np.testing.assert_allclose(gradient.double().numpy(), slope.astype(float), rtol=4 * rtol)


@pytest.mark.parametrize("view", VIEWS)
def test_growing_and_undamped_states_inside_the_domain(view):
    arguments = make(1, 3, 300, 2)
    arguments["dt"] = torch.full((3,), 0.05, dtype=torch.float64)
    arguments["A"] = torch.tensor([[0.3 + 1j, 0j], [2j, 0.1], [0.0, -0.2]], dtype=torch.complex128)
    y, state = lti(**arguments, view=view)
    for found, wanted in zip((y, state), lti(**arguments, view="recurrence")):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert all(t.isfinite().all() for t in everything(arguments, view=view).values())


@pytest.mark.parametrize("view", VIEWS)
def test_bilinear_steps_that_flip_or_erase_the_state(view):
    """dt A = -2 makes A_bar = 0, and below it is negative; powers made from logarithms would be NaN."""
    arguments = make(1, 3, 70, 2, kind="real")
    arguments["dt"], arguments["A"] = torch.ones(3).double(), torch.tensor([[-2.0, -3.0], [-8.0, -2.0], [-1.9, -50.0]])
    arguments["A"] = arguments["A"].double()
    y, state = by_hand(**arguments, method="bilinear")
    found = everything(arguments, discretization="bilinear", view=view)
    assert relative_error(found["y"], y) < 1e-12 and relative_error(found["state"], state) < 1e-12
    assert all(t.isfinite().all() for t in found.values())


@pytest.mark.parametrize("kind", ["complex", "real"])
@pytest.mark.parametrize("length", [0, 1, 2, 10, 333])
def test_kernel_is_the_vandermonde_product_and_the_impulse_response(length, kind):
    arguments = make(1, 3, length, 4, kind=kind, absent=("initial_state", "D"))
    dt, A, B, C = (arguments[k] for k in ("dt", "A", "B", "C"))
    K = lti_kernel(dt, A, B, C, length)
    assert K.shape == (3, length) and K.dtype == torch.float64
    b, k = B * (torch.exp(dt[:, None] * A) - 1) / A, torch.arange(length)
    plain = (C * b)[:, :, None] * torch.exp((dt[:, None] * A)[:, :, None] * k)
    torch.testing.assert_close(K, (2 * plain.real if kind == "complex" else plain).sum(1), rtol=1e-10, atol=1e-10)
    if length:
        arguments["u"] = torch.zeros(1, 3, length, dtype=torch.float64)
        arguments["u"][..., 0] = 1
        torch.testing.assert_close(lti(**arguments, view="recurrence")[0][0], K, rtol=1e-10, atol=1e-12)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that an operation made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        self.numel = max([self.numel, *(t.numel() for t in tensors if isinstance(t, torch.Tensor))])
        return result


def test_nothing_of_the_size_of_all_states_is_made():
    d, l, n = 2, 4096, 32
    arguments = cast(make(1, d, l, n), torch.float32)
    for view in VIEWS:
        with Largest() as largest:
            lti(**arguments, view=view)
        assert largest.numel <= 4 * d * l, view  # d l n would be 32 d l


def test_real_states_are_a_selective_scan_with_a_held_input():
    arguments = make(2, 3, 50, 4, kind="real")
    dt, A = arguments["dt"], arguments["A"]
    held = arguments["B"] * torch.expm1(dt[:, None] * A) / (dt[:, None] * A)  # the scan multiplies by dt
    steps = dt[:, None].expand(3, 50).expand(2, 3, 50)
    y, state = selective_scan(arguments["u"], steps, A, held, arguments["C"], arguments["D"],
                              initial_state=arguments["initial_state"])  # fmt: skip
    found, last = lti(**arguments)
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"A": torch.zeros(4, 5)}, r"A must have shape \(d=5, n\), got \(4, 5\); A.permute\(1, 0\)"),
        ({"dt": torch.zeros(2, 5, 9)}, r"dt must have shape \(d=5\), got \(2, 5, 9\)"),
        ({"C": torch.zeros(4, 5)}, r"C must have shape \(d=5, n=4\), got \(4, 5\); C.permute\(1, 0\)"),
        ({"initial_state": torch.zeros(2, 4, 5)}, r"initial_state.permute\(0, 2, 1\)"),
        ({"u": torch.zeros(5)}, r"u must have shape \(b, d, l\)"),
        ({"B": torch.zeros(5, 4) + 0j}, r"B must be real for a real A.*A.to\(torch.complex64\)"),
        ({"u": torch.zeros(2, 5, 9) + 0j}, "u must be real, got torch.complex64; u.real is"),
        ({"view": "fft"}, "view must be 'auto' or 'convolution' or 'recurrence', got 'fft'"),
        ({"discretization": "euler"}, "discretization must be 'zoh' or 'bilinear', got 'euler'"),
    ],
)
def test_wrong_arguments_say_what_to_do(change, text):
    arguments = {"u": torch.zeros(2, 5, 9), "dt": torch.zeros(5), "A": torch.zeros(5, 4), "B": torch.zeros(5, 4)}
    with pytest.raises(ShapeError, match=f"^lti: .*{text}"):
        lti(**(arguments | {"C": torch.zeros(5, 4)} | change))


def test_wrong_arguments_of_the_parts_say_what_to_do():
    dt, A = torch.zeros(5), torch.zeros(5, 4)
    with pytest.raises(ShapeError, match="discretize: method must be 'zoh' or 'bilinear', got 'foh'"):
        discretize(dt, A, A, "foh")
    with pytest.raises(ShapeError, match="lti_kernel: length must be 0 or more, got -1"):
        lti_kernel(dt, A, A, A, -1)
    with pytest.raises(ShapeError, match="discretize: B must be real for a real A"):
        discretize(dt, A, A + 0j)
