"""The largest of every row and the logarithm of its sum: the kernels of every instruction set equal plain torch."""

import pytest
import torch

from ssmlab.ops import _native
from ssmlab.ops.likeliest import likeliest

native = pytest.mark.skipif(_native.LIBRARY is None, reason="needs the native library")


def scores(n):
    torch.manual_seed(n)
    x = torch.randn(9, n + 3)[:, :n]
    x[1] = 0.5  # all equal
    x[2, torch.randperm(n)[: n // 2]] = 4.0
    x[3] = -torch.inf
    x[3, n // 2] = 1.0
    x[4] = 100 * x[4]
    return x


@torch.no_grad()
@native
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [1, 3, 15, 16, 33, 64, 65, 200, 1001])
def test_equal_to_torch(instruction_set, n, threads, monkeypatch):
    x, before = scores(n), torch.get_num_threads()
    for k in {1, min(n, 7), n if n < 70 else 20}:
        for suppress in ((), (0, n - 1)):
            torch.set_num_threads(threads)
            total, values, places = likeliest(x, k, suppress)
            torch.set_num_threads(before)
            monkeypatch.setenv("SSMLAB_BACKEND", "chunked")
            wanted = likeliest(x, k, suppress)
            monkeypatch.delenv("SSMLAB_BACKEND")
            torch.testing.assert_close(total, x.double().logsumexp(1), rtol=3e-7, atol=3e-7)
            assert torch.equal(values, wanted[1])
            there = values > -torch.inf
            assert torch.equal(places[there], wanted[2][there])


@torch.no_grad()
def test_equal_values_come_in_the_order_of_their_places():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[1.0, 3, 3, 2, 3], [2, 2, 2, 2, 2], [5, 4, 3, 2, 1]], dtype=dtype)
        _, values, places = likeliest(x, 2)
        assert places.tolist() == [[1, 2], [0, 1], [0, 1]] and values.tolist() == [[3, 3], [2, 2], [5, 4]]
        _, values, places = likeliest(x, 2, suppress=[1])
        assert places.tolist() == [[2, 4], [0, 2], [0, 2]]


@torch.no_grad()
@native
def test_what_is_no_number_is_none_in_the_sum():
    total, *_ = likeliest(torch.tensor([[1.0, torch.nan, 2.0], [1.0, 2.0, 3.0]]), 2)
    assert total.isnan().tolist() == [True, False]
