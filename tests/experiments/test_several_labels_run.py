"""A run on images with several labels, its predictions, numbers and the command that uses its model."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.interpret.visualise import Search
from ssmlab.studies.compare import Options as CompareOptions
from ssmlab.studies.compare import compare
from ssmlab.studies.compress.kinds import find_model
from ssmlab.studies.explain.explanation import Settings, explain
from ssmlab.studies.explain.opening import open_model
from ssmlab.studies.robustness.evaluation import Options as RobustnessOptions
from ssmlab.studies.robustness.evaluation import robustness
from ssmlab.tasks.api import evaluate
from ssmlab.tasks.classify_files import classify_files
from ssmlab.tasks.options import ClassifyOptions
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import load_data

DIGITS = "classification/digits_resnet18_vs_hybrid"


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """Left and right halves are bright or dark, each by itself."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 60), ("val", 20), ("test", 30)):
        labels = (random.random((n, 2)) < 0.4).astype(np.uint8)
        images = random.integers(0, 90, (n, 16, 16)).astype(np.uint8)
        images[:, :, :8] += 120 * labels[:, 0, None, None]
        images[:, :, 8:] += 120 * labels[:, 1, None, None]
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    path = tmp_path_factory.mktemp("chest") / "chest.npz"
    np.savez(path, **arrays)
    return path


def recipe(chest, *changes):
    small = [f"data.path={chest}", "data.image_size=32", "training.epochs=6", "training.class_weights=balanced"]
    small += ["evaluation.throughput_batch=2", "evaluation.throughput_repeats=2", "models=[{name='resnet_test'}]"]
    return load_recipe(DIGITS, [*small, *changes], smoke=True)


@pytest.mark.slow
def test_a_run(chest, tmp_path):
    folder = run_recipe(recipe(chest, "folds=2", "evaluation.tta=none", "name=several"), output=tmp_path)
    records = {(r.split, r.metric, r.class_): r for r in read_records(folder / "records.jsonl") if r.step is None}
    assert records["test", "roc_auc", None].value > 0.8 and records["test", "roc_auc", "1"].n == 80
    assert records["published_test", "roc_auc", None].n == 30
    with open(folder / "models/resnet_test/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    data = load_data(recipe(chest, "folds=2"))
    for row, labels in zip(rows, data.train.labels, strict=True):
        assert row["label"] == "|".join(str(k) for k in range(2) if labels[k])
        wanted = "|".join(str(k) for k in range(2) if float(row[f"p:{k}"]) >= 0.5)
        assert row["predicted"] == wanted and row["correct"] == str(int(wanted == row["label"]))
    picture = tmp_path / "x.png"
    Image.fromarray(np.load(chest)["test_images"][0]).save(picture)
    (found,) = classify_files(folder, [picture], ClassifyOptions()).rows
    assert ((found.probabilities > 0) & (found.probabilities < 1)).all()
    again = evaluate(str(folder / "models/resnet_test"), progress=False)
    assert again.value("roc_auc") == pytest.approx(records["published_test", "roc_auc", None].value)
    temperature = json.loads((folder / "models/resnet_test/preprocess.json").read_text())["calibration"]
    assert temperature["n"] == 80 and len(temperature["threshold"]) == 2
    assert {("test", "ece_calibrated", None), ("published_test", "ece_calibrated", None)} <= records.keys()
    over_folds = [key for key in records if key[:2] == ("test", "p_of_label_accuracy_difference")]
    assert not over_folds, "one model has no differences"
    studies(folder / "models/resnet_test", chest, tmp_path)


def studies(model, chest, tmp_path):
    """Studies of models whose images have several labels: compare, explain, robustness."""
    options = {"data": str(chest), "device": "cpu", "batch": 8}
    both = [str(model), str(model / "fold0")]
    result = compare(both, CompareOptions(**options, repeats=1, train=False, output=tmp_path / "compared"))
    found = {(r.model, r.metric): r for r in result.records if r.class_ is None}
    areas = [found[ref.label, "label_auc"].value for ref in result.models]
    pair = next(r for r in result.records if r.metric == "label_auc_difference")
    assert pair.value == pytest.approx(areas[1] - areas[0]) and result.axis.name == "label_auc"
    page = (tmp_path / "compared" / "report.html").read_text()
    assert "Right answers" in page and "DeLong" in page and "Mean ROC AUC" in page
    opened, _ = open_model(str(model / "fold0"), device="cpu")
    pictures = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 32, 32, 1)), 3, -1).astype(np.uint8)
    settings = Settings(classes=(1,), search=Search(steps=0), gradient_steps=2, score_steps=4, random=1)
    (picture,) = explain(opened, pictures, ["x"], settings).pictures
    (asked,) = picture.classes
    logit = float(opened.network(opened.prepare(pictures))[0, 1].detach())
    assert asked.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    whole = asked.curves["camera"]["deletion"].probability[0]
    assert float(whole) == pytest.approx(asked.probability, abs=1e-4), "nothing is deleted yet"
    tested = RobustnessOptions(**options, per_class=4, resamples=100, output=tmp_path / "robust")
    result = robustness(both, tested)
    scored = {(r.model, r.metric, r.class_): r for r in result.records}
    drops = [r.value for r in result.records if r.metric == "label_auc_drop"]
    assert len(drops) == 40 and 0 <= scored[result.groups[0].label, "label_auc", "original"].value <= 1
    mean = scored[result.groups[0].label, "mean_corruption_error", None]
    assert 0 <= mean.spread[0] <= mean.value <= mean.spread[1] <= 1
    assert "Mean ROC AUC over labels" in (tmp_path / "robust" / "report.html").read_text()
    headline, detail = replace(result, doubts=()).answer  # the models are of a trial run
    assert "mean corruption error" in headline and "points, " in detail, (headline, detail)
    assert robustness(both, replace(tested, overwrite=True)).records[0].value == result.records[0].value
    with pytest.raises(UserError, match="attacks are of models that choose one class"):
        robustness(both, replace(tested, attacks=("fgsm",), output=tmp_path / "attacked"))
    with pytest.raises(UserError, match="gives an image several labels, digits has one"):
        compare(both, CompareOptions(**options | {"data": "digits"}, train=False, output=tmp_path / "other"))
    with pytest.raises(UserError, match="compress does not measure"):
        find_model(str(model / "fold0"), (), tmp_path)


def test_what_does_not_go_with_several_labels(chest):
    with pytest.raises(RecipeError, match="mix one label an image"):
        load_data(recipe(chest, "training.mixup=0.2"))
    with pytest.raises(RecipeError, match="names 'x', which is no class"):
        load_data(recipe(chest, "training.class_weights={x=2.0}"))
    with pytest.raises(RecipeError, match="0 or more"):
        recipe(chest, "training.class_weights={a=-1.0}")
