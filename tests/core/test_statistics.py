import numpy as np
import pytest

from ssmlab.core.statistics import mean_interval, paired_bootstrap_difference, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_numbers(k, n, low, high):
    """Newcombe 1998, Stat. Med. 17:857, table I, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends_and_without_data():
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 0) == (0, 1)
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))
    with pytest.raises(ValueError, match="must lie in"):
        wilson(11, 10)


def outcomes(n=1000, both=0.8, only_a=0.1, only_b=0.05):
    """Two models on n images: exact numbers of images that both, only a or only b got right."""
    counts = [round(n * share) for share in (both, only_a, only_b)]
    rows = [(1, 1)] * counts[0] + [(1, 0)] * counts[1] + [(0, 1)] * counts[2]
    return np.array(rows + [(0, 0)] * (n - len(rows)), dtype=bool).T


def test_bootstrap_is_deterministic_and_depends_on_its_seed():
    a, b = outcomes()
    first = paired_bootstrap_difference(a, b, seed=7)
    assert first == paired_bootstrap_difference(a, b, seed=7)
    assert first != paired_bootstrap_difference(a, b, seed=8)
    order = np.random.default_rng(0).permutation(len(a))
    assert paired_bootstrap_difference(a[order], b[order], seed=7) == first


def test_bootstrap_agrees_with_the_normal_approximation():
    a, b = outcomes()
    value, low, high = paired_bootstrap_difference(a, b)
    half = 1.96 * ((0.10 + 0.05 - 0.05**2) / 1000) ** 0.5
    assert value == pytest.approx(0.05)
    assert (low, high) == pytest.approx((0.05 - half, 0.05 + half), abs=0.0015)


def test_bootstrap_agrees_with_drawing_images_one_by_one():
    a, b = outcomes(n=100)
    rng = np.random.default_rng(1)
    drawn = rng.integers(100, size=(20_000, 100))
    plain = np.quantile((a.astype(int) - b)[drawn].mean(1), [0.025, 0.975])
    assert paired_bootstrap_difference(a, b)[1:] == pytest.approx(plain, abs=0.011)


def test_pairing_makes_the_interval_narrower():
    a, b = outcomes()
    apart = np.random.default_rng(0).permutation(b)
    paired, unpaired = paired_bootstrap_difference(a, b), paired_bootstrap_difference(a, apart)
    assert paired.high - paired.low < 0.9 * (unpaired.high - unpaired.low)


def test_the_same_predictions_have_no_difference():
    a, _ = outcomes()
    assert paired_bootstrap_difference(a, a) == (0, 0, 0)


def test_seeds_that_disagree_make_the_interval_wider():
    a, b = outcomes()
    one = paired_bootstrap_difference(a, b)
    agreeing = paired_bootstrap_difference([a, a, a], [b, b, b])
    disagreeing = paired_bootstrap_difference([a, b, a], [b, a, b])
    assert agreeing.value == one.value
    assert agreeing.high - agreeing.low == pytest.approx(one.high - one.low, rel=0.05)
    assert disagreeing.high - disagreeing.low > 1.5 * (one.high - one.low)


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1]), ([], []), ([[1, 0]], [[1, 0], [1, 1]])])
def test_bootstrap_refuses_other_shapes(a, b):
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap_difference(a, b)


def test_mean_interval_is_students():
    """t(2, 0.975) = 4.302653; the standard error of 1, 2, 3 is 1 / sqrt(3)."""
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    with pytest.raises(ValueError, match="two values"):
        mean_interval([1.0])
