"""Compare, robustness, explain and the command take an ensemble as any other model."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ssmlab.checkpoints.folder import save_ensemble, save_model
from ssmlab.cli.main import main
from ssmlab.core.errors import UserError
from ssmlab.core.record import read_records
from ssmlab.data import open_images
from ssmlab.experiments.run import run_recipe
from ssmlab.interpret.visualise import Search
from ssmlab.models import create_model
from ssmlab.studies.compare import comparison
from ssmlab.studies.explain.explanation import Settings, explain
from ssmlab.studies.explain.opening import open_model
from ssmlab.studies.robustness.evaluation import Options, robustness
from ssmlab.tasks.classify.ensemble import calibrate
from ssmlab.tasks.recipe import load_recipe

CLASSES = open_images("digits").classes


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(each) for each in arguments])
    return end.value.code


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    root = tmp_path_factory.mktemp("ensemble")
    for i, name in enumerate(("resnet_test", "resnet_mamba_test")):
        torch.manual_seed(i)
        model = create_model(name, num_classes=10, image_size=32)
        about = {"image_size": 32, "fit": "crop", "mean": [0.4 + i / 10] * 3, "std": [0.25] * 3, "classes": CLASSES}
        save_model(model, root / name, about | {"channels": 3})
    assert call("ensemble", root / "both", root / "resnet_test", root / "resnet_mamba_test") == 0
    return root / "both"


def test_the_folder_names_its_members(ensemble, capsys):
    stored = json.loads((ensemble / "config.json").read_text())
    assert stored["members"] == ["../resnet_test", "../resnet_mamba_test"] and stored["kind"] == "vision"
    assert call("ensemble", ensemble.parent / "resnet_test", ensemble, ensemble) == 2
    assert "holds a trained model; give another folder" in capsys.readouterr().err


def test_it_is_explained(ensemble):
    opened, _ = open_model(str(ensemble))
    pictures = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8)
    found = explain(
        opened, pictures, ["x"], Settings(search=Search(steps=1), gradient_steps=2, score_steps=2, random=1)
    )
    assert found.target.startswith("members.0.") and found.sanity is not None
    assert all(np.isfinite(each.camera).all() for each in found.pictures[0].classes)


@pytest.mark.slow
def test_it_is_compared_and_tested_under_changes(ensemble, tmp_path):
    options = comparison.Options(data="digits", limit=30, output=tmp_path / "c", repeats=1, batch=2, train=False)
    result = comparison.compare([str(ensemble), str(ensemble.parent / "resnet_test")], options)
    accuracy = {r.model: r.value for r in result.records if r.metric == "accuracy"}
    assert set(accuracy) == {str(ensemble), str(ensemble.parent / "resnet_test")}
    assert "ensemble of 2" in (tmp_path / "c" / "report.html").read_text()
    robust = robustness([str(ensemble)], Options(data="digits", per_class=1, resamples=100, output=tmp_path / "r"))
    assert len({r.class_ for r in read_records(robust.folder / "records.jsonl") if r.metric == "accuracy"}) > 20
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "x.png")
    assert call("classify", ensemble, tmp_path / "x.png") == 0


@pytest.mark.slow
def test_an_ensemble_of_seeds_is_calibrated_on_their_validation_part(tmp_path, capsys):
    small = ["data.limit=60", "training.epochs=1", "evaluation.samples=2", "seeds=[0,1]", "name=seeds"]
    small += ["evaluation.throughput_batch=2", "evaluation.throughput_repeats=2", "models=[{name='resnet_test'}]"]
    recipe = load_recipe("classification/digits_resnet18_vs_hybrid", small, smoke=True)
    run = run_recipe(recipe, output=tmp_path)
    members = [run / "models" / f"resnet_test_seed{seed}" for seed in (0, 1)]
    assert call("ensemble", tmp_path / "both", *members) == 0
    assert "images of the validation part" in capsys.readouterr().out
    stored = json.loads((tmp_path / "both" / "preprocess.json").read_text())["calibration"]
    counts = json.loads((run / "run.json").read_text())["data"]["counts"]
    assert stored["n"] == counts["val"] and stored["temperature"] > 0
    with pytest.raises(UserError, match="no validation part in common"):
        calibrate(
            save_ensemble(tmp_path / "again", [tmp_path / "both", shutil.copytree(members[0], tmp_path / "other")])
        )
