"""The plain 2-D orders: where every position goes, the adjoint, gradients, and agreement with the directional scan."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.core.errors import ShapeError
from ssmlab.ops import cross_merge, cross_scan, directional_scan, selective_scan

SIZES = [(2, 3, 3, 5), (1, 1, 1, 1), (1, 2, 1, 4), (2, 1, 4, 1), (0, 2, 3, 2), (1, 2, 0, 3)]


def test_the_order_of_the_positions():
    positions = torch.arange(6).view(1, 1, 2, 3)
    assert cross_scan(positions)[0, :, 0].tolist() == [
        [0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES)
def test_fewer_directions_are_the_first_ones(sizes):
    x = torch.randn(sizes)
    four = cross_scan(x)
    assert four.shape == (sizes[0], 4, sizes[1], sizes[2] * sizes[3])
    for directions in (1, 2):
        assert torch.equal(cross_scan(x, directions), four[:, :directions])


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(0, 3), st.integers(1, 3), st.integers(0, 6), st.integers(0, 6))),
    directions=st.sampled_from([1, 2, 4]),
)
def test_merge_is_the_adjoint_of_scan(sizes, directions):
    b, d, h, w = sizes
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sizes, dtype=torch.float64, generator=generator)
    y = torch.randn(b, directions, d, h * w, dtype=torch.float64, generator=generator)
    merged = cross_merge(y, h, w)
    assert merged.shape == x.shape
    torch.testing.assert_close((cross_scan(x, directions) * y).sum(), (x * merged).sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cross_merge(cross_scan(x, directions), h, w), directions * x, rtol=1e-14, atol=0)


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_gradients_are_each_other(directions):
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    y = torch.randn(2, directions, 3, 20, requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_scan(x, directions), x, y.detach())
    torch.testing.assert_close(gradient, cross_merge(y.detach(), 4, 5))
    (gradient,) = torch.autograd.grad(cross_merge(y, 4, 5), y, x.detach())
    assert torch.equal(gradient, cross_scan(x.detach(), directions))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64])
def test_dtypes_and_strides(dtype):
    x = (10 * torch.randn(2, 4, 5, 3)).to(dtype).permute(0, 3, 1, 2)  # channels last
    y = cross_scan(x)
    assert y.dtype == dtype and torch.equal(y, cross_scan(x.contiguous()))
    strided = y.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(cross_merge(strided, 4, 5), cross_merge(y, 4, 5))


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_the_directional_scan_is_scan_then_merge(directions):
    """Its definition in terms of these two: the same directions, in the same order."""
    b, d, n, h, w = 2, 3, 2, 4, 5
    x, dt = torch.randn(b, d, h, w, dtype=torch.float64), torch.rand(b, directions, d, h, w, dtype=torch.float64)
    A, D = -torch.rand(directions, d, n, dtype=torch.float64), torch.randn(directions, d, dtype=torch.float64)
    B, C = torch.randn(2, b, directions, n, h, w, dtype=torch.float64)
    xs, ys = cross_scan(x, directions), []
    for k in range(directions):
        own = [cross_scan(t[:, k], directions)[:, k] for t in (dt, B, C)]
        ys.append(selective_scan(xs[:, k], own[0], A[k], own[1], own[2], D[k])[0])
    expected = cross_merge(torch.stack(ys, dim=1), h, w)
    torch.testing.assert_close(directional_scan(x, dt, A, B, C, D, directions=directions), expected)


def test_wrong_arguments_say_what_to_do():
    names = "rows, columns, rows reversed, columns reversed"
    with pytest.raises(ShapeError, match=rf"cross_scan: directions must be 1, 2 or 4 \(of {names}\), got 3"):
        cross_scan(torch.zeros(1, 2, 3, 4), 3)
    with pytest.raises(ShapeError, match=r"cross_scan: x must have shape \(b, d, h, w\), got \(2, 3, 4\)"):
        cross_scan(torch.zeros(2, 3, 4))
    with pytest.raises(ShapeError, match="cross_merge: k, the second size of y, must be 1, 2 or 4"):
        cross_merge(torch.zeros(1, 3, 2, 12), 3, 4)
    with pytest.raises(ShapeError, match=r"h\*w=3\*5=15\), got \(1, 4, 2, 12\)"):
        cross_merge(torch.zeros(1, 4, 2, 12), 3, 5)
