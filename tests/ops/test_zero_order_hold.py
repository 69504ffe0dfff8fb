"""B by zero-order hold: the exact solution where the input is constant between two tokens."""

import pytest
import torch
from torch.nn import functional as F

from ops.common import TOLERANCE, assert_equal_runs, relative_error, rounded, run
from ssmlab.core.errors import UserError
from ssmlab.ops import selective_scan
from ssmlab.ops.selective_scan.zero_order_hold import _Factor

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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["tokens", "constant"])
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


def test_packed_sequences_and_carried_states():
    i = {k: t.float() for k, t in inputs("tokens").items()}
    seq_idx = torch.tensor([[0] * 9 + [1] * 14, [0] * 20 + [4] * 3])
    y, h = held(**i, seq_idx=seq_idx)
    exact = loop(**{k: t.double() for k, t in i.items()}, seq_idx=seq_idx)
    assert relative_error(y, exact[0]) < 1e-6 and relative_error(h, exact[1]) < 1e-6
    whole, last = held(**i)
    cut = {k: ((t[..., :9], t[..., 9:]) if t.shape[-1] == l else (t, t)) for k, t in i.items()}
    first, state = held(**{k: t[0] for k, t in cut.items()})
    second, end = held(**{k: t[1] for k, t in cut.items()} | {"initial_state": state})
    assert relative_error(torch.cat([first, second], -1), whole) < 1e-6 and relative_error(end, last) < 1e-6


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
    found = _Factor.apply(leaf)
    (gradient,) = torch.autograd.grad(found, leaf, torch.ones_like(found))
    gradient = gradient.conj() if dtype.is_complex else gradient
    bound = 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-11
    assert ((found.to(factor.dtype) - factor).abs() / factor.abs()).max() < bound
    assert ((gradient.to(slope.dtype) - slope).abs() / slope.abs()).max() < bound


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
