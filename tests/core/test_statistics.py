import numpy as np
import pytest

from ssmlab.core.statistics import (
    approximate_randomisation,
    mean_interval,
    paired_bootstrap_difference,
    score_interval,
    wilson,
)


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


def ratio(sums):
    return 100 * sums[..., 0] / sums[..., 1]


def graded(rng, seeds=3, sentences=100, better=0.0, seed_spread=0.0, noise=0.1):
    """(seeds, sentences, 2): points and words of sentences; a model is as good as its seed makes it."""
    words = np.random.default_rng(0).integers(5, 30, sentences)
    quality = (
        0.4 + better + seed_spread * rng.standard_normal((seeds, 1)) + noise * rng.standard_normal((seeds, sentences))
    )
    return np.stack([quality * words, np.broadcast_to(words, quality.shape)], -1)


def test_an_interval_of_a_score_is_that_of_plain_resampling():
    rng = np.random.default_rng(1)
    a, b = graded(rng, seeds=1), graded(rng, seeds=1)
    drawn = rng.integers(100, size=(20_000, 100))
    plain = ratio(a[0, drawn].sum(1)) - ratio(b[0, drawn].sum(1))
    value, low, high = score_interval(a, ratio, b, resamples=20_000)
    assert value == pytest.approx(ratio(a[0].sum(0)) - ratio(b[0].sum(0)))
    assert (low, high) == pytest.approx(np.quantile(plain, (0.025, 0.975)), abs=0.05)
    assert score_interval(a, ratio) == score_interval(a, ratio) != score_interval(a, ratio, seed=1)
    assert score_interval(a, ratio, a) == (0, 0, 0)


def test_seeds_enter_an_interval_as_students_t():
    """Sentences that are all alike leave the error of the seeds alone."""
    values = np.array([30.0, 31.0, 33.0])
    a = np.stack([np.full((50, 2), (value, 100.0)) for value in values])
    value, low, high = score_interval(a, ratio, resamples=200_000)
    assert (value, low, high) == pytest.approx(mean_interval(values), abs=0.15)
    shifted = a + np.array([5.0, 0.0])
    _, low, high = score_interval(shifted, ratio, a, resamples=200_000)  # equal variances: twice the degrees of freedom
    half = 2.776 * (2 * values.var(ddof=1) / 3) ** 0.5
    assert (low, high) == pytest.approx((5 - half, 5 + half), abs=0.1)


def test_approximate_randomisation_is_the_exact_test_where_there_are_few_sentences():
    rng = np.random.default_rng(2)
    a, b = graded(rng, seeds=1, sentences=8), graded(rng, seeds=1, sentences=8, better=0.05)
    found = []
    for bits in range(2**8):
        swap = (bits >> np.arange(8) & 1)[:, None]
        found.append(ratio((a[0] * (1 - swap) + b[0] * swap).sum(0)) - ratio((b[0] * (1 - swap) + a[0] * swap).sum(0)))
    exact = np.mean(np.abs(found) >= abs(found[0]) - 1e-9)
    p = approximate_randomisation(a, b, ratio, resamples=20_000)
    assert p == pytest.approx(exact, abs=0.01)
    assert p == approximate_randomisation(b, a, ratio, resamples=20_000)
    assert approximate_randomisation(a, a, ratio, resamples=99) == 1


def test_the_smallest_p_is_one_in_the_number_of_trials_and_one():
    rng = np.random.default_rng(3)
    a, b = graded(rng, seeds=1), graded(rng, seeds=1, better=0.5)
    assert approximate_randomisation(a, b, ratio, resamples=999) == 1 / 1000


@pytest.mark.parametrize("seed_spread", [0.0, 0.006, 0.03])
@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_models_are_called_different_at_most_in_a_twentieth_of_comparisons(seeds, seed_spread):
    """Whether models differ by seeds or by sentences; and a difference that is there is found."""
    rng = np.random.default_rng(4)
    wrong = {"p": 0, "interval": 0}
    for run in range(200):
        a, b = (graded(rng, seeds, seed_spread=seed_spread) for _ in range(2))
        wrong["p"] += approximate_randomisation(a, b, ratio, seed=run, resamples=199) <= 0.05
        _, low, high = score_interval(a, ratio, b, seed=run, resamples=400)
        wrong["interval"] += low > 0 or high < 0
    assert max(wrong.values()) <= 0.05 * 200, wrong
    far = graded(rng, seeds, better=0.6, seed_spread=seed_spread)
    assert approximate_randomisation(a, far, ratio, resamples=999) <= 0.05 and score_interval(far, ratio, a).low > 0


def test_trained_models_alone_differ_by_their_seeds():
    """A test of sentences alone cannot see that: it calls models whose seeds differ different far too often."""
    rng, wrong = np.random.default_rng(5), 0
    for run in range(100):
        a, b = (graded(rng, seed_spread=0.03) for _ in range(2))
        wrong += approximate_randomisation(a, b, ratio, seed=run, resamples=199, seeds=False) <= 0.05
    assert wrong > 30


def test_a_fixed_model_is_compared_with_several_seeds():
    rng = np.random.default_rng(6)
    a, fixed = graded(rng, seeds=3), graded(rng, seeds=1, better=0.2)
    assert score_interval(fixed, ratio, a).low > 0
    assert approximate_randomisation(a, fixed, ratio, resamples=999) <= 0.01


@pytest.mark.parametrize("b", [np.ones((1, 3, 2)), np.ones((2, 2, 3)), np.ones((2, 2)), np.ones((0, 2, 2))])
def test_statistics_that_do_not_belong_together_are_refused(b):
    with pytest.raises(ValueError, match="of the same sentences"):
        score_interval(np.ones((2, 2, 2)), ratio, b)
    with pytest.raises(ValueError, match="of the same sentences"):
        approximate_randomisation(np.ones((2, 2, 2)), b, ratio)
