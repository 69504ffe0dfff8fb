from dataclasses import replace

import numpy as np
import pytest
from fake_run import Fake, make_run

from ssmlab.core.record import Record
from ssmlab.reports.run_folder import Predictions, load_run
from ssmlab.reports.verdict import winner
from ssmlab.tasks.table import report_of

TASK, LANGUAGE = report_of("classify"), report_of("language")


def accuracy(model, value, seed=0, n=400, **more):
    return Record(model=model, split="test", metric="accuracy", value=value, n=n, seed=seed, **more)


def difference(name, value, low, high, seed=0, p=0.01, metric="accuracy", n=None):
    of = {"model": name, "split": "test", "seed": seed, "n": n}
    return [
        Record(metric=f"{metric}_difference", value=value, spread=(low, high), **of),
        Record(metric=f"p_of_{metric}_difference", value=p, unit="permutation test", **of),
        Record(metric=f"p_of_{metric}_difference", value=p, unit="permutation test", class_="Holm", **of),
    ]


def said(correct, ids=None):
    ids = ids or tuple(str(i) for i in range(len(correct)))
    return Predictions(ids, ("y",) * len(ids), tuple("y" if right else "n" for right in correct), (), None)


def test_a_clear_winner_with_margin_and_interval():
    answer = winner([accuracy("a", 0.95), accuracy("b", 0.975), *difference("b - a", 0.025, 0.005, 0.045)], TASK)
    assert answer.clear
    assert answer.leader == "b"
    assert answer.runner_up == "a"
    assert answer.sentence == (
        "b wins: 97.5 % against 95.0 % for a, on 400 test images, one seed trained; +2.5 points (95 % interval +0.5 to "
        "+4.5, p = 0.01)."
    )


def test_a_recorded_difference_is_turned_round():
    answer = winner([accuracy("a", 0.95), accuracy("b", 0.975), *difference("a - b", -0.025, -0.045, -0.005)], TASK)
    assert answer.difference == pytest.approx((0.025, 0.005, 0.045))


def test_a_winner_of_folds_holds_over_the_folds_too():
    records = [accuracy("a", 0.95), accuracy("b", 0.975), *difference("b - a", 0.025, 0.005, 0.045)]
    over = Record(model="b - a", split="test", metric="p_of_accuracy_difference", value=0.03, seed=0)
    assert winner([*records, replace(over, class_="Nadeau-Bengio, Holm")], TASK).clear
    answer = winner([*records, replace(over, class_="Nadeau-Bengio, Holm", value=0.16)], TASK)
    assert answer.kind == "unclear" and "p = 0.16 is above 0.05" in answer.detail


@pytest.mark.parametrize("low", [-0.01, 0.0])
def test_an_interval_with_zero_is_no_clear_winner(low):
    answer = winner([accuracy("a", 0.95), accuracy("b", 0.96), *difference("b - a", 0.01, low, 0.03)], TASK)
    assert answer.kind == "unclear"
    assert answer.headline == "No clear winner"
    assert "b is 1.0 points ahead of a" in answer.detail
    assert "includes zero" in answer.detail


@pytest.mark.parametrize(
    ("p", "said"), [(0.2, "p = 0.2 is above 0.05"), (None, "no p-value was recorded, as versions before did not")]
)
def test_a_p_that_is_too_large_or_missing_is_no_clear_winner(p, said):
    records = [accuracy("a", 0.95), accuracy("b", 0.97), *difference("b - a", 0.02, 0.01, 0.03, p=p or 0)]
    answer = winner(records if p else records[:3], TASK)
    assert answer.kind == "unclear" and answer.reason == said


def test_where_no_p_can_be_small_enough_it_is_said():
    """Six images and three models: exact permutations of six signs have a p of 1/32 at least, three pairs 3/32."""
    right = {"a": [False] * 6, "b": [True] * 6, "c": [False] * 5 + [True]}
    records = [accuracy(name, np.mean(answers), n=6) for name, answers in right.items()]
    answer = winner(records, TASK, {name: {0: said(answers)} for name, answers in right.items()})
    assert answer.comparisons == 3 and not answer.clear
    assert answer.reason == (
        "of 6 test images no p-value of 3 comparisons can be below 0.094, whatever the models answer; it takes 7"
    )
    two = winner(records[:2], TASK, {name: {0: said(right[name])} for name in "ab"})
    assert two.clear and "p = 0.031" in two.detail and "one seed trained" in two.detail


def test_patients_are_the_cases(tmp_path):
    """45 images of 9 patients, all of whose images are right or wrong together."""
    groups = tuple(f"p{i // 5}" for i in range(45))
    first, second = (np.repeat(np.arange(9) < most, 5) for most in (4, 9))
    records = [accuracy("a", first.mean(), n=45), accuracy("b", second.mean(), n=45)]
    predictions = {name: {0: replace(said(right), groups=groups)} for name, right in (("a", first), ("b", second))}
    answer = winner(records, TASK, predictions, tested="45 test images of 9 groups (patient)")
    assert answer.cases == 9 and not answer.clear and answer.corrected == 2 / 32  # five patients differ
    assert "on 45 test images of 9 groups (patient)" in answer.detail
    alone = {name: {0: replace(own[0], groups=None)} for name, own in predictions.items()}
    assert winner(records, TASK, alone).clear


def test_equal_models_are_equal():
    answer = winner([accuracy("a", 0.95), accuracy("b", 0.95), *difference("b - a", 0.0, -0.01, 0.01)], TASK)
    assert answer.kind == "unclear"
    assert "both reach 95.0 %" in answer.detail


def test_the_interval_is_computed_from_predictions_in_any_order():
    right_a = np.arange(400) % 10 != 0
    right_b = np.arange(400) % 20 != 0
    records = [accuracy("a", 0.9), accuracy("b", 0.95)]
    straight = winner(records, TASK, {"a": {None: said(right_a)}, "b": {None: said(right_b)}})
    ids = tuple(str(i) for i in range(400))[::-1]
    turned = winner(records, TASK, {"a": {None: said(right_a)}, "b": {None: said(right_b[::-1], ids)}})
    assert straight.clear
    assert straight.difference.value == pytest.approx(0.05)
    assert straight == turned


def test_predictions_of_other_images_give_no_interval():
    other = said([True] * 400, tuple(f"x{i}" for i in range(400)))
    answer = winner([accuracy("a", 0.9), accuracy("b", 1.0)], TASK, {"a": {0: said([True] * 400)}, "b": {0: other}})
    assert answer.kind == "unclear"
    assert "no interval" in answer.detail


def test_one_model_is_described():
    answer = winner([accuracy("a", 0.95)], TASK)
    assert answer.kind == "single"
    assert answer.sentence == ("a: classifies 95.0 % of 400 test images correctly (95 % interval 92.4 % to 96.7 %).")


def test_no_result_and_half_a_result():
    curve = Record(model="b", split="val", metric="accuracy", value=0.9, step=10)
    assert winner([curve], TASK).kind == "none"
    answer = winner([accuracy("a", 0.95), curve], TASK)
    assert answer.kind == "partial"
    assert "no test result of b yet" in answer.detail


def test_the_best_of_three_meets_the_next_best():
    records = [
        accuracy("a", 0.90),
        accuracy("b", 0.97),
        accuracy("c", 0.95),
        *difference("b - c", 0.02, 0.01, 0.03),
    ]
    answer = winner(records, TASK, titles={"a": "A", "b": "B", "c": "C"})
    assert (answer.leader, answer.runner_up) == ("b", "c")
    assert "95.0 % for C, the next of 3" in answer.detail


def test_a_diverged_model_does_not_win():
    answer = winner([accuracy("a", float("nan")), accuracy("b", 0.5), *difference("b - a", 0.5, 0.4, 0.6)], TASK)
    assert answer.leader == "b"


def test_several_seeds_are_compared_over_images_and_seeds(tmp_path):
    run = load_run(make_run(tmp_path / "run", Fake(seeds=(0, 1, 2), recorded_difference=False), images=0), report_of)
    answer = winner(run.records, run.task, run.predictions, run.titles)
    assert answer.seeds == 3
    assert "mean of 3 seeds" in answer.detail
    accuracies = {
        label: np.mean([p.correct.mean() for p in by_seed.values()]) for label, by_seed in run.predictions.items()
    }
    assert answer.difference.value == pytest.approx(accuracies["resnet18_mamba"] - accuracies["resnet18"])
    assert answer.difference.low < answer.difference.value < answer.difference.high


def bits(model, value, n=1000):
    return Record(model=model, task="language", split="test", metric="bits_per_byte", value=value, n=n, seed=0)


def gap(name, value, low, high, n, p=0.01):
    return difference(name, value, low, high, p=p, metric="bits_per_byte", n=n)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_fewer_than_six_cases_carry_no_verdict(n):
    answer = winner([accuracy("a", 0.0, n=n), accuracy("b", 1.0, n=n), *difference("b - a", 1.0, 1.0, 1.0)], TASK)
    assert answer.clear == (n == 6)
    if n < 6:
        images = "image" if n == 1 else "images"
        assert answer.sentence == (
            f"No verdict: {n} test {images}; at least 6 are needed. b reaches 100.0 % and a, 0.0 % on {n} test images, "
            "one seed trained."
        )
        assert answer.reason == f"{n} test {images}; at least 6 are needed"


def test_cases_are_what_was_resampled():
    """Thousands of tokens in two rows are two cases."""
    records = [bits("a", 8.0), bits("b", 7.0)]
    assert winner([*records, *gap("b - a", -1.0, -1.1, -0.9, 2)], LANGUAGE).detail.startswith(
        "2 test rows; at least 6 are needed."
    )
    assert winner([*records, *gap("b - a", -1.0, -1.1, -0.9, 20)], LANGUAGE).clear
    said_by = {name: {None: said([name == "b"] * 5)} for name in "ab"}
    assert winner([accuracy("a", 0.0, n=5), accuracy("b", 1.0, n=5)], TASK, said_by).headline == "No verdict"


@pytest.mark.parametrize(
    ("low", "value", "said"),
    [
        (0.0001, 0.0003, "a and b reach 9.697 bits per byte and 9.698 bits per byte"),
        (0.0004, 0.02, "the 95 % interval 0.000 to +0.100 includes zero"),
    ],
)
def test_what_prints_as_nothing_is_no_difference(low, value, said):
    records = [bits("a", 9.6974), bits("b", 9.6974 + value), *gap("b - a", value, low, 0.1, 40)]
    if value < 0.001:
        records[1] = bits("b", 9.6977)
    answer = winner(records, LANGUAGE)
    assert answer.headline == "No clear winner" and said in answer.sentence
    assert winner([bits("a", 9.0), bits("b", 9.1), *gap("b - a", 0.1, 0.05, 0.2, 40)], LANGUAGE).clear
