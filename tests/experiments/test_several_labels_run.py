"""A run on images with several labels, its predictions, numbers and the command that uses its model."""

import csv

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import ModelError, RecipeError
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.studies.compare.model_refs import find_model_refs
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
    with pytest.raises(ModelError, match="several labels"):
        find_model_refs([str(folder / "models/resnet_test")])


def test_what_does_not_go_with_several_labels(chest):
    with pytest.raises(RecipeError, match="mix one label an image"):
        load_data(recipe(chest, "training.mixup=0.2"))
    with pytest.raises(RecipeError, match="names 'x', which is no class"):
        load_data(recipe(chest, "training.class_weights={x=2.0}"))
    with pytest.raises(RecipeError, match="0 or more"):
        recipe(chest, "training.class_weights={a=-1.0}")
