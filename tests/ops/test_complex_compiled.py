"""Gradients of complex operators in compiled graphs: a lazy conjugation inside an operator must not be lost there."""

import pytest
import torch
from functorch.compile import aot_function, nop

from ssmlab.ops import _native, lti, selective_scan

pytestmark = pytest.mark.slow  # every case compiles

B, D, L, N = 2, 3, 19, 2


def complex_(*sizes):
    return torch.complex(torch.randn(sizes), torch.randn(sizes))


def rates():
    return torch.complex(-torch.rand(D, N) - 0.1, torch.randn(D, N))


def gradients(function, leaves):
    y, state = function(*leaves)
    return torch.autograd.grad(y.sin().sum() + (state * torch.linspace(-1, 1, 2)).sum(), leaves)


def check(function, *tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    compiled = aot_function(function, fw_compiler=nop, bw_compiler=nop)
    for found, exact in zip(gradients(compiled, leaves), gradients(function, leaves), strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("lazy", [False, True], ids=["as given", "conjugated lazily"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("backend", "held"), [("native", "euler"), ("chunked", "euler"), ("native", "zoh")])
def test_selective_scan(backend, held, constant, lazy):
    if backend == "native" and _native.MISSING:
        pytest.skip("the native library was not built")
    maps = (complex_(D, N), complex_(D, N)) if constant else (torch.randn(B, N, 2 * L), torch.randn(B, N, 2 * L))

    def scan(x, dt, A, B, C, state):
        if lazy:
            A, B, C, state = (t.conj() for t in (A, B, C, state))
        y, last = selective_scan(
            x, dt, A, B, C, dt_softplus=True, initial_state=state, B_discretization=held, backend=backend
        )
        return y, torch.view_as_real(last)

    check(scan, torch.randn(B, D, L), torch.randn(B, D, L), rates(), *maps, complex_(B, D, N))


@pytest.mark.parametrize("lazy", [False, True], ids=["as given", "conjugated lazily"])
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("view", ["convolution", "recurrence"])
def test_lti(view, discretization, lazy):
    def run(u, dt, A, B, C, state):
        if lazy:
            A, B, C, state = (t.conj() for t in (A, B, C, state))
        y, last = lti(u, dt, A, B, C, initial_state=state, view=view, discretization=discretization)
        return y, torch.view_as_real(last)

    check(run, torch.randn(B, D, L), torch.rand(D) * 0.1, rates(), complex_(D, N), complex_(D, N), complex_(B, D, N))
