import numpy as np
import pytest
from fake_run import Fake, make_run
from sklearn.metrics import auc, roc_auc_score, roc_curve

from ssmlab.core.files import write_records
from ssmlab.core.record import Record, read_records
from ssmlab.reports import series
from ssmlab.reports.run_folder import load_run
from ssmlab.tasks.table import report_of


def test_roc_curve_has_the_area_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.3
    score = np.round(rng.normal(truth * 1.0), 1)  # rounded: ties
    fpr, tpr = series.roc_points(truth, score)
    expected = roc_curve(truth, score, drop_intermediate=False)
    assert np.allclose(fpr, expected[0])
    assert np.allclose(tpr, expected[1])
    assert auc(fpr, tpr) == pytest.approx(roc_auc_score(truth, score))


def test_roc_of_a_run_agrees_with_its_recorded_area(digits, tissue):
    for folder, several in ((digits, True), (tissue, False)):
        run = load_run(folder, report_of)
        for label in run.labels:
            curve = series.roc(run, label)
            assert curve.area == pytest.approx(run.final(label, "roc_auc"), abs=1e-3)
            assert auc(curve.fpr, curve.tpr) == pytest.approx(curve.area, abs=2e-3)
            assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
            assert curve.classes == ("" if several else "SSA")


def test_a_class_that_is_absent_has_no_curve():
    assert series.roc_points(np.array([True, True]), np.array([0.1, 0.2])) is None


def test_confusion_is_the_same_from_records_and_predictions(hostile):
    run = load_run(hostile, report_of)
    for label in run.labels:
        from_records = series.confusion(run, label, run.classes)
        run_without = load_run(hostile, report_of)
        run_without.records = [r for r in run.records if r.metric != "confusion"]
        assert (from_records == series.confusion(run_without, label, run.classes)).all()
        assert from_records.sum() == 2 * 360


def test_mistakes_are_sorted_and_leave_out_what_is_right():
    matrix = np.array([[9, 1, 0], [0, 5, 5], [0, 0, 7]])
    assert series.mistakes(matrix, ["a", "b", "c"], 5) == [("b", "c", 5, 10), ("a", "b", 1, 10)]


def test_a_step_repeated_after_a_resume_counts_once(tmp_path):
    folder = make_run(tmp_path / "run", images=0)
    before = series.curves(load_run(folder, report_of), "loss")
    again = Record(model="resnet18", split="val", metric="loss", value=0.5, step=21, seed=0)
    write_records(folder / "records.jsonl", [*read_records(folder / "records.jsonl"), again])
    after = series.curves(load_run(folder, report_of), "loss")
    assert [len(line.x) for line in after] == [len(line.x) for line in before]
    line = next(line for line in after if (line.label, line.split) == ("resnet18", "val"))
    assert line.axis == "epoch"
    assert line.x[0] == pytest.approx(1)
    assert line.y[0] == 0.5


def test_curves_without_epochs_use_steps_and_long_ones_are_thinned():
    records = [
        Record(model="a", split="train", metric="loss", value=1.0 if step % 2 else 3.0, step=step)
        for step in range(3000)
    ]
    run = fake_records(records)
    (line,) = series.curves(run, "loss")
    assert line.axis == "step"
    assert len(line.x) == 300
    assert line.y == pytest.approx(2.0)


def curve(label, split, seed, x, y):
    return series.Line(label, split, seed, "step", np.array(x, float), np.array(y, float), True)


def test_few_curves_stay_as_they_are_and_many_become_means_over_seeds():
    few = [curve("a", "val", seed, [1, 2], [seed, 2]) for seed in range(8)]
    assert series.legible(few) is few
    (mean,) = series.legible([*few, curve("a", "val", 8, [1, 2], [8, 11])])
    assert (mean.seed, mean.repeated) == (None, True)
    assert np.array_equal(mean.x, [1, 2])
    assert np.allclose([mean.y, mean.low, mean.high], [[4, 3], [0, 2], [8, 11]])


def test_curves_of_different_steps_are_averaged_in_bins():
    long = [curve("a", "train", seed, np.arange(200), np.full(200, seed)) for seed in range(8)]
    (mean,) = series.legible([*long, curve("a", "train", 9, [0, 1], [80, 80])])  # stopped early
    assert len(mean.x) == 40 and mean.x[0] < mean.x[-1] < 199
    assert mean.y[0] == pytest.approx((sum(range(8)) + 80) / 9) and mean.y[-1] == pytest.approx(3.5)


def test_of_many_models_only_the_validation_part_is_drawn():
    lines = [curve(str(m), split, 0, [1, 2], [m, m]) for m in range(5) for split in ("train", "val")]
    drawn = series.legible(lines)
    assert [(line.label, line.split) for line in drawn] == [(str(m), "val") for m in range(5)]
    trained = [line for line in lines if line.split == "train"] * 2
    assert len(series.legible(trained)) == 5  # there is nothing else


def fake_records(records):
    from pathlib import Path

    from ssmlab.reports.run_folder import Run

    return Run(Path("x"), report_of(None), {}, records, ["a"], {"a": "a"}, {}, [], None)


def test_speeds_need_both_numbers(tmp_path):
    run = load_run(make_run(tmp_path / "run", Fake(unfinished=True), images=0), report_of)
    (spot,) = series.speeds(run)
    assert spot.label == "resnet18"
    assert spot.low < spot.accuracy < spot.high
    assert spot.speed_low < spot.speed < spot.speed_high
