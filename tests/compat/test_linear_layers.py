"""nn.Linear while the stand-ins are installed: the same numbers, and torch's own wherever somebody looks on."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ssmlab.compat
from ops.common import relative_error
from ssmlab.ops import _native, linear

pytestmark = pytest.mark.skipif(_native.LIBRARY is None, reason=_native.MISSING or "")


@pytest.fixture
def calls(installed, monkeypatch):
    taken = []

    def counted(*arguments):
        y = step(*arguments)
        taken.append(y is not None)
        return y

    step = linear.linear_step
    monkeypatch.setattr(linear, "linear_step", counted)
    return taken


LAYER = nn.Linear(300, 200)
X = torch.randn(2, 1, 300)


def test_the_kernel_is_asked_and_gives_the_numbers(calls):
    with torch.no_grad():
        found = LAYER(X)
    assert calls == [True]
    assert (
        relative_error(
            found, torch.nn.functional.linear(X.double(), *(p.double() for p in LAYER.parameters())).detach()
        )
        < 1e-6
    )


def test_a_gradient_is_torchs(calls):
    LAYER(X).sum().backward()
    assert not calls and LAYER.weight.grad is not None
    LAYER.zero_grad()


@torch.no_grad()
def test_whoever_looks_on_sees_torchs_product(calls):
    with FlopCounterMode(display=False) as counter:
        LAYER(X)
    assert counter.get_total_flops() == 2 * 2 * 300 * 200
    with torch.autocast("cpu", torch.bfloat16):
        assert LAYER(X).dtype == torch.bfloat16
    torch.func.vmap(LAYER)(X)
    assert not calls


def test_uninstall_gives_it_back():
    before = nn.Linear.forward
    ssmlab.compat.install(linear=False)
    assert nn.Linear.forward is before
    ssmlab.compat.install()
    assert nn.Linear.forward is not before
    ssmlab.compat.uninstall()
    assert nn.Linear.forward is before
