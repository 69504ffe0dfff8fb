import numpy as np
import pytest
from scipy import stats

from ssmlab.core.statistics import (
    area_interval,
    average_precision,
    cases_needed,
    delong,
    differences,
    holm,
    is_decided,
    least_p,
    mcnemar,
    mean_area,
    mean_interval,
    nadeau_bengio,
    over_seeds,
    permutation_test,
    ratio,
    roc_area,
    score_interval,
    share_interval,
    statistics_of,
    weighted_roc_area,
    wilcoxon,
    wilson,
)
from ssmlab.core.statistics.intervals import Interval
from ssmlab.core.statistics.ranks import area_variance


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_newcombe(k, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_edges():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0 and wilson(0, 5)[0] == 0.0
    with pytest.raises(ValueError, match="k=6, n=5"):
        wilson(6, 5)


def test_a_share_of_one_seed_is_wilsons():
    right = np.arange(160) < 112
    assert share_interval(right) == pytest.approx((0.7, *wilson(112, 160)))
    assert share_interval(right, np.arange(160))[1:] == pytest.approx(share_interval(right)[1:], abs=0.002)
    with pytest.raises(ValueError, match="no cases"):
        share_interval([])


def test_groups_are_the_cases_of_a_share():
    """Five equal images of every patient say no more than one of each."""
    patients = np.arange(40) < 28
    images, groups = np.repeat(patients, 5), np.repeat(np.arange(40), 5)
    value, low, high = share_interval(images, groups)
    alone = share_interval(patients, np.arange(40))
    assert value == 0.7 and (low, high) == pytest.approx(alone[1:], abs=0.012)
    assert high - low > 2 * np.diff(wilson(140, 200))
    assert share_interval(np.ones(10), [0] * 10) == (1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="a group for each of 10 cases, got 9"):
        share_interval(np.ones(10), [0] * 9)


def test_a_share_over_seeds_contains_both_sources():
    rng = np.random.default_rng(0)
    hard = rng.random(160) < 0.7
    same = np.stack([hard] * 3)
    assert share_interval(same) == pytest.approx(share_interval(hard))
    other = np.stack([hard & (np.arange(160) >= cut) for cut in (0, 16, 32)])
    assert np.diff(share_interval(other)[1:]) > 1.3 * np.diff(share_interval(same)[1:])


def test_two_seeds_do_not_reach_from_zero_to_one():
    """t of one degree of freedom is 12.7; where three models have two seeds each, there are three degrees."""
    own = [wilson(115, 160), wilson(109, 160)]
    value, low, high = over_seeds([0.72, 0.68], own, [[0.7, 0.71], [0.6, 0.63]], bounds=(0, 1))
    assert value == pytest.approx(0.7) and 0.6 < low < 0.64 < 0.76 < high < 0.8
    alone = over_seeds([0.72, 0.68], own, bounds=(0, 1))
    assert alone.low < low - 0.1 and alone.high > high + 0.1
    assert over_seeds([0.5], [(0.4, 0.7)]) == (0.5, 0.4, 0.7)
    assert np.isnan(over_seeds([0.5]).low)


def test_mean_interval_is_students():
    """t(2, 0.975) = 4.302653; the standard error of 1, 2, 3 is 1 / sqrt(3)."""
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert over_seeds([1.0, 2.0, 3.0], [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]) == pytest.approx(mean_interval([1, 2, 3]))
    with pytest.raises(ValueError, match="two values"):
        mean_interval([1.0])


def test_the_interval_of_a_mean_is_students_for_few_cases():
    """The bootstrap alone would be too narrow by (5 / 6)^0.5 x 1.96 / 2.57."""
    values = np.array([0.1, 0.3, 0.35, 0.4, 0.6, 0.8])
    value, low, high = score_interval(statistics_of(values), resamples=100_000)
    half = 2.5706 * values.std(ddof=1) / 6**0.5
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.05 * half)


def test_an_interval_of_many_cases_is_that_of_plain_resampling():
    rng = np.random.default_rng(1)
    values, sizes = rng.random(300), rng.integers(1, 30, 300)
    drawn = rng.integers(300, size=(20_000, 300))
    plain = values[drawn].sum(1) / sizes[drawn].sum(1)
    value, low, high = score_interval(statistics_of(values, sizes), resamples=20_000)
    assert value == pytest.approx(values.sum() / sizes.sum())
    assert (low, high) == pytest.approx(np.quantile(plain, (0.025, 0.975)), abs=0.0015)


def test_an_interval_depends_on_its_seed_alone():
    a, b = (statistics_of(np.random.default_rng(i).random(50)) for i in (0, 1))
    assert score_interval(a, ratio, b, seed=7) == score_interval(a, ratio, b, seed=7)
    assert score_interval(a, ratio, b, seed=7) != score_interval(a, ratio, b, seed=8)
    assert score_interval(a, ratio, a) == (0, 0, 0)


def test_pairing_makes_the_interval_narrower():
    rng = np.random.default_rng(0)
    hard = rng.standard_normal(200)
    a, b = (hard + 0.3 * rng.standard_normal(200) for _ in range(2))
    paired = score_interval(statistics_of(a), ratio, statistics_of(b))
    apart = score_interval(statistics_of(a), ratio, statistics_of(rng.permutation(b)))
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_groups_are_drawn_as_a_whole():
    rng = np.random.default_rng(3)
    patients = rng.standard_normal(30)
    images, groups = np.repeat(patients, 5), np.repeat([f"p{i}" for i in range(30)], 5)
    whole = score_interval(statistics_of(images), groups=groups, resamples=20_000)
    alone = score_interval(statistics_of(patients), resamples=20_000)
    assert whole == pytest.approx(alone, abs=0.02)
    assert score_interval(statistics_of(images), groups=["one"] * 150, bounds=(-9, 9))[1:] == (-9, 9)


def test_where_all_cases_agree_their_number_is_the_width():
    assert score_interval(statistics_of(np.ones(20)), bounds=(0.0, 1.0)) == (1.0, *wilson(20, 20))
    assert score_interval(statistics_of(np.ones(20))) == (1, 1, 1), "nothing is known of what has no bounds"


def test_seeds_enter_an_interval_as_students_t():
    """Cases that are all alike leave the error of the seeds alone; of two models it is Welch's."""
    values = np.array([30.0, 31.0, 33.0])
    a = statistics_of(np.repeat(values[:, None], 50, 1))
    value, low, high = score_interval(a, resamples=200_000)
    assert (value, low, high) == pytest.approx(mean_interval(values), abs=0.15)
    shifted = a + np.array([5.0, 0.0])
    _, low, high = score_interval(shifted, ratio, a, resamples=200_000)  # equal variances: twice the freedom
    half = 2.776 * (2 * values.var(ddof=1) / 3) ** 0.5
    assert (low, high) == pytest.approx((5 - half, 5 + half), abs=0.1)


def sums(rng, seeds=1, cases=8, better=0.0):
    """Numerators and denominators of cases of different sizes."""
    wholes = np.random.default_rng(0).integers(5, 30, cases)
    return statistics_of((0.4 + better + 0.1 * rng.standard_normal((seeds, cases))) * wholes, wholes)


def test_a_permutation_of_few_cases_is_exact():
    rng = np.random.default_rng(2)
    a, b = sums(rng), sums(rng, better=0.05)
    wanted = stats.permutation_test(
        (a[0, :, 0], b[0, :, 0]), lambda x, y: (x - y).sum() / a[0, :, 1].sum(), permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert permutation_test(a, b) == pytest.approx(wanted)
    assert permutation_test(b, a) == permutation_test(a, b)
    assert permutation_test(a, b, resamples=255, seed=1) == pytest.approx(wanted, abs=0.1), "drawn, not counted"
    assert permutation_test(a, a) == 1
    better = statistics_of(np.arange(6) + 1.0), statistics_of(np.arange(6) * 1.0)
    assert permutation_test(*better) == least_p(6) == 2 / 64


def test_a_permutation_of_many_cases_is_near_the_t_test():
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal(100), rng.standard_normal(100) + 0.3
    p = permutation_test(statistics_of(a), statistics_of(b))
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)
    far = statistics_of(a), statistics_of(a + 5)
    assert permutation_test(*far, resamples=999) == 1 / 1000, "one in the number of trials and one"


def test_groups_change_sides_as_a_whole():
    rng = np.random.default_rng(6)
    patients = rng.standard_normal((2, 9))
    images = np.repeat(patients, 5, 1)
    groups = np.repeat(np.arange(9), 5)
    whole = permutation_test(statistics_of(images[0]), statistics_of(images[1]), groups=groups)
    assert whole == pytest.approx(permutation_test(*(statistics_of(row) for row in patients)))


def test_a_fixed_model_is_compared_with_several_seeds():
    rng = np.random.default_rng(6)
    a, fixed = sums(rng, 3, 100), sums(rng, 1, 100, better=0.2)
    assert score_interval(fixed, ratio, a).low > 0
    assert permutation_test(a, fixed, resamples=999) <= 0.01


@pytest.mark.parametrize("b", [np.ones((1, 3, 2)), np.ones((2, 2, 3)), np.ones((2, 2)), np.ones((0, 2, 2))])
def test_statistics_that_do_not_belong_together_are_refused(b):
    with pytest.raises(ValueError, match="of the same cases"):
        score_interval(np.ones((2, 2, 2)), ratio, b)
    with pytest.raises(ValueError, match="of the same cases"):
        permutation_test(np.ones((2, 2, 2)), b)


RIGHT = np.random.default_rng(11).random((2, 60)) < np.array([[0.6], [0.8]])


def test_mcnemar_is_the_exact_permutation_and_scipys_binomial_test():
    a, b = RIGHT
    only = [int((a & ~b).sum()), int((b & ~a).sum())]
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
    few = a[:12], b[:12]
    assert mcnemar(*few) == pytest.approx(permutation_test(*(statistics_of(row) for row in few)))
    assert mcnemar(a, a) == 1
    with pytest.raises(ValueError, match="the same cases"):
        mcnemar(a, b[:5])


def test_tests_and_corrections_of_statsmodels():
    statsmodels = pytest.importorskip("statsmodels.stats", reason="statsmodels is not installed")
    from statsmodels.stats.contingency_tables import mcnemar as theirs
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

    assert statsmodels
    a, b = RIGHT
    table = [[(a & b).sum(), (a & ~b).sum()], [(b & ~a).sum(), (~a & ~b).sum()]]
    assert mcnemar(a, b) == pytest.approx(theirs(table, exact=True).pvalue)
    values = [0.01, 0.04, 0.03, 0.005, 0.5]
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    assert wilson(81, 263) == pytest.approx(proportion_confint(81, 263, method="wilson"))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.6, 0.9]) == [1, 1]


def test_wilcoxon_is_scipys_on_means_over_seeds_and_groups():
    rng = np.random.default_rng(8)
    a, b = rng.random((3, 20)), rng.random((3, 20)) + 0.2
    assert wilcoxon(a, b) == stats.wilcoxon(a.mean(0) - b.mean(0)).pvalue
    groups = np.repeat(np.arange(10), 2)
    of_groups = (a.mean(0) - b.mean(0)).reshape(10, 2).mean(1)
    assert wilcoxon(a, b, groups) == pytest.approx(stats.wilcoxon(of_groups).pvalue)
    assert wilcoxon(a, a) == 1


def test_folds_are_corrected_for_their_overlap():
    folds = [0.02, 0.05, 0.01, 0.04, 0.03]
    interval, p = nadeau_bengio(folds, 20, 80)
    t = 0.03 / (np.var(folds, ddof=1) * (1 / 5 + 1 / 4)) ** 0.5
    assert p == pytest.approx(2 * stats.t.sf(t, 4)) and interval.value == pytest.approx(0.03)
    plain, p = nadeau_bengio(folds, 0, 80)  # without an overlap it is Student's
    student = stats.ttest_1samp(folds, 0)
    assert p == pytest.approx(student.pvalue) and plain[1:] == pytest.approx(tuple(student.confidence_interval()))
    for same in (0.0, 0.4 - 1 / 3):  # no variance is no reason to be sure
        assert nadeau_bengio([same, same, same], 1, 4)[1] == 1
    with pytest.raises(ValueError, match="two folds"):
        nadeau_bengio([0.1], 1, 4)


def scored(rng=None, cases=60):
    """Two models' scores of cases that are positive or not."""
    rng = rng or np.random.default_rng(21)
    truth = rng.random(cases) < 0.4
    return truth, np.round(truth + rng.standard_normal(cases), 2), np.round(0.4 * truth + rng.standard_normal(cases), 2)


def test_areas_are_scikit_learns():
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, a, b = scored()
    assert roc_area(truth, a).value == pytest.approx(roc_auc_score(truth, a))
    assert average_precision(truth, a, np.ones((1, 60)))[0, 0] == pytest.approx(average_precision_score(truth, a))
    weights = np.random.default_rng(0).integers(0, 3, (2, 60)).astype(float)
    found = average_precision(truth, np.stack([a, b]), weights)
    for r, s in ((0, 0), (1, 1)):
        wanted = average_precision_score(truth, (a, b)[s], sample_weight=weights[r])
        assert found[r, s] == pytest.approx(wanted)
    with pytest.raises(ValueError, match="positive and negative"):
        roc_area(np.ones(3, bool), a[:3])


def test_areas_are_those_of_proc():
    """R's pROC 1.18.0 (Debian's r-cran-proc) on the cases of `scored`, written to roc.csv with the columns y, a, b:

    library(pROC); d <- read.csv("roc.csv"); options(digits = 12)
    a <- roc(d$y, d$a, direction = "<"); b <- roc(d$y, d$b, direction = "<")
    c(auc(a), auc(b), var(a), var(b)); ci.auc(a); roc.test(a, b, method = "delong")
    """
    truth, *both = scored()
    a, b = (roc_area(truth, each) for each in both)
    assert (a.value, b.value) == pytest.approx((0.79861111111111, 0.66493055555556), abs=1e-12)
    assert [area_variance(each)[0] for each in (a, b)] == pytest.approx([0.00347840264998, 0.00528674938256], abs=1e-13)
    half = 1.959963985 * area_variance(a)[0] ** 0.5
    assert (a.value - half, a.value + half) == pytest.approx((0.683016386, 0.914205837), abs=1e-8)
    interval, p = delong(a, b)
    assert p == pytest.approx(0.174244407187, abs=1e-11)
    assert interval[1:] == pytest.approx((-0.0591587305864, 0.3265198416975), abs=1e-9)


def test_an_area_has_an_interval_at_one_and_over_seeds_and_groups():
    truth, a, b = scored()
    one = area_interval(roc_area(truth, truth * 1.0))
    assert one.value == 1 == one.high and 0.8 < one.low < 0.95
    seeds = roc_area(truth, np.stack([a, b]))
    assert seeds.value == pytest.approx((roc_area(truth, a).value + roc_area(truth, b).value) / 2)
    with pytest.raises(ValueError, match="is of one seed, got 2"):
        area_interval(seeds)
    _, p = delong(seeds, roc_area(truth, np.stack([a, a])))
    wide, other = delong(seeds, roc_area(truth, np.stack([b, b])))
    assert wide.high - wide.low > 0.5 and min(p, other) > 0.1, "the two seeds differ by 0.13"
    five = roc_area(np.repeat(truth, 5), np.repeat(a, 5))
    grouped = area_interval(five, np.repeat(np.arange(60), 5))
    assert grouped[1:] == pytest.approx(area_interval(roc_area(truth, a))[1:], abs=0.02)
    assert mean_area([seeds]) is seeds


def test_the_mean_of_classes_is_as_sure_as_drawing_says():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 150)
    scores = rng.standard_normal((150, 3)) + 1.2 * np.eye(3)[labels]
    areas = mean_area(roc_area(labels == k, scores[:, k]) for k in range(3))
    drawn = []
    for _ in range(400):
        i = rng.integers(0, 150, 150)
        drawn.append(np.mean([roc_area(labels[i] == k, scores[i, k]).value for k in range(3)]))
    assert area_variance(areas)[0] ** 0.5 == pytest.approx(np.std(drawn), rel=0.12)


def test_equal_models_do_not_differ_in_area():
    truth, a, _ = scored()
    interval, p = delong(roc_area(truth, a), roc_area(truth, a))
    assert interval == (0, 0, 0) and p == 1


def test_all_pairs_are_corrected_together():
    rng = np.random.default_rng(9)
    right = {name: statistics_of(rng.random(200) < share) for name, share in (("a", 0.6), ("b", 0.62), ("c", 0.9))}
    found = differences(right, resamples=300)
    assert list(found) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert {each.test for each in found.values()} == {"McNemar's exact test"}
    assert [each.corrected for each in found.values()] == pytest.approx(holm([each.p for each in found.values()]))
    assert [each.decided for each in found.values()] == [False, True, True]
    assert found["c", "a"].cases == 200 and found["c", "a"].seeds == 1
    groups = np.repeat(np.arange(5), 40)
    few = differences({name: right[name] for name in "ac"}, groups=groups, resamples=300)["c", "a"]
    assert few.cases == 5 and few.p == least_p(5) and not few.decided


def test_seeds_make_a_permutation_and_say_what_these_models_do():
    rng = np.random.default_rng(10)
    a, b = (statistics_of(rng.standard_normal((3, 40)) + 2 * rng.standard_normal((3, 1))) for _ in range(2))
    each = differences({"a": a, "b": b}, resamples=300, trials=499)["b", "a"]
    assert each.test == "permutation test" and each.seeds == 3 and each.alone < each.p


@pytest.mark.parametrize(
    ("interval", "corrected", "cases", "decided"),
    [((1, 0.5, 2), 0.03, 6, True), ((1, 0.5, 2), 0.03, 5, False), ((1, 0.5, 2), 0.06, 6, False),
     ((1, -0.1, 2), 0.03, 6, False), ((-1, -2, -0.5), 0.03, 6, True)],
)  # fmt: skip
def test_the_rule_of_verdicts(interval, corrected, cases, decided):
    assert is_decided(Interval(*interval), corrected, cases) == decided


def test_where_a_test_can_never_come_out():
    assert least_p(6) == 0.03125 and least_p(6, 3) == pytest.approx(0.09375) and least_p(2, 9) == 1
    assert [cases_needed(pairs) for pairs in (1, 3, 45)] == [6, 7, 11]


def test_areas_of_weighted_cases():
    """Weights are copies: drawing a case twice is having it twice; equal scores count half."""
    random = np.random.default_rng(0)
    truth, scores = random.random(30) < 0.4, random.integers(0, 8, 30)
    weights = np.stack([np.ones(30), random.integers(0, 3, 30), truth])
    found = weighted_roc_area(truth, scores, weights)
    assert found[0] == pytest.approx(roc_area(truth, scores).value)
    copies = np.repeat(np.arange(30), weights[1].astype(int))
    assert found[1] == pytest.approx(roc_area(truth[copies], scores[copies]).value)
    assert np.isnan(found[2]), "no negative case"
