"""Records of all pairs: metrics, tests, classes of the p-values."""

import numpy as np
import pytest

from ssmlab.core.statistics import holm, mcnemar, nadeau_bengio, wilcoxon
from ssmlab.reports.differences import pairs_of
from ssmlab.tasks.shared.differences import class_differences, fold_records, label_differences


def likely(rng, labels, better=0.0, seeds=1):
    logits = rng.standard_normal((seeds, len(labels), 3)) + better * np.eye(3)[labels]
    odds = np.exp(logits)
    return odds / odds.sum(-1, keepdims=True)


@pytest.fixture
def three():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    return labels, {name: likely(rng, labels, better) for name, better in (("a", 0.2), ("b", 0.3), ("c", 2.5))}


def test_accuracy_area_and_loss_of_every_pair(three):
    labels, found = three
    correct = {name: p.argmax(-1) == labels for name, p in found.items()}
    records = class_differences(labels, correct, found, resamples=200)
    by = {(pair, r.metric, r.class_): r for pair, r in records}
    assert {pair for pair, _, _ in by} == {"b - a", "c - a", "c - b"}
    p = by["c - a", "p_of_accuracy_difference", None]
    assert p.value == mcnemar(correct["c"][0], correct["a"][0]) and p.unit == "McNemar's exact test"
    ps = [by[pair, "p_of_accuracy_difference", None].value for pair in ("b - a", "c - a", "c - b")]
    assert by["c - b", "p_of_accuracy_difference", "Holm"].value == holm(ps)[2]
    losses = {name: -np.log(each[0, np.arange(90), labels]) for name, each in found.items()}
    assert by["b - a", "p_of_loss_difference", "Wilcoxon"].value == pytest.approx(wilcoxon(losses["b"], losses["a"]))
    assert by["c - a", "roc_auc_difference", None].spread[0] > 0.1 and by["c - a", "loss_difference", None].value < 0
    assert by["b - a", "p_of_roc_auc_difference", None].unit == "DeLong's test"
    assert ("b - a", "p_of_accuracy_difference", "these models") not in by  # one seed: it is about these models


def test_groups_are_counted_and_the_last_record_is_read(three):
    labels, found = three
    correct = {name: p.argmax(-1) == labels for name, p in found.items()}
    groups = [f"p{i // 10}" for i in range(90)]
    rows = class_differences(labels, correct, found, groups=groups, resamples=200)
    records = [type(r)(**(vars(r) | {"model": pair, "split": "test"})) for pair, r in rows]
    pairs = pairs_of(records, ["a", "b", "c"], "accuracy")
    assert {pair.difference.n for pair in pairs} == {9} and {pair.test for pair in pairs} == {"permutation test"}
    best = next(pair for pair in pairs if (pair.second, pair.first) == ("c", "a"))
    assert best.turned("c")[0] == -best.turned("a")[0] > 0.3 and best.corrected <= 0.02
    # 45 images of 9 patients who are right or wrong as a whole have no smaller p than nine patients can
    assert best.ps[None] >= 2 / 2**9


def test_seeds_have_a_p_without_their_error(three):
    labels, _ = three
    rng = np.random.default_rng(1)
    found = {name: likely(rng, labels, 0.5, seeds=2) for name in "ab"}
    correct = {name: p.argmax(-1) == labels for name, p in found.items()}
    by = {(r.metric, r.class_): r.value for _, r in class_differences(labels, correct, found, resamples=200)}
    assert by["p_of_accuracy_difference", "these models"] <= by["p_of_accuracy_difference", None]


def test_folds_have_the_corrected_t_test():
    rng = np.random.default_rng(3)
    scores = {name: 0.8 + 0.02 * rng.standard_normal(5) + better for name, better in (("a", 0), ("b", 0.1), ("c", 0))}
    by = {(pair, r.class_): r for pair, r in fold_records("accuracy", scores, 20, 80)}
    assert by["b - a", "Nadeau-Bengio"].value == nadeau_bengio(scores["b"] - scores["a"], 20, 80)[1] < 0.05
    assert by["b - a", "Nadeau-Bengio, Holm"].value > by["b - a", "Nadeau-Bengio"].value
    assert {r.metric for r in by.values()} == {"p_of_accuracy_difference"}


def test_several_labels_are_compared_by_their_mean_area():
    rng = np.random.default_rng(2)
    truths = rng.random((80, 4)) < 0.4
    found = {
        name: 1 / (1 + np.exp(-rng.standard_normal((1, 80, 4)) - by * truths)) for name, by in (("a", 0), ("b", 3))
    }
    by = {(r.metric, r.class_): r for _, r in label_differences(truths, found, resamples=200)}
    assert by["label_auc_difference", None].spread[0] > 0.2 and by["p_of_label_auc_difference", "Holm"].value < 0.001
    assert by["label_accuracy_difference", None].value > 0
