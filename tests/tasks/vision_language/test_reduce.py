"""Fewer image tokens: as many as asked, in order, and nothing invented."""

import pytest
import torch

from ssmlab.core.errors import ModelError
from ssmlab.models.vision_language.reduce import METHODS, reducer

GRID = (6, 6)


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    return torch.randn(2, 36, 8)


@pytest.mark.parametrize("keep", [0.5, 0.25])
@pytest.mark.parametrize("method", METHODS)
def test_as_many_are_kept_as_are_wanted(features, method, keep):
    found, _ = reducer(method, keep)(features, GRID)
    side = round(6 * keep**0.5)
    assert found.shape == (2, side * side if method == "pool" else round(36 * keep), 8)
    alone, _ = reducer(method, keep)(features[1:], GRID)
    torch.testing.assert_close(found[1:], alone)


def test_everything_kept_is_everything(features):
    for method in METHODS:
        found, _ = reducer(method, 1.0)(features, GRID)
        torch.testing.assert_close(found, features, msg=method)


def test_merged_tokens_keep_the_mean(features):
    found, _ = METHODS["pool"](features, GRID, 0.25)
    torch.testing.assert_close(found.mean(1), features.mean(1))
    same = torch.ones(1, 4, 3) * torch.tensor([1.0, 1.0, 5.0, 5.0])[None, :, None]
    same[:, 2:, 0] = -5.0
    merged, _ = METHODS["tome"](same, None, 0.5)
    torch.testing.assert_close(merged, same[:, [0, 2]])


def test_the_most_alike_are_merged_and_order_is_kept():
    x = torch.eye(8)[None].repeat(1, 1, 1)
    x[0, 5] = x[0, 4] * 3
    found, _ = METHODS["tome"](x, None, 7 / 8)
    wanted = torch.cat([x[0, :4], (x[0, 4:5] + x[0, 5:6]) / 2, x[0, 6:]])
    torch.testing.assert_close(found[0], wanted)


def test_mistakes_are_said(features):
    with pytest.raises(ModelError, match="random, pool, tome, visionzip"):
        reducer("fastv", 0.5)
    with pytest.raises(ModelError, match="above 0"):
        reducer("pool", 0.0)
    with pytest.raises(ModelError, match="grid"):
        reducer("pool", 0.5)(features, None)
