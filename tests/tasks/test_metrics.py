"""Metrics against numbers worked out by hand."""

import numpy as np
import pytest

from ssmlab.tasks.shared.metrics import classification_metrics, log_softmax, roc_auc

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
    assert not any(metric in ("sensitivity", "specificity") for metric, _ in got)
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


def test_roc_auc_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    assert roc_auc(probabilities, np.array([0, 0, 1, 1])) == 3 / 4  # 3 of 4 pairs are in order
    assert roc_auc(probabilities, np.array([1, 1, 1, 1])) is None
    # Three columns of which one never occurs: the mean of the two others, each against the rest.
    three = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.4, 0.5, 0.1]])
    assert roc_auc(three, np.array([0, 0, 1])) == pytest.approx((1 / 2 + 1) / 2)


def test_log_softmax_of_large_logits():
    assert log_softmax(np.array([[1000.0, 0.0]])) == pytest.approx(np.array([[0.0, -1000.0]]))
