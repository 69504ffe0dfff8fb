"""Scores and their intervals; which images are drawn; attacks."""

import numpy as np
import pytest
import torch
from torch import nn

from ssmlab.core.errors import UserError
from ssmlab.core.statistics import delong, wilson
from ssmlab.data import open_images
from ssmlab.robustness.attacks import Attack
from ssmlab.robustness.philox import Draws
from ssmlab.robustness.scores import Answers, Outcome, area_under_changes, mean_right, scores
from ssmlab.studies.robustness.sample import draw_sample
from ssmlab.tasks.classify.task import Classify


def outcome(correct, predicted=None, confidence=0.9, in_five=None):
    correct = np.asarray(correct, bool)
    predicted = np.zeros(len(correct), np.int32) if predicted is None else np.asarray(predicted, np.int32)
    confidence = np.broadcast_to(np.float32(confidence), correct.shape)
    return Outcome(predicted, correct, correct if in_five is None else np.asarray(in_five, bool), confidence)


def test_calibration_error_by_hand():
    """Bins of many images, whose noise is nothing: half of them say 0.95 and 0.8 are right, half say 0.55 and 0.75."""
    n = np.arange(40_000)
    sure = np.where(n % 2 == 0, 0.95, 0.55).astype(np.float32)
    right = np.where(n % 2 == 0, n % 10 < 8, n % 8 < 6)
    by_hand = (abs(right[::2].mean() - 0.95) + abs(right[1::2].mean() - 0.55)) / 2
    for correct, confidence, error in ((right, sure, by_hand), (n % 10 < 8, 0.8, 0.0)):
        answer = [outcome(correct, confidence=confidence)]
        records = found(Answers(outcomes={"original": answer, "a": answer}, classes=2), resamples=10)
        assert records["ece", "a"].value == pytest.approx(error, abs=1e-3)


def found(answers, **options):
    return {(r.metric, r.class_): r for r in scores(answers, **options)}


def test_every_score_by_hand():
    n = np.arange(400)
    answers = Answers(
        outcomes={
            "original": [outcome(n % 10 < 8, predicted=n % 3)],
            "a": [outcome(n % 10 < 6, predicted=n % 3, in_five=n % 10 < 9), outcome(n % 10 < 4, predicted=n % 2)],
            "b": [outcome(n % 10 < 8, predicted=n % 3)],
            "attack": [outcome(n < 0)],
        },
        classes=10,
        apart=("attack",),
        reference={"original": 0.4, "a": 0.5, "b": 0.8},
    )
    values = {key: record.value for key, record in found(answers, resamples=100).items()}
    wanted = {
        ("accuracy", "original"): 0.8,
        ("accuracy", "a"): 0.5,
        ("accuracy", "attack"): 0.0,
        ("accuracy_drop", "a"): 0.3,
        ("accuracy_drop", "b"): 0.0,
        ("agreement", "b"): 1.0,
        ("agreement", "a"): (1 + (n % 3 == n % 2).mean()) / 2,
        ("top5_accuracy", "a"): (0.9 + 0.4) / 2,
        ("mean_corruption_error", None): (0.5 + 0.2) / 2,
        ("mean_drop", None): 0.15,
        ("mce", None): (0.5 / 0.5 + 0.2 / 0.8) / 2,
        ("relative_mce", None): (0.3 / 0.1 + 0.0 / 0.4) / 2,
    }
    assert {key: values[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)
    np.testing.assert_allclose(mean_right(answers).mean(), 0.65)


def test_intervals_are_as_wide_as_theory_says():
    right = np.random.default_rng(0).random(2000) < 0.7
    worse = right & (np.arange(2000) % 5 > 0)
    records = found(
        Answers(outcomes={"original": [outcome(right)], "a": [outcome(worse)]}, classes=3), resamples=2000, seed=1
    )
    assert ("top5_accuracy", "a") not in records, "of three classes every answer is among the first five"
    for key, part in ((("accuracy", "original"), right), (("accuracy_drop", "a"), right & ~worse)):
        low, high = records[key].spread
        half = 1.96 * part.std() / 2000**0.5
        assert (low, high) == pytest.approx((part.mean() - half, part.mean() + half), abs=0.1 * half)
    assert (
        records["agreement", "a"].spread == pytest.approx(wilson(2000, 2000), abs=1e-4)
        and records["accuracy", "a"].n == 2000
    )


def test_an_error_of_calibration_lies_within_its_interval():
    right = np.random.default_rng(3).random(20) < 0.7
    shaky = Outcome(**{**vars(outcome(right)), "confidence": np.random.default_rng(0).random(20).astype(np.float32)})
    records = found(Answers(outcomes={"original": [shaky], "a": [shaky]}, classes=3), resamples=200)
    for key, record in records.items():
        if key[0] in ("ece", "mean_ece"):
            assert record.spread[0] <= record.value <= record.spread[1], key


def test_a_sample_depends_on_names_and_seed_alone():
    data = open_images("digits")
    sample = draw_sample(data, "test", 7, 0)
    assert np.bincount(sample.labels).tolist() == [7] * 10 and sample.scarce == 0
    assert sample.ids == draw_sample(data, "test", 7, 0).ids != draw_sample(data, "test", 7, 1).ids
    assert set(sample.ids) < set(draw_sample(data, "test", 9, 0).ids) <= set(data.test.ids)
    everything = draw_sample(data, "all", 0, 0)
    assert len(everything.ids) == sum(map(len, data.splits.values())) == len(set(everything.keys.tolist()))
    keys = dict(zip(everything.ids, everything.keys))
    assert [keys[i] for i in sample.ids] == sample.keys.tolist() and sample.keys.min() >= 0
    of_two_parts = draw_sample(data, "all", 3, 0)
    read = of_two_parts.read(12, 1.0)
    assert read.shape == (30, 12, 12, 3)
    by_id = {i: split for split in of_two_parts.splits for i in split.ids}
    number = of_two_parts.ids.index(of_two_parts.splits[-1].ids[0])
    np.testing.assert_array_equal(read[number], by_id[of_two_parts.ids[number]].array(12)[0])
    assert draw_sample(data, "test", 10_000, 0).scarce == 10
    with pytest.raises(UserError, match="--part must be test, val, train, all"):
        draw_sample(data, "rest", 1, 0)


def test_the_middle_is_cropped():
    data = open_images("digits")
    sample = draw_sample(data, "test", 1, 0)
    np.testing.assert_array_equal(sample.read(8, 0.5), sample.read(16, 1.0)[:, 4:12, 4:12])


class Line(nn.Module):
    """Logits that are linear in the image."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3 * 4 * 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


@pytest.fixture
def attacked():
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 3, 4, 5), generator=random).to(torch.uint8)
    task = Classify(classes=("a", "b", "c"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    return Line(), task, images, torch.randint(0, 3, (6,), generator=random), Draws(0, torch.arange(6), 1000)


def test_fgsm_follows_the_formula(attacked):
    network, task, images, labels, draws = attacked
    changed = Attack(name="fgsm", epsilon=4 / 255).change(network, task, images, labels, draws)
    # of a linear model: sum over classes of (p - 1[class = label]) w, divided by a positive standard deviation
    with torch.no_grad():
        p = network(task.prepare(images)).softmax(1)
    gradient = (p - nn.functional.one_hot(labels, 3)) @ network.weight.detach()
    wanted = (images + 4 * gradient.sign().view_as(images)).clamp(0, 255)
    assert torch.allclose(changed, wanted)
    assert network.weight.grad is None


def test_pgd_stays_near_and_is_stronger(attacked):
    network, task, images, labels, draws = attacked

    def loss(x):
        return nn.functional.cross_entropy(network(task.prepare(x)), labels, reduction="none").detach()

    fgsm = Attack(name="fgsm", epsilon=2 / 255).change(network, task, images, labels, draws)
    pgd = Attack(name="pgd", epsilon=2 / 255, steps=10).change(network, task, images, labels, draws)
    assert (pgd - images).abs().max() <= 2 + 1e-4 and pgd.min() >= 0 and pgd.max() <= 255
    assert (loss(fgsm) > loss(images)).all() and (loss(pgd) >= loss(fgsm) - 1e-3).all()
    alone = Attack(name="pgd", epsilon=2 / 255, steps=10).change(
        network, task, images[2:3], labels[2:3], Draws(0, torch.tensor([2]), 1000)
    )
    assert torch.allclose(alone[0], pgd[2], atol=1e-4)


def labelled(rng, truths, good):
    """Answers about images with several labels under two transformations, one of them in two severities."""
    likely = [1 / (1 + np.exp(-good * truths - rng.standard_normal(truths.shape))) for _ in range(4)]
    said = [Outcome(*(np.zeros(len(truths)),) * 4, likely=each) for each in likely]
    outcomes = {"original": said[:1], "blur": said[1:2], "noise": said[2:]}
    return Answers(outcomes=outcomes, classes=truths.shape[1], truths=truths)


def test_areas_under_changes_are_the_mean_that_is_reported_and_find_what_is_there():
    rng = np.random.default_rng(0)
    truths = np.column_stack([rng.random((120, 2)) < 0.4, np.zeros(120)]).astype(int)  # the last label is nowhere
    better, worse, like = ([labelled(rng, truths, good) for _ in range(3)] for good in (2.0, 1.0, 1.0))
    areas = [area_under_changes(each) for each in (better, worse, like)]
    for answers, area in zip((better, worse, like), areas, strict=True):
        by_seed = [1 - found(one, resamples=10)["mean_corruption_error", None].value for one in answers]
        np.testing.assert_allclose(area.by_seed, by_seed, atol=1e-6)
    assert delong(areas[0], areas[1])[1] < 0.01 and delong(areas[2], areas[1])[1] > 0.05
    assert area_under_changes([labelled(rng, truths * 0, 1.0)]) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cw", "epsilon": 0.1}, "the attacks are fgsm, pgd, got 'cw'"),
        ({"name": "fgsm", "epsilon": 4}, "a fraction of the range, such as 4/255"),
        ({"name": "pgd", "epsilon": 0.1, "steps": 0}, "at least one step"),
    ],
)
def test_attacks_refuse(options, message):
    with pytest.raises(UserError, match=message):
        Attack(**options)
