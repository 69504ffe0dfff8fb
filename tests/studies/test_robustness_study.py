"""`ssmlab robustness`: files, groups of seeds, going on after a kill, mistakes; and the recipes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmlab.checkpoints.folder import save_model
from ssmlab.cli.main import main
from ssmlab.core.errors import UserError
from ssmlab.core.files import write_json, write_records
from ssmlab.core.record import Record, read_records
from ssmlab.data import open_images
from ssmlab.experiments.run import run_recipe
from ssmlab.models import create_model
from ssmlab.robustness import measure
from ssmlab.robustness.transformations import TRANSFORMATIONS
from ssmlab.studies.robustness.evaluation import Options, robustness
from ssmlab.tasks.recipe import load_recipe


def make(folder, name, label, seed):
    """A saved model with random weights, as a run leaves it."""
    torch.manual_seed(seed)
    network = create_model(name, num_classes=10, image_size=16)
    how = {"image_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": list(reversed(CLASSES)), "channels": 3}
    save_model(network, folder, how)
    write_records(folder / "records.jsonl", [Record(model=label, seed=seed, metric="accuracy", value=0.1)])


CLASSES = open_images("digits").classes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder: two models, one of them with three seeds."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    for seed in range(3):
        make(folder / "models" / f"resnet_seed{seed}", "resnet_test", "resnet", seed)
    make(folder / "models" / "vim", "vim_test", "vim", 0)
    write_json(folder / "run.json", {"models": [{"label": "resnet", "title": "Our ResNet"}]})
    return folder


SMALL = {"data": "digits", "per_class": 3, "device": "cpu", "resamples": 100}


@pytest.fixture(scope="module")
def result(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("robustness") / "r"
    options = Options(**SMALL, attacks=("fgsm",), epsilon=0.02)
    return robustness([str(run)], replace(options, output=output))


def test_records_of_every_seed_and_transformation(result):
    records = read_records(result.folder / "records.jsonl")
    by = {(r.model, r.seed, r.metric, r.class_): r for r in records}
    assert len(by) == len(records) and {r.split for r in records} == {"test"}
    for model, seed in (("resnet", 0), ("resnet", 1), ("resnet", 2), ("vim", 0)):
        for name in ("original", *TRANSFORMATIONS, "fgsm"):
            record = by[model, seed, "accuracy", name]
            assert record.n == 30 and record.spread[0] <= record.value <= record.spread[1]
        error = 1 - np.mean([by[model, seed, "accuracy", name].value for name in TRANSFORMATIONS])
        assert by[model, seed, "mean_corruption_error", None].value == pytest.approx(error)
        assert by[model, seed, "agreement", "crop"].value <= 1
    assert result.titles["resnet"] == "Our ResNet"


def test_files(result):
    page = (result.folder / "report.html").read_text("utf-8")
    for text in ("Our ResNet", "Best and worst", "Snowy landscape", "FGSM, 5.1/255", "seeds 0, 1, 2", "Cost most"):
        assert text in page, text
    assert page.count("<img") == 21 and "http://" not in page.replace("http://www.w3.org", "")
    assert (result.folder / "plots" / "transformations.svg").is_file()
    assert (result.folder / "grid.png").read_bytes().startswith(b"\x89PNG")
    table = (result.folder / "table.md").read_text("utf-8")
    assert "| Mean corruption error |" in table and "| Perspective |" in table
    about = json.loads((result.folder / "robustness.json").read_text("utf-8"))
    assert about["finished"] and about["images"] == 30 and len(about["models"]) == 4


@pytest.mark.slow
def test_a_killed_run_goes_on(run, tmp_path, monkeypatch):
    model, output, done = str(run / "models" / "vim"), tmp_path / "r", []
    real = measure.measure

    def dies(network, task, condition, *arguments, **options):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(condition.name)
        return real(network, task, condition, *arguments, **options)

    monkeypatch.setattr(measure, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        robustness([model], Options(**SMALL, output=output))
    assert len(done) == 5 and not (output / "report.html").exists()
    monkeypatch.setattr(measure, "measure", lambda *a, **o: (done.append(a[2].name), real(*a, **o))[1])
    whole = robustness([model], Options(**SMALL, output=output))
    assert len(done) == 21 == len(set(done)), "nothing is measured twice"
    straight = robustness([model], Options(**SMALL, batch=7, output=tmp_path / "straight"))
    assert [r.value for r in whole.records] == [r.value for r in straight.records]
    with pytest.raises(UserError, match="holds a test of robustness already"):
        robustness([model], Options(**SMALL | {"seed": 1}, output=output))
    robustness([model], Options(**SMALL | {"seed": 1}, output=output, overwrite=True))
    assert len(done) == 63, "another seed is another test"


def test_scores_follow_the_classes_by_name(run, tmp_path):
    """The model's classes are in another order than the data's; a perfect oracle shows that labels are matched."""
    model = run / "models" / "vim"
    result = robustness([str(model)], Options(**SMALL, output=tmp_path / "r"))
    from ssmlab.tasks.classify.predict import Classifier

    classifier, sample = Classifier(model, "cpu"), result.sample
    x = torch.from_numpy(sample.read(16, 1.0)).permute(0, 3, 1, 2)
    with torch.no_grad():
        said = classifier.network(classifier.task.prepare(x)).argmax(1)
    truth = [sample.classes[label] for label in sample.labels]
    right = np.mean([classifier.classes[i] == name for i, name in zip(said, truth)])
    value = next(r.value for r in result.records if r.metric == "accuracy" and r.class_ == "original")
    assert value == pytest.approx(right)


@pytest.mark.slow
def test_imagenet_c(run, tmp_path):
    model = str(run / "models" / "resnet_seed0")
    options = Options(**SMALL | {"per_class": 1, "transformations": "imagenet-c"})
    values = {
        (r.metric, r.class_): r.value for r in robustness([model], replace(options, output=tmp_path / "c")).records
    }
    assert 0.5 < values["mce", None] < 2 and ("accuracy", "jpeg_compression") in values
    some = Options(**SMALL | {"per_class": 1, "transformations": "imagenet-c", "severities": (2,)})
    found = robustness([model], replace(some, output=tmp_path / "c", overwrite=True)).records
    assert not any(r.metric == "mce" for r in found), "AlexNet's errors are means over all severities"


def call(*arguments):
    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code or 0
    return 0


def test_the_command(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    arguments = [str(run / "models" / "vim"), "--data", "digits", "--per-class", "2", "--output", str(tmp_path / "r")]
    attack = ["--attack", "pgd", "--epsilon", "2/255", "--steps", "2"]
    assert call("robustness", *arguments, *attack, "--device", "cpu") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Mean corruption error" in shown and "PGD, 2/255, 2 steps" in shown and "report: " in shown
    assert "No verdict" not in shown


def test_models_of_a_trial_have_no_verdict(run, result, tmp_path):
    trial = tmp_path / "trial"
    shutil.copytree(run / "models" / "vim", trial / "models" / "vim")
    write_records(trial / "records.jsonl", [Record(model="vim", metric="accuracy", value=0.1)])
    write_json(trial / "run.json", {"trial": True, "models": [{"label": "vim", "title": "Our Vim"}]})
    options = Options(**SMALL | {"per_class": 1}, output=tmp_path / "r")
    alone = robustness([str(trial / "models" / "vim")], options)
    headline = "No verdict: Our Vim comes from a trial run (--smoke)"
    assert alone.answer[0] == headline and alone.answer[1].startswith("Our Vim: mean corruption error ")
    assert headline in (tmp_path / "r" / "report.html").read_text("utf-8")
    assert headline in (tmp_path / "r" / "table.md").read_text("utf-8")
    doubted = replace(result, doubts=("Our ResNet is overfitted",))
    assert result.by_transformation[0].marked or result.summary.marked
    assert not any(made.marked for made in (doubted.summary, *doubted.by_transformation))
    headline, detail = doubted.answer
    assert headline == "No verdict: Our ResNet is overfitted" and detail.count(" %") == 2 and ", then " in detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vim_test"], "vim_test has random weights; give it some: --weights vim_test=FILE"),
        (["MODEL", "--transformations", "21"], "the sets of transformations are twenty, imagenet-c, got '21'"),
        (["MODEL", "--severity", "6"], "severities are 1 to 5, got 6"),
        (["MODEL", "--part", "rest"], "--part must be"),
        (["MODEL", "--attack", "cw"], "the attacks are fgsm, pgd"),
        (["MODEL", "--epsilon", "four"], "--epsilon must be a fraction such as 4/255"),
        (["MODEL", "--attack", "fgsm", "--epsilon", "4"], "epsilon is a fraction of the range"),
        (["MODEL", "--image-size", "32"], "--image-size is for networks by name"),
        (["resnet81"], "there is no model 'resnet81'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [str(run / "models" / "vim") if a == "MODEL" else a for a in arguments]
    assert call("robustness", *given, "--data", "digits") == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("ssmlab: ") and captured.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_foreign_folder_is_left_alone(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(Exception, match="holds files that are not a test of robustness"):
        robustness([str(run / "models" / "vim")], Options(**SMALL, output=tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["robustness/own_models", "robustness/imagenet_21"])
def test_recipes(name, tmp_path):
    folder = run_recipe(load_recipe(name, ["device=cpu"], smoke=True), output=tmp_path)
    records = read_records(folder / "robustness" / "records.jsonl")
    seeds = {(r.model, r.seed) for r in records}
    assert len(seeds) == 3
    assert (folder / "robustness" / "report.html").is_file() and (folder / "report.html").is_file()
    assert {r.class_ for r in records} >= {"original", *TRANSFORMATIONS}


def test_a_recipe_without_weights_is_refused(tmp_path):
    recipe = load_recipe(
        "robustness/imagenet_21", ["data.path=digits", "models.0.pretrained=false", "models.1.pretrained=false"]
    )
    with pytest.raises(Exception, match=r"VMamba-B has no weights; give models\.0\.weights=FILE"):
        run_recipe(recipe, output=tmp_path)
