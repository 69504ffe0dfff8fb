"""B by zero-order hold: the exact solution where the input is constant between two tokens."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ops.common import TOLERANCE, assert_equal_runs, relative_error, rounded, run
from ops.test_second_derivatives import second
from ops.test_selective_scan import positional
from ssmlab.core.errors import UserError
from ssmlab.ops import selective_scan
from ssmlab.ops.selective_scan import zero_order_hold
from ssmlab.ops.selective_scan.zero_order_hold import _factor, _slope
from ssmlab.profiling import count_flops, peak_memory

b, d, n, l = 2, 6, 4, 23
BACKENDS = ["native", "chunked", "reference"]
FORMS = {
    "tokens": {"B": (b, n, l), "C": (b, n, l)},
    "groups": {"B": (b, 3, n, l), "C": (b, 2, n, l)},
    "constant": {"B": (d, n), "C": (d, n)},
}


def inputs(form, complex_=False):
    torch.manual_seed(0)
    A = -torch.rand(d, n, dtype=torch.float64) * torch.logspace(-6, 1, n, dtype=torch.float64)
    found = {"x": torch.randn(b, d, l), "dt": torch.rand(b, d, l), "A": A, "D": torch.randn(d)}
    found |= {"z": torch.randn(b, d, l), "dt_bias": torch.randn(d), "initial_state": torch.randn(b, d, n)}
    for name, shape in FORMS[form].items():
        if complex_ and len(shape) > 2:
            shape = (*shape[:-1], 2 * l)
        found[name] = torch.randn(shape)
    found = {k: t.double() for k, t in found.items()}
    if complex_:
        found["A"] = torch.complex(A, 3 * torch.randn(d, n, dtype=torch.float64))
        found |= {k: torch.complex(found[k], torch.randn_like(found[k])) for k in "BC" if found[k].dim() == 2}
    return found


def loop(x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus=False, seq_idx=None, backend=None):
    """The paper's equation 4, token by token."""
    dt = dt + dt_bias[:, None]
    dt = F.softplus(dt) if dt_softplus else dt

    def at(map_, t):  # (b or 1, d, n)
        if map_.dim() == 2:
            return map_[None]
        if A.is_complex():
            map_ = torch.view_as_complex(map_.unflatten(-1, (-1, 2)))
        map_ = map_[:, None] if map_.dim() == 3 else map_
        return map_[..., t].repeat_interleave(d // map_.shape[1], dim=1)

    h, ys = initial_state.to(A.dtype), []
    for t in range(x.shape[-1]):
        if seq_idx is not None and t:
            h = h * (seq_idx[:, t] == seq_idx[:, t - 1])[:, None, None]
        decay = torch.exp(dt[..., t, None] * A)
        h = decay * h + (decay - 1) / A * at(B, t) * x[..., t, None]
        y = (at(C, t) * h).sum(-1)
        ys.append((2 * y.real if A.is_complex() else y) + D * x[..., t])
    return torch.stack(ys, -1) * F.silu(z), h


def held(**arguments):
    return selective_scan(**arguments, B_discretization="zoh")


@pytest.fixture(params=[64, 5], ids=["whole", "chunks"])
def tokens(request, monkeypatch):
    """Tokens whose maps exist at the same time: more than there are, and few."""
    monkeypatch.setattr(zero_order_hold, "TOKENS", request.param)


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_backend_equals_the_loop(form, backend):
    i = rounded(inputs(form), torch.float32)
    exact = run(loop, i, torch.float64, backend, dt_softplus=True)
    assert_equal_runs(run(held, i, torch.float32, backend, dt_softplus=True), exact, torch.float32)
    if backend != "native":
        assert_equal_runs(
            run(held, i, torch.float64, backend, dt_softplus=True), exact, torch.float32
        )  # the loop's (exp - 1) / A is what limits it


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["tokens", "groups", "constant"])
def test_complex_rates(form, backend):
    i = inputs(form, complex_=True)
    single = {k: t.to(torch.complex64 if t.is_complex() else torch.float32).requires_grad_() for k, t in i.items()}
    leaves = {k: t.detach().to(i[k].dtype).requires_grad_() for k, t in single.items()}
    results = []
    for op, own in ((loop, leaves), (lambda **a: held(**a, backend=backend), single)):
        y, h = op(**own, dt_softplus=True)
        loss = (y * torch.linspace(-1, 1, y.numel()).view(y.shape).to(y)).sum() + h.abs().square().sum()
        results.append([y.detach(), h.detach(), *torch.autograd.grad(loss, list(own.values()))])
    errors = [relative_error(found, exact) for exact, found in zip(*results, strict=True)]
    assert max(errors[:2]) < TOLERANCE[torch.float32][0] and max(errors[2:]) < TOLERANCE[torch.float32][1]


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_sequences(backend):
    """One begins where a chunk does, one within a chunk, and a row has three."""
    i = rounded(inputs("tokens"), torch.float32)
    seq_idx = torch.tensor([[0] * 10 + [1] * 13, [0] * 13 + [1] * 7 + [4] * 3])
    exact = run(loop, i, torch.float64, backend, dt_softplus=True, seq_idx=seq_idx)
    assert_equal_runs(run(held, i, torch.float32, backend, dt_softplus=True, seq_idx=seq_idx), exact, torch.float32)


@pytest.mark.parametrize("ends", [[9, l], range(1, l + 1)], ids=["two halves", "one by one"])
def test_pieces_with_the_state_carried_are_the_whole(ends):
    i = {k: t.float() for k, t in inputs("tokens").items()}
    whole, last = held(**i, dt_softplus=True)
    state, begin, ys = i["initial_state"], 0, []
    for end in ends:
        piece = {k: t[..., begin:end] if t.shape[-1] == l else t for k, t in i.items()} | {"initial_state": state}
        y, state = held(**piece, dt_softplus=True)
        ys, begin = [*ys, y], end
    assert relative_error(torch.cat(ys, -1), whole) < 1e-6 and relative_error(state, last) < 1e-6


def test_tokens_that_take_no_time_are_padding():
    i = {k: t.float() for k, t in inputs("tokens").items() if k != "dt_bias"}
    i["dt"][0, :, :7], i["dt"][1, :, 15:] = 0, 0
    y, h = held(**i)
    for row, part in ((0, slice(7, l)), (1, slice(0, 15))):
        one = {k: t if k in "AD" else t[row : row + 1] for k, t in i.items()}
        alone, last = held(**{k: t[..., part] if t.shape[-1] == l else t for k, t in one.items()})
        assert relative_error(y[row : row + 1, :, part], alone) < 1e-6 and relative_error(h[row : row + 1], last) < 1e-6


def with_gradients(l, backend):
    b, d, n = 1, 64, 16
    i = {"x": torch.randn(b, d, l), "dt": torch.rand(b, d, l), "A": -torch.rand(d, n)}
    i |= {"B": torch.randn(b, n, l), "C": torch.randn(b, n, l)}
    y, _ = held(**{k: t.requires_grad_() for k, t in i.items()}, backend=backend)
    torch.autograd.grad(y.sum(), list(i.values()))


def test_the_kernels_never_have_the_map_of_all_tokens():
    with_gradients(70, "native")  # what is loaded at first use
    with peak_memory() as peak:
        with_gradients(8192, "native")
    if peak.extra is None:
        pytest.skip("no meter of memory on this system")
    assert peak.extra < 4 * 64 * 16 * 8192  # of x there are 2 MiB, of the states 32


def test_plain_torch_never_has_the_map_of_all_tokens():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            self.size = max([self.size, *(t.numel() for t in tree_leaves(found) if isinstance(t, torch.Tensor))])
            return found

    with Largest() as largest:
        with_gradients(1024, "chunked")
    assert largest.size <= 64 * 16 * 64


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_map_is_counted(backend, complex_):
    """12 b d l n + b d l multiply-accumulates; the backward pass counts twice, a complex state as two numbers."""
    i = {k: t.to(torch.complex64 if t.is_complex() else torch.float32) for k, t in inputs("tokens", complex_).items()}
    macs = 12 * b * d * l * n * (2 if complex_ else 1) + b * d * l
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        held(**i, backend=backend)
    assert counter.get_total_flops() == 2 * macs
    if backend == "native":
        i["x"].requires_grad_()
        with FlopCounterMode(display=False) as counter:
            held(**i, backend=backend)[0].sum().backward()
        assert counter.get_total_flops() == 3 * 2 * macs


def test_the_profiler_counts_it_among_the_scans():
    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return held(**dict(zip(("x", "dt", "A", "B", "C"), tensors, strict=True)))[0]

    i = inputs("tokens")
    counts = count_flops(Scan(), tuple(i[k].float() for k in ("x", "dt", "A", "B", "C")))
    assert counts.macs == counts.scan_macs == 12 * b * d * l * n + b * d * l


@pytest.mark.parametrize("absent", [(), ("D", "z", "dt_bias", "initial_state")])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("complex_", [False, True])
def test_opcheck(form, absent, complex_):
    i = {k: t.to(torch.complex64 if t.is_complex() else torch.float32) for k, t in inputs(form, complex_).items()}
    arguments = positional(i | dict.fromkeys(absent))
    torch.library.opcheck(torch.ops.ssmlab.selective_scan_held, (*arguments, True, "native"))
    y, state, saved = torch.ops.ssmlab.selective_scan_held(*arguments, True, "native")
    torch.library.opcheck(torch.ops.ssmlab.selective_scan_held_backward, (y, state, saved, *arguments, "native"))


def test_it_compiles_without_graph_breaks_and_exports_any_length():
    i = [inputs("tokens")[k].float() for k in ("x", "dt", "A", "B", "C")]

    class Scan(torch.nn.Module):
        def forward(self, x, dt, A, B, C):
            return selective_scan(x, dt, A, B, C, dt_softplus=True, B_discretization="zoh")[0]

    scan, leaves = Scan(), [t.clone().requires_grad_() for t in i]
    exact = torch.autograd.grad(scan(*leaves).sin().sum(), leaves)
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    for found, gradient in zip(torch.autograd.grad(compiled(*leaves).sin().sum(), leaves), exact, strict=True):
        torch.testing.assert_close(found, gradient)
    length = {2: torch.export.Dim("length", min=2, max=4096)}
    with torch.no_grad():
        program = torch.export.export(scan, tuple(i), dynamic_shapes=(length, length, None, length, length))
        longer = [torch.cat([t] * 5, -1) if t.dim() > 2 else t for t in i]
        torch.testing.assert_close(program.module()(*longer), scan(*longer))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own forward mode
@pytest.mark.parametrize("complex_", [False, True])
def test_forward_mode_is_that_of_plain_torch(complex_):
    i = inputs("tokens", complex_)
    tangents = {k: torch.randn_like(t) for k, t in i.items()}
    names = list(i)

    def output(*tensors, backend="chunked"):
        return held(**dict(zip(names, tensors, strict=True)), dt_softplus=True, backend=backend)[0]

    primal, tangent = torch.func.jvp(output, tuple(i.values()), tuple(tangents.values()))
    step = 1e-6
    apart = [output(*(t + s * step * tangents[k] for k, t in i.items())) for s in (1, -1)]
    assert relative_error(primal, output(*i.values())) < 1e-12
    assert relative_error(tangent, (apart[0] - apart[1]) / (2 * step)) < 1e-7
    single = [
        {k: t.to(torch.complex64 if t.is_complex() else torch.float32) for k, t in m.items()} for m in (i, tangents)
    ]
    with pytest.raises(RuntimeError, match=r"no forward mode \(jvp\); pass backend='chunked'"):
        torch.func.jvp(lambda *t: output(*t, backend=None), *(tuple(m.values()) for m in single))


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("backend", ["native", "chunked"])
def test_second_derivatives_are_the_definitions(backend, complex_):
    i = {k: t[..., :12] if t.shape[-1] == l else t[..., :24] if t.shape[-1] == 2 * l else t
         for k, t in inputs("tokens", complex_).items()}  # fmt: skip
    options = {"dt_softplus": True, "seq_idx": (torch.arange(12) > 6).long().expand(b, -1)}
    exact = second(held, i, torch.float64, backend="reference", **options)
    dtype = torch.float32 if backend == "native" else torch.float64
    for name, value in second(held, i, dtype, backend=backend, **options).items():
        assert relative_error(value.to(exact[name].dtype), exact[name]) < (1e-4 if backend == "native" else 1e-11), name


@pytest.mark.parametrize("sizes", [(0, 6, 4, 9), (2, 0, 4, 9), (2, 6, 0, 9), (2, 6, 4, 0)])
def test_nothing_to_scan(sizes):
    b, d, n, l = sizes
    x, A, maps = torch.randn(b, d, l).requires_grad_(), -torch.rand(d, n), torch.randn(b, n, l)
    state = torch.randn(b, d, n)
    y, h = selective_scan(x, torch.rand(b, d, l), A, maps, maps, initial_state=state, B_discretization="zoh")
    assert y.shape == x.shape and h.shape == state.shape and (l or torch.equal(h, state))
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_it_is_exact_where_euler_is_not():
    """h' = A h + B x with constant x for 1 second, in 1 step or in 1000: the hold gives the same, Euler does not."""
    A, one = torch.tensor([[-2.0, -0.3]]), torch.ones(1, 1, 1)

    def after(steps, kind):
        x, dt, maps = one.expand(1, 1, steps), one.expand(1, 1, steps) / steps, torch.ones(1, 2, steps)
        return selective_scan(x, dt, A, maps, maps, B_discretization=kind)[1]

    exact = (torch.exp(A) - 1) / A
    assert (
        relative_error(after(1, "zoh"), exact[None]) < 1e-6 and relative_error(after(1000, "zoh"), exact[None]) < 1e-4
    )
    assert relative_error(after(1, "euler"), exact[None]) > 0.1


def test_euler_is_what_leaving_it_out_gives():
    i = {k: t.float() for k, t in inputs("tokens").items()}
    assert torch.equal(selective_scan(**i)[0], selective_scan(**i, B_discretization="euler")[0])
    assert relative_error(held(**i)[0], selective_scan(**i)[0]) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_the_factor_and_its_slope_near_zero(dtype):
    z = torch.cat([torch.zeros(1), torch.logspace(-12, 1.5, 200)]).to(torch.float64)
    z = -z.to(dtype) * (torch.tensor(0.6 + 0.8j) if dtype.is_complex else 1)
    wide = z.to(torch.complex128)
    terms = [torch.ones_like(wide)]
    for k in range(1, 30):
        terms.append(terms[-1] * wide / (k + 1))
    slopes = sum(k * t / torch.where(wide == 0, 1, wide) for k, t in enumerate(terms))
    small = wide.abs() < 1
    factor = torch.where(small, sum(terms), (wide.exp() - 1) / torch.where(wide == 0, 1, wide))
    slope = torch.where(small, slopes, (wide.exp() - factor) / torch.where(wide == 0, 1, wide))
    slope[wide == 0] = 0.5
    leaf = z.clone().requires_grad_()
    found = _factor(leaf)
    (gradient,) = torch.autograd.grad(found, leaf, torch.ones_like(found))
    gradient = gradient.conj() if dtype.is_complex else gradient
    bound = 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-11
    assert ((found.to(factor.dtype) - factor).abs() / factor.abs()).max() < bound
    for value in (gradient, _slope(z)):
        assert ((value.to(slope.dtype) - slope).abs() / slope.abs()).max() < bound


def test_gradients_of_higher_order():
    i = {k: t[:1, :2] if k in ("x", "dt", "z", "initial_state") else t[:2] for k, t in inputs("constant").items()}
    i = {k: t[..., :5] if k in ("x", "dt", "z") else t for k, t in i.items()}
    i["dt"] = i["dt"] + 0.1
    leaves = [t.requires_grad_() for t in i.values()]

    def output(*tensors):
        return held(**dict(zip(i, tensors, strict=True)), backend="reference")[0]

    assert torch.autograd.gradcheck(output, leaves) and torch.autograd.gradgradcheck(output, leaves)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="B_discretization must be 'euler' or 'zoh', got 'bilinear'"):
        selective_scan(**inputs("tokens"), B_discretization="bilinear")
