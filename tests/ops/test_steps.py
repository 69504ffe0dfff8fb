"""Single tokens with the state updated in place: the operators' numbers, and None where they must be called instead."""

import pytest
import torch

from ops.common import relative_error
from ssmlab.ops import _native, causal_conv1d, selective_scan, ssd
from ssmlab.ops.steps import FEW, FEW_OF_INT8, conv_step, head_step, linear_step, scan_step

pytestmark = pytest.mark.skipif(_native.LIBRARY is None, reason=_native.MISSING or "")
LIMIT = 1e-6


@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("more", [0, 1, 3])
@pytest.mark.parametrize("silu", [False, True])
def test_convolution(width, more, silu):
    b, d = 3, 37
    x, weight, bias = torch.randn(b, 2 * d)[:, :d], torch.randn(d, width), torch.randn(d)
    state = torch.randn(b, d, width - 1 + more)
    before = state.clone()
    y = conv_step(x, state, weight, bias, silu)
    expected, _ = causal_conv1d(
        x.double()[..., None], weight.double(), bias.double(), activation="silu" if silu else None,
        initial_state=before[..., more:].double(),
    )  # fmt: skip
    assert relative_error(y, expected[..., 0]) < LIMIT
    assert torch.equal(state, torch.cat([before, x[..., None]], -1)[..., 1:])
    assert relative_error(conv_step(x, before, weight, None, silu) * 0 + y, expected[..., 0]) < LIMIT


@pytest.mark.parametrize("absent", [(), ("D",), ("z",), ("dt_bias",)], ids=str)
@pytest.mark.parametrize(("b", "d", "n"), [(1, 1, 1), (2, 37, 16), (3, 64, 5), (2, 600, 64)])
def test_selective_scan(b, d, n, absent):
    i = {"x": torch.randn(b, d), "dt": torch.randn(b, d), "A": -torch.rand(d, n), "B": torch.randn(b, 3 * n)[:, :n],
         "C": torch.randn(b, n), "D": torch.randn(d), "z": torch.randn(b, 2 * d)[:, d:],
         "dt_bias": torch.randn(d)}  # fmt: skip
    i |= dict.fromkeys(absent)
    state = torch.randn(b, d, n)
    exact = {k: None if t is None else t.double() for k, t in i.items()} | {"initial_state": state.double()}
    for name in ("x", "dt", "B", "C", "z"):
        exact[name] = None if exact[name] is None else exact[name][..., None]
    y, after = selective_scan(**exact, dt_softplus=True)
    found = scan_step(state, **i, dt_softplus=True)
    assert relative_error(found, y[..., 0]) < LIMIT and relative_error(state, after) < LIMIT


@pytest.mark.parametrize("absent", [(), ("D",), ("z",), ("dt_bias",)], ids=str)
@pytest.mark.parametrize(
    ("b", "h", "p", "g", "n"), [(1, 1, 1, 1, 1), (2, 6, 5, 3, 7), (3, 4, 16, 1, 32), (2, 24, 64, 1, 128)]
)
def test_heads(b, h, p, g, n, absent):
    i = {"x": torch.randn(b, h, p), "dt": torch.randn(b, h), "A": -torch.rand(h), "B": torch.randn(b, g, n),
         "C": torch.randn(b, g, n), "D": torch.randn(h), "z": torch.randn(b, h, p),
         "dt_bias": torch.randn(h)}  # fmt: skip
    i |= dict.fromkeys(absent)
    state = torch.randn(b, h, p, n)
    exact = {k: None if t is None else t.double() for k, t in i.items()} | {"initial_state": state.double()}
    for name in ("x", "dt", "B", "C", "z"):
        exact[name] = None if exact[name] is None else exact[name][:, None]
    y, after = ssd(**exact, dt_softplus=True)
    found = head_step(state, **i, dt_softplus=True)
    assert relative_error(found, y[:, 0]) < LIMIT and relative_error(state, after) < LIMIT


def test_heads_with_strides_of_zero():
    h, p, n = 4, 6, 8
    a = torch.randn(1, h, 1).expand(1, h, p)
    state, x, maps = torch.zeros(1, h, p, n), torch.randn(1, h, p), torch.randn(1, 1, n)
    other = state.clone()
    found = head_step(state, x, a[..., 0], -a[0].abs()[:, 0], maps, maps, None, None, None, False)
    expected = head_step(
        other, x, a[..., 0].contiguous(), -a[0].abs()[:, 0].contiguous(), maps, maps, None, None, None, False
    )
    assert torch.equal(found, expected) and torch.equal(state, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("inputs", "outputs"), [(768, 64), (33, 1000), (8, 4099), (1, 40000)])
def test_linear(inputs, outputs, dtype):
    weight, bias = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
    for rows in range(1, FEW + 1 if dtype is torch.float32 else FEW // 2 + 1):
        x = torch.randn(rows, 1, inputs).to(dtype)
        found = linear_step(x, weight, bias)
        exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
        assert found.dtype == dtype and found.shape == (rows, 1, outputs)
        assert relative_error(found, exact) < (LIMIT if dtype is torch.float32 else 5e-3)
        assert torch.equal(linear_step(x[:1], weight, bias), found[:1]) or rows > 1
    wide = torch.randn(outputs, inputs + 5).to(dtype)[:, :inputs]  # rows of a larger matrix
    x = torch.randn(1, inputs).to(dtype)
    assert torch.equal(linear_step(x, wide), linear_step(x, wide.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (15, 6), (33, 7), (768, 64), (48, 1537)])
def test_linear_of_bytes(inputs, outputs, dtype):
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    scale, bias = torch.rand(outputs), torch.randn(outputs)
    for rows in (1, 2, 3, 4, 5, FEW_OF_INT8):
        x = torch.randn(rows, inputs).to(dtype)
        exact = torch.nn.functional.linear(x.double(), weight.double() * scale.double()[:, None], bias.double())
        found = linear_step(x, weight, bias, scale)
        assert found.dtype == dtype and relative_error(found, exact) < (LIMIT if dtype is torch.float32 else 5e-3)
        assert torch.equal(linear_step(x[-1:], weight, bias, scale), found[-1:]), "a row does not feel the others"
    assert linear_step(torch.randn(FEW_OF_INT8 + 1, inputs), weight, bias, scale) is None
    assert linear_step(torch.randn(1, inputs), weight.float(), bias, scale) is None


@torch.no_grad()
def test_a_default_dtype_changes_nothing():
    x, weight = torch.randn(1, 200), torch.randn(300, 200)
    expected = linear_step(x, weight)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(linear_step(x, weight), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_scan_can_leave_its_state_alone():
    i = [torch.randn(2, 37), torch.rand(2, 37), -torch.rand(37, 5), torch.randn(2, 5), torch.randn(2, 5)]
    state, after = torch.randn(2, 37, 5), torch.empty(2, 37, 5)
    before = state.clone()
    y = scan_step(state, *i, None, None, None, True, after)
    assert torch.equal(state, before)
    assert torch.equal(scan_step(state, *i, None, None, None, True), y) and torch.equal(state, after)


def test_any_number_of_threads_gives_the_same_bits():
    x, weight, before = torch.randn(2, 768), torch.randn(3072, 768), torch.get_num_threads()
    i = [torch.randn(2, 24, 64), torch.randn(2, 24), -torch.rand(24), torch.randn(2, 1, 128), torch.randn(2, 1, 128)]
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            state = torch.ones(2, 24, 64, 128)
            results.append((linear_step(x, weight), head_step(state, *i, None, None, None, True), state))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, e) for found in results[1:] for a, e in zip(found, results[0]))


def test_what_is_left_to_the_operators(monkeypatch):
    weight = torch.randn(300, 200)
    assert linear_step(torch.randn(FEW + 1, 200), weight) is None
    assert linear_step(torch.randn(0, 200), weight) is None
    assert linear_step(torch.randn(1, 4), torch.randn(8, 4)) is None, "too few weights"
    assert linear_step(torch.randn(1, 200).double(), weight.double()) is None
    assert linear_step(torch.randn(1, 300), weight.T) is None, "read across its rows"
    state, x = torch.zeros(1, 5, 3), torch.randn(1, 5)
    assert conv_step(x, state.double(), torch.randn(5, 4), None, True) is None
    assert conv_step(x, torch.zeros(1, 3, 5).mT, torch.randn(5, 4), None, True) is None
    assert conv_step(x, state.to("meta"), torch.randn(5, 4), None, True) is None
    monkeypatch.setenv("SSMLAB_BACKEND", "reference")
    assert conv_step(x, state, torch.randn(5, 4), None, True) is None
    assert linear_step(torch.randn(1, 200), weight) is None
