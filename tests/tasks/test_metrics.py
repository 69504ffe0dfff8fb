"""Metrics against numbers worked out by hand."""

import numpy as np
import pytest

from ssmlab.core.errors import UserError
from ssmlab.core.statistics import wilson
from ssmlab.core.statistics.calibration import (
    brier,
    calibration_error,
    calibration_statistics,
    choose_threshold,
    fit_temperature,
    log_softmax,
    reliability,
)
from ssmlab.tasks.classify.predict import Meaning
from ssmlab.tasks.shared.calibration import calibration_of, probabilities_of
from ssmlab.tasks.shared.label_metrics import label_metrics
from ssmlab.tasks.shared.metrics import classification_metrics, whole_groups

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = [0, 0, 1, 1, 2, 2]


def certain(predicted, classes, margin=2.0):
    logits = np.zeros((len(predicted), classes))
    logits[np.arange(len(predicted)), predicted] = margin
    return logits


def values(records):
    return {(r.metric, r.class_): r.value for r in records}


def find(records, metric, class_=None):
    return next(r for r in records if (r.metric, r.class_) == (metric, class_))


def test_three_classes_by_hand():
    records = classification_metrics(certain(PREDICTED, 3), LABELS, ("a", "b", "c"))
    got = values(records)
    expected = {
        ("accuracy", None): 4 / 6,
        ("precision", "a"): 1, ("precision", "b"): 1 / 2, ("precision", "c"): 1 / 2,
        ("recall", "a"): 2 / 3, ("recall", "b"): 1 / 2, ("recall", "c"): 1,
        ("f1", "a"): 4 / 5, ("f1", "b"): 1 / 2, ("f1", "c"): 2 / 3,
        ("support", "a"): 3, ("support", "b"): 2, ("support", "c"): 1,
        ("precision", "macro"): 2 / 3, ("precision", "weighted"): (3 * 1 + 2 / 2 + 1 / 2) / 6,
        ("recall", "macro"): 13 / 18, ("recall", "weighted"): 4 / 6,
        ("f1", "macro"): (4 / 5 + 1 / 2 + 2 / 3) / 3, ("f1", "weighted"): (3 * 4 / 5 + 2 / 2 + 2 / 3) / 6,
        ("balanced_accuracy", None): 13 / 18,
        ("confusion", "a -> a"): 2, ("confusion", "a -> b"): 1, ("confusion", "a -> c"): 0,
        ("confusion", "b -> c"): 1, ("confusion", "c -> c"): 1,
    }  # fmt: skip
    assert {key: got[key] for key in expected} == pytest.approx(expected)
    # Cross-entropy: log(e^2 + 2) - 2 where it is right, log(e^2 + 2) where it is wrong.
    assert got["loss", None] == pytest.approx(np.log(np.e**2 + 2) - 2 * 4 / 6)
    assert ("sensitivity", "a") not in got and got["specificity", "b"] == 3 / 4  # of four others one was called b
    assert got["specificity", "macro"] == pytest.approx((1 + 3 / 4 + 4 / 5) / 3)
    accuracy = find(records, "accuracy")
    assert accuracy.n == 6 and accuracy.spread[0] < 4 / 6 < accuracy.spread[1]
    assert accuracy.spread == pytest.approx((0.2999, 0.9032), abs=1e-4)  # Wilson for 4 of 6


def test_two_classes_have_sensitivity_and_specificity():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), [0, 0, 0, 1, 1, 0]
    second = classification_metrics(certain(predicted, 2), labels, ("healthy", "ill"))
    assert find(second, "sensitivity", "ill").value == 1 / 2 and find(second, "sensitivity", "ill").n == 2
    assert find(second, "specificity", "ill").value == 3 / 4 and find(second, "specificity", "ill").n == 4
    first = classification_metrics(certain(predicted, 2), labels, ("healthy", "ill"), positive="healthy")
    assert find(first, "sensitivity", "healthy").value == 3 / 4
    assert find(first, "specificity", "healthy").value == 1 / 2


def test_a_class_that_does_not_occur_is_left_out_of_averages():
    labels, predicted = np.array([0, 0, 1, 1]), [0, 2, 1, 1]
    records = classification_metrics(certain(predicted, 3), labels, ("a", "b", "never"))
    got = values(records)
    assert got["support", "never"] == 0 and ("recall", "never") not in got
    assert got["recall", "macro"] == got["balanced_accuracy", None] == 3 / 4
    assert got["confusion", "a -> never"] == 1
    assert all(np.isfinite(value) for value in got.values())


def areas(probabilities, labels, classes):
    found = values(classification_metrics(np.log(np.asarray(probabilities)), np.asarray(labels), classes, resamples=20))
    return found.get(("roc_auc", None))


def test_roc_auc_by_hand():
    two = [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]
    assert areas(two, [0, 0, 1, 1], ("a", "b")) == pytest.approx(3 / 4)  # 3 of 4 pairs are in order
    assert areas(two, [1, 1, 1, 1], ("a", "b")) is None
    # Three columns of which one never occurs: the mean of the two others, each against the rest.
    three = [[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.4, 0.5, 0.1]]
    assert areas(three, [0, 0, 1], ("a", "b", "c")) == pytest.approx((1 / 2 + 1) / 2)


def test_log_softmax_of_large_logits():
    assert log_softmax(np.array([[1000.0, 0.0]])) == pytest.approx(np.array([[0.0, -1000.0]]))


def drawn(n=400, classes=3, sure=1.0, seed=0):
    """Logits whose probabilities at the temperature `sure` are the true ones, and labels drawn by them."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((n, classes))
    likely = np.exp(log_softmax(logits))
    return logits * sure, (likely.cumsum(1) < rng.random((n, 1))).sum(1)


def test_every_number_has_an_interval_at_one_seed():
    logits, labels = drawn()
    records = classification_metrics(logits, labels, ("a", "b", "c"), resamples=100)
    bare = {r.metric for r in records if r.spread is None}
    assert bare == {"support", "confusion", "specificity"} and find(records, "specificity", "macro").spread is None
    assert all(r.spread[0] <= r.value <= r.spread[1] for r in records if r.spread)
    named = {r.class_ for r in records if r.metric == "pr_auc"}
    assert named == {r.class_ for r in records if r.metric == "roc_auc"} == {None, "a", "b", "c"}


def test_areas_and_brier_of_scikit_learn():
    from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

    logits, labels = drawn()
    likely = probabilities_of(logits)
    got = values(classification_metrics(logits, labels, ("a", "b", "c"), resamples=20))
    assert got["roc_auc", None] == pytest.approx(roc_auc_score(labels, likely, multi_class="ovr"))
    assert got["pr_auc", None] == pytest.approx(average_precision_score(np.eye(3)[labels], likely))
    assert got["f1", "macro"] == pytest.approx(f1_score(labels, likely.argmax(1), average="macro"))
    two = likely[:, :2] / likely[:, :2].sum(1, keepdims=True)
    assert brier(two, labels == 1).mean() == pytest.approx(brier_score_loss(labels == 1, two[:, 1]))


def test_numbers_of_patients_stand_beside_those_of_images():
    logits, labels = drawn(60, classes=2)
    groups = [f"p{i // 5}" for i in range(60)]
    labels = np.repeat(labels[::5], 5)
    labels[0] = 1 - labels[1]  # of this patient images have two labels, so that it is left out as a whole
    records = classification_metrics(logits, labels, ("a", "b"), groups=groups, resamples=50)
    accuracy, whole = find(records, "accuracy"), find(records, "group_accuracy")
    assert accuracy.n == 60 and whole.n == 11 and find(records, "group_sensitivity", "b").n <= 11
    means, own = whole_groups(probabilities_of(logits), labels, groups)
    assert whole.value == pytest.approx((means.argmax(1) == own).mean())
    assert whole.spread == pytest.approx(wilson(round(whole.value * 11), 11))
    alone = find(classification_metrics(logits, labels, ("a", "b"), resamples=50), "accuracy")
    assert np.diff(accuracy.spread) >= np.diff(alone.spread) and alone.value == accuracy.value


def test_a_temperature_finds_how_much_too_sure_a_model_is():
    logits, labels = drawn(4000, sure=2.5)
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.06)
    found = calibration_of(logits, labels, ("a", "b", "c"))
    assert found["n"] == 4000 and "threshold" not in found
    records = classification_metrics(*drawn(4000, sure=2.5, seed=1), ("a", "b", "c"), calibration=found, resamples=50)
    got = values(records)
    for metric in ("ece", "brier", "loss"):
        assert got[f"{metric}_calibrated", None] < got[metric, None]
    assert got["ece", None] > 0.1 and got["ece_calibrated", None] < 0.02
    assert got["temperature", None] == found["temperature"]
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, int)) == 1


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_a_calibration_error_is_not_that_of_few_cases(n):
    """Of probabilities that are right the plain error would be 0.15, 0.08 and 0.03."""
    rng, found, plain = np.random.default_rng(5), [], []
    for _ in range(100):
        sure = rng.uniform(0.5, 1, n)
        sums = calibration_statistics(sure, rng.random(n) < sure).sum(0)
        found.append(calibration_error(sums))
        plain.append(np.abs(sums.reshape(3, -1)[1]).sum() / n)
    assert np.mean(found) < 0.36 * np.mean(plain)
    sure = rng.uniform(0.8, 1, n)  # and where they are not, it is there: a third is right
    wrong = calibration_error(calibration_statistics(sure, rng.random(n) < 1 / 3).sum(0))
    assert wrong == pytest.approx(0.9 - 1 / 3, abs=0.25 / n**0.25)


def test_the_points_of_a_reliability_diagram():
    points = reliability(np.array([0.55, 0.58, 0.95, 1.0]), np.array([1, 0, 1, 1]))
    assert points.confidence == pytest.approx([0.565, 0.975]) and points.accuracy == pytest.approx([0.5, 1.0])
    assert points.count.tolist() == [2, 2]


def test_thresholds_by_hand():
    truth, scores = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0.1, 0.2, 0.6, 0.5, 0.7, 0.8, 0.9])
    assert choose_threshold(truth, scores) == pytest.approx(0.65)  # three of four found, none of three wrongly
    assert choose_threshold(truth, scores, 0.95) == pytest.approx((0.2 + 0.5) / 2)
    assert choose_threshold(truth, scores, 0.7) == pytest.approx(0.65)
    assert choose_threshold(np.ones(3), scores[:3]) == 0.5


def test_a_threshold_of_the_validation_part_is_applied_to_the_test_part():
    logits, labels = drawn(300, classes=2)
    found = calibration_of(logits, labels, ("well", "ill"), sensitivity=0.9)
    assert found["positive"] == "ill" and found["rule"] == "a sensitivity of 0.9"
    got = values(classification_metrics(logits, labels, ("well", "ill"), calibration=found, resamples=50))
    assert got["sensitivity_at_threshold", "ill"] >= 0.9 > got["sensitivity", "ill"]
    assert got["threshold", "ill"] == found["threshold"]
    other = calibration_of(logits, labels, ("well", "ill"), positive="well")
    assert other["positive"] == "well" and other["rule"] == "Youden's index"


def test_classes_by_threshold_and_probabilities_by_temperature_are_given_on_request():
    logits = np.array([[0.0, 0.4], [3.0, 0.0]])
    about = {"calibration": {"temperature": 2.0, "n": 9, "threshold": 0.7, "positive": "ill", "rule": "Youden's index"}}
    classes = ("well", "ill")
    plain = Meaning.of(about, classes, "m", calibrated=False, threshold=False).predictions(["a", "b"], logits)
    assert (
        plain[0].probabilities == pytest.approx(probabilities_of(logits)[0])
        and plain[0].ranking(classes)[0][0] == "ill"
    )
    cool = Meaning.of(about, classes, "m", calibrated=True, threshold=False).predictions(["a", "b"], logits)
    assert cool[1].probabilities == pytest.approx(probabilities_of(logits / 2)[1])
    strict = Meaning.of(about, classes, "m", calibrated=False, threshold=True).predictions(["a", "b"], logits)
    assert strict[0].ranking(classes)[0] == ("well", pytest.approx(1 / (1 + np.exp(0.2))))
    with pytest.raises(UserError, match="m: the model holds no calibration"):
        Meaning.of({}, classes, "m", calibrated=True, threshold=False)
    with pytest.raises(UserError, match="a threshold is of two classes, the model has 3"):
        Meaning.of({"calibration": {"temperature": 1.0}}, ("a", "b", "c"), "m", calibrated=False, threshold=True)


def test_several_labels_an_image_by_hand_and_by_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(2)
    truths = np.column_stack([rng.random((80, 2)) < 0.4, np.zeros(80, bool)])
    logits = rng.standard_normal((80, 3)) + 2 * truths - 1
    records = label_metrics(logits, truths, ("mass", "node", "never"), resamples=50)
    got = values(records)
    said = logits >= 0
    assert got["label_accuracy", None] == pytest.approx((said == truths).mean())
    assert got["all_right", None] == pytest.approx((said == truths).all(1).mean())
    two = [roc_auc_score(truths[:, k], logits[:, k]) for k in range(2)]
    assert got["label_auc", None] == got["roc_auc", None] == pytest.approx(np.mean(two))
    assert got["roc_auc", "node"] == pytest.approx(two[1]) and ("roc_auc", "never") not in got
    assert got["recall", "mass"] == pytest.approx(said[truths[:, 0], 0].mean()) and got["support", "never"] == 0
    assert find(records, "label_auc").spread[0] < got["label_auc", None] < find(records, "label_auc").spread[1]
    groups = [str(i // 4) for i in range(80)]
    found = calibration_of(logits, truths, ("mass", "node", "never"), sensitivity=0.95)
    again = values(
        label_metrics(logits, truths, ("mass", "node", "never"), groups=groups, calibration=found, resamples=50)
    )
    assert again["recall", "mass"] >= 0.95 and again["temperature", None] == found["temperature"]
    assert len(found["threshold"]) == 3
