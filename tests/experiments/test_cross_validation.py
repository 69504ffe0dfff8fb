"""Cross-validations from a recipe to a report: killed and continued, pooled, and their mean as a model."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.record import read_records
from ssmlab.experiments import run as running
from ssmlab.experiments.run import run_recipe
from ssmlab.experiments.sweep import run_sweep
from ssmlab.models.ensemble import Ensemble
from ssmlab.reports.run_folder import read_predictions
from ssmlab.studies.compare import comparison
from ssmlab.tasks.api import evaluate
from ssmlab.tasks.classify_files import classify_files
from ssmlab.tasks.options import ClassifyOptions
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import load_data

DIGITS = "classification/digits_resnet18_vs_hybrid"
SMALL = ["data.limit=60", "training.epochs=1", "evaluation.samples=2", "evaluation.throughput_batch=2", "folds=3",
         "evaluation.throughput_repeats=2", "models=[{name='resnet_test'},{name='resnet_mamba_test'}]"]  # fmt: skip


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Nine patients with five images each, class by brightness, without any parts."""
    root = tmp_path_factory.mktemp("data") / "patients"
    random = np.random.default_rng(0)
    rows = ["path,label,group"]
    for i in range(45):
        patient, label = i // 5, ("a", "b", "c")[i // 5 % 3]
        name = f"{i}.png"
        root.mkdir(exist_ok=True)
        pixels = random.integers(0, 60, (16, 16, 3)) + 90 * ("abc".index(label))
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)
        rows.append(f"{name},{label},p{patient}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def run(patients, tmp_path_factory):
    recipe = load_recipe(DIGITS, [*SMALL, f"data.path={patients}", "data.image_size=32", "name=folded"], smoke=True)
    return run_recipe(recipe, output=tmp_path_factory.mktemp("runs"), command="ssmlab run")


def test_every_image_is_predicted_once_by_a_model_that_never_saw_its_patient(run):
    for label in ("resnet_test", "resnet_mamba_test"):
        folder = run / "models" / label
        with open(folder / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({row["id"] for row in rows}) == len(rows) == 45
        folds = {}
        for row in rows:
            folds.setdefault(row["group"], set()).add(row["fold"])
        assert len(folds) == 9 and all(len(found) == 1 for found in folds.values())
        together = {row["id"]: row["p:a"] for row in rows}
        for fold in range(3):
            for id_, values in zip(*columns(folder / f"fold{fold}" / "predictions.csv")):
                assert together[id_] == values
        assert read_predictions(folder / "predictions.csv").classes == ("a", "b", "c")


def columns(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["id"] for row in rows], [row["p:a"] for row in rows]


def test_one_set_of_records(run):
    records = read_records(run / "records.jsonl")
    own = {(r.split, r.metric, r.class_): r for r in records if r.model == "resnet_test" and r.step is None}
    whole = own["test", "accuracy", None]
    assert whole.n == 45
    folds = [own[f"fold{i}", "accuracy", None] for i in range(3)]
    assert sum(r.n for r in folds) == 45
    assert sum(r.value * r.n for r in folds) == pytest.approx(whole.value * 45)
    assert own[None, "train_seconds", None].value > 0 and own["val", "accuracy", None].value >= 0
    assert [r for r in records if r.metric == "accuracy_difference"]
    over_folds = [r for r in records if (r.metric, r.class_) == ("p_of_accuracy_difference", "Nadeau-Bengio")]
    assert len(over_folds) == 1 and 0 <= over_folds[0].value <= 1 and "resampled t-test" in over_folds[0].unit
    about = json.loads((run / "run.json").read_text())["data"]
    assert (about["group"], about["groups"]["test"], about["near_copies"]) == ("group", 9, [])
    assert about["counts"]["test"] == 45 and about["folds"] == {"number": 3, "repeats": 1, "published_test": 0}
    assert any("3 folds of 45 images, 9 groups kept whole" in note for note in about["notes"])
    page = (run / "report.html").read_text()
    assert "Measured on 45 images of 9 groups (group) of 3 folds, each by a model" in page
    assert "was used once, after training" not in page
    assert "Of a cross-validation of 3 folds" in page and "Nadeau-Bengio" in page
    shown = {(r.metric, r.class_) for r in records if r.model == "resnet_test" and r.split == "test"}
    assert {("temperature", None), ("ece_calibrated", None), ("brier_calibrated", None)} <= shown
    assert json.loads((run / "models/resnet_test/preprocess.json").read_text())["calibration"]["n"] == 45


def test_its_splits_are_nnunets_and_are_read_again(run, patients):
    rows = json.loads((run / "splits_final.json").read_text())
    assert [set(row) for row in rows] == [{"train", "val"}] * 3
    changes = [*SMALL, f"data.path={patients}", "data.image_size=32", f"splits={run / 'splits_final.json'}"]
    again = load_data(load_recipe(DIGITS, changes, smoke=True))
    one = load_data(load_recipe(run))
    assert again.folds == one.folds and again.describe["split_hash"] == one.describe["split_hash"]


def test_the_mean_of_the_folds_is_a_model(run, patients, tmp_path):
    network, how = load_model(run / "models" / "resnet_test", "vision")
    assert isinstance(network, Ensemble) and len(network.members) == 3 and how["classes"] == ["a", "b", "c"]
    found = classify_files(run / "models" / "resnet_test", [patients / "0.png"], ClassifyOptions())
    assert len(found.rows) == 1 and found.rows[0].probabilities.sum() == pytest.approx(1)
    with pytest.raises(UserError, match="learned from every image"):
        evaluate(str(run / "models" / "resnet_test"), progress=False)
    options = comparison.Options(data=str(patients), output=tmp_path / "compared", repeats=1, batch=2, train=False)
    with pytest.raises(UserError, match="models together have learned from every image"):
        comparison.compare([str(run)], options)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_next_fold(patients, tmp_path, monkeypatch):
    changes = [*SMALL, f"data.path={patients}", "data.image_size=32", "name=killed", "models=[{name='resnet_test'}]"]
    trained = []
    whole = running.Run.fit

    def fit(self, job):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(job.folder.name)
        whole(self, job)

    monkeypatch.setattr(running.Run, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(load_recipe(DIGITS, changes, smoke=True), output=tmp_path)
    assert trained == ["fold0", "fold1"]
    before = (tmp_path / "killed/models/resnet_test/fold0/records.jsonl").read_bytes()
    trained.clear()
    folder = run_recipe(load_recipe(DIGITS, changes, smoke=True), output=tmp_path)
    assert trained == ["fold2"]
    assert (folder / "models/resnet_test/fold0/records.jsonl").read_bytes() == before
    assert len(read_predictions(folder / "models/resnet_test/predictions.csv").ids) == 45


@pytest.mark.slow
def test_a_published_test_part_stays_apart(tmp_path):
    changes = [*SMALL, "name=apart", "models=[{name='resnet_test'}]", "seeds=[0,1]", "evaluation.tta=horizontal"]
    folder = run_recipe(load_recipe(DIGITS, changes, smoke=True), output=tmp_path)
    held = read_predictions(folder / "models/resnet_test_seed0/predictions.csv").ids
    apart = read_predictions(folder / "models/resnet_test_seed0/published_test.csv").ids
    assert not set(held) & set(apart) and apart
    records = [r for r in read_records(folder / "records.jsonl") if r.split == "published_test"]
    assert {r.seed for r in records if r.metric == "accuracy"} == {0, 1}
    assert all(r.n == len(apart) for r in records if r.metric == "accuracy")
    gain = [r for r in read_records(folder / "records.jsonl") if r.metric == "tta_gain" and r.split == "test"]
    assert len(gain) == 2 and all(r.spread[0] <= r.value <= r.spread[1] for r in gain)
    found = evaluate(str(folder / "models/resnet_test_seed0"), progress=False)
    assert found.value("accuracy") == next(r.value for r in records if (r.metric, r.seed) == ("accuracy", 0))


def test_what_a_cross_validation_refuses(tmp_path):
    with pytest.raises(RecipeError, match="folds=1 leaves nothing"):
        load_recipe(DIGITS, ["folds=1"], smoke=True)
    with pytest.raises(RecipeError, match="repeats=2 is for a cross-validation"):
        load_recipe(DIGITS, ["repeats=2"], smoke=True)
    with pytest.raises(RecipeError, match="there is no such file"):
        load_recipe(DIGITS, ["splits=nothing.json"], smoke=True)
    with pytest.raises(RecipeError, match="leave folds out"):
        run_sweep(DIGITS, ["folds=3", "training.learning_rate=1e-3,1e-4"], smoke=True, output=tmp_path)
