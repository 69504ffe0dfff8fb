"""Single tokens by Triton kernels: the operators' numbers, with the states updated in place."""

import pytest
import torch

from ops.common import TOLERANCE, relative_error
from ops.triton_common import DEVICE
from ssmlab.nn import Mamba, Mamba2
from ssmlab.ops import _triton_steps, causal_conv1d, selective_scan, ssd, steps

DTYPES = [torch.float32, torch.bfloat16]


def values(dtype, *shape):
    return torch.randn(*shape).to(DEVICE, dtype)


def double(arguments, per_token, axis):
    exact = {k: None if t is None else t.cpu().double() for k, t in arguments.items()}
    return exact | {k: exact[k].unsqueeze(axis) for k in per_token if exact[k] is not None}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "more"), [(1, 0), (2, 3), (4, 0), (4, 1)])
def test_convolution(width, more, dtype):
    b, d = 3, 37
    x, weight, bias = values(dtype, b, 2 * d)[:, :d], values(dtype, d, width), values(dtype, d)
    state = values(dtype, b, d, width - 1 + more)
    before = state.clone()
    y = _triton_steps.conv_step(x, state, weight, bias, True)
    expected, _ = causal_conv1d(
        x.cpu().double()[..., None], weight.cpu().double(), bias.cpu().double(), activation="silu",
        initial_state=before[..., more:].cpu().double(),
    )  # fmt: skip
    assert relative_error(y.cpu(), expected[..., 0]) < TOLERANCE[dtype][0]
    assert torch.equal(state, torch.cat([before, x[..., None]], -1)[..., 1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("absent", [(), ("D", "z"), ("dt_bias",)], ids=str)
@pytest.mark.parametrize(("b", "d", "n"), [(1, 1, 1), (2, 37, 16), (2, 300, 20)])
def test_selective_scan(b, d, n, absent, dtype):
    i = {
        "x": values(dtype, b, d), "dt": values(dtype, b, d), "A": -values(torch.float32, d, n).abs(),
        "B": values(dtype, b, 3 * n)[:, :n], "C": values(dtype, b, n), "D": values(torch.float32, d),
        "z": values(dtype, b, 2 * d)[:, d:], "dt_bias": values(torch.float32, d),
    } | dict.fromkeys(absent)  # fmt: skip
    state = values(torch.float32, b, d, n)
    exact = double(i | {"initial_state": state}, ("x", "dt", "B", "C", "z"), -1)
    y, after = selective_scan(**exact, dt_softplus=True)
    into = torch.empty_like(state)
    kept = state.clone()
    assert torch.equal(_triton_steps.scan_step(state, **i, dt_softplus=True, into=into), _again(kept, i))
    assert torch.equal(kept, into) and not torch.equal(state, into)
    assert relative_error(into.cpu(), after) < 1e-6
    assert relative_error(_again(state, i).cpu(), y[..., 0]) < TOLERANCE[dtype][0]


def _again(state, arguments):
    return _triton_steps.scan_step(state, **arguments, dt_softplus=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("absent", [(), ("D", "z"), ("dt_bias",)], ids=str)
@pytest.mark.parametrize(("b", "h", "p", "g", "n"), [(1, 1, 1, 1, 1), (2, 6, 5, 3, 7), (1, 2, 64, 1, 128)])
def test_heads(b, h, p, g, n, absent, dtype):
    i = {
        "x": values(dtype, b, h, p), "dt": values(dtype, b, h), "A": -values(torch.float32, h).abs(),
        "B": values(dtype, b, g, n), "C": values(dtype, b, g, n), "D": values(torch.float32, h),
        "z": values(dtype, b, h, p), "dt_bias": values(torch.float32, h),
    } | dict.fromkeys(absent)  # fmt: skip
    state = values(torch.float32, b, h, p, n)
    exact = double(i | {"initial_state": state}, ("x", "dt", "B", "C", "z"), 1)
    y, after = ssd(**exact, dt_softplus=True)
    found = _triton_steps.head_step(state, **i, dt_softplus=True)
    assert relative_error(found.cpu(), y[:, 0]) < TOLERANCE[dtype][0]
    assert relative_error(state.cpu(), after) < 1e-6


def test_a_gradient_is_the_operators_business():
    x, state = values(torch.float32, 1, 3).requires_grad_(), values(torch.float32, 1, 3, 3)
    assert _triton_steps.conv_step(x, state, values(torch.float32, 3, 4), None, True) is None
    with torch.no_grad():
        assert _triton_steps.conv_step(x, state, values(torch.float32, 3, 4), None, True) is not None


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [lambda: Mamba(16, d_state=4), lambda: Mamba2(16, headdim=8, d_state=8)])
def test_a_block_takes_a_token_with_them(make, dtype, monkeypatch):
    """As on a GPU, where the blocks ask for them; the state that goes in stays."""
    torch.manual_seed(0)
    block, u = make().to(DEVICE, dtype), values(dtype, 2, 5, 16)
    with monkeypatch.context() as patch:
        patch.setenv("SSMLAB_BACKEND", "reference")
        whole, _ = block.double()(u.double())
    block.to(dtype)
    monkeypatch.setattr(steps, "_on_gpu", lambda x: True)
    _, state = block(u[:, :4])
    kept = [part.clone() for part in state]
    asked = []
    kernel = _triton_steps.conv_step
    monkeypatch.setattr(_triton_steps, "conv_step", lambda *given: asked.append(1) or kernel(*given))
    y, after = block(u[:, 4:], state)
    assert asked and relative_error(y[:, 0].cpu(), whole[:, 4].cpu()) < 10 * TOLERANCE[dtype][0]
    assert all(map(torch.equal, kept, state))
    assert [(part.shape, part.dtype) for part in after] == [(part.shape, part.dtype) for part in state]
