"""Whole runs: from a packaged recipe to a report, killed and continued."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import DataError, ModelError, RecipeError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.recipe import list_recipes, load_recipe
from ssmlab.tasks.table import load_data

DIGITS = "classification/digits_resnet18_vs_hybrid"
LABELS = ("resnet_test", "resnet_mamba_test")
SMALL = ["data.limit=64", "training.epochs=2", "evaluation.samples=3", "evaluation.throughput_batch=4", "name=small"]


class Log(Progress):
    """Remembers what was said and started."""

    def __init__(self):
        self.lines, self.titles = [], []

    def say(self, text):
        self.lines.append(text)

    def start(self, title, total, done=0, unit="images", per_step=1):
        self.titles.append(title)


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes longer than training here; the report has tests of its own."""

    def write_report(folder, _):
        page = folder / "report.html"
        page.write_text("")
        return page

    monkeypatch.setattr("ssmlab.reports.html.write_report", write_report)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    log = Log()
    folder = run_recipe(
        load_recipe(DIGITS, smoke=True), output=tmp_path_factory.mktemp("runs"), command="ssmlab run", progress=log
    )
    return folder, log


def records_of(folder, model=None, **fields):
    records = read_records(folder / "records.jsonl")
    wanted = {**({"model": model} if model else {}), **fields}
    return [r for r in records if all(getattr(r, key) == value for key, value in wanted.items())]


def one(folder, model, metric, split=None, class_=None):
    found = records_of(folder, model, metric=metric, split=split, class_=class_, step=None)
    assert len(found) == 1, (model, metric, split, class_, found)
    return found[0]


def test_the_smoke_run_writes_everything(smoke):
    folder, log = smoke
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    per_model = ("config.json", "model.safetensors", "preprocess.json", "predictions.csv", "records.jsonl")
    expected = {f"models/{label}/{name}" for label in LABELS for name in per_model}
    expected |= {"recipe.toml", "run.json", "records.jsonl", "report.html", "samples/samples.json"}
    assert expected <= names
    assert not [name for name in names if "partial" in name or "checkpoint" in name]
    assert any(name.startswith("logs/resnet_test/") for name in names)
    assert load_recipe(folder) == load_recipe(DIGITS, smoke=True)
    assert any("about" in line for line in log.lines), "an estimate is given before the start"
    assert log.titles.count("resnet_test: test") == 1, "the test part is predicted once"


def test_every_number_is_a_record(smoke):
    folder, _ = smoke
    for label in LABELS:
        accuracy = one(folder, label, "accuracy", "test")
        assert accuracy.n == 240 and accuracy.spread[0] <= accuracy.value <= accuracy.spread[1]
        assert (accuracy.run, accuracy.task, accuracy.seed) == (folder.name, "classify", 0)
        assert accuracy.command == "ssmlab run" and "torch" in accuracy.versions and accuracy.machine and accuracy.time
        for metric in ("loss", "balanced_accuracy", "roc_auc"):
            assert np.isfinite(one(folder, label, metric, "test").value)
        assert one(folder, label, "f1", "test", "macro").unit == "fraction"
        assert sum(r.value for r in records_of(folder, label, metric="confusion", split="test")) == 240
        costs = ("train_seconds", "test_seconds", "parameters", "macs", "flops", "images_per_second", "cold_seconds")
        for metric in costs:
            assert one(folder, label, metric).value > 0, metric
        assert one(folder, label, "peak_memory", class_="process").value > 0, "there is no GPU"
        steps = {r.step for r in records_of(folder, label, metric="loss", split="train")}
        assert steps and max(steps) <= 2 * (240 // 32)
        assert len([r for r in records_of(folder, label, metric="accuracy", split="val") if r.step]) == 2
    assert one(folder, "resnet_mamba_test", "scan_macs").value > 0 == one(folder, "resnet_test", "scan_macs").value
    assert one(folder, "resnet_mamba_test", "tokens").value >= 16
    difference = one(folder, "resnet_mamba_test - resnet_test", "accuracy_difference", "test")
    a, b = (one(folder, label, "accuracy", "test").value for label in LABELS[::-1])
    assert difference.value == pytest.approx(a - b) and difference.spread[0] <= difference.value <= difference.spread[1]


def test_predictions_and_run_json_agree_with_the_records(smoke):
    folder, _ = smoke
    run = json.loads((folder / "run.json").read_text())
    assert run["data"]["counts"] == {"train": 240, "val": 179, "test": 240} and len(run["data"]["split_hash"]) == 64
    assert run["finished"] >= run["started"] and run["seeds"] == [0]
    assert [model["label"] for model in run["models"]] == list(LABELS)
    assert run["models"][0]["tokens"] is None and run["models"][1]["tokens"] >= 16
    ids = []
    for label in LABELS:
        with open(folder / "models" / label / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert sum(int(row["correct"]) for row in rows) / 240 == one(folder, label, "accuracy", "test").value
        assert sum(float(rows[0][f"p:{digit}"]) for digit in range(10)) == pytest.approx(1, abs=1e-4)
        ids.append([row["id"] for row in rows])
    assert ids[0] == ids[1], "both models saw the same split"


def test_saved_models_predict_as_in_the_run(smoke):
    from ssmlab.tasks.classify.predict import Classifier

    folder, _ = smoke
    samples = json.loads((folder / "samples" / "samples.json").read_text())
    assert len(samples) == 12
    _, preprocess = load_model(folder / "models" / "resnet_test")
    assert preprocess["image_size"] == 32 and preprocess["classes"] == [str(digit) for digit in range(10)]
    classifier = Classifier(folder / "models" / "resnet_test", "cpu")
    found, problems = next(classifier.classify([folder / "samples" / row["file"] for row in samples], 12))
    assert not problems
    for row, prediction in zip(samples, found, strict=True):
        name, probability = prediction.ranking(classifier.classes)[0]
        said, stated = row["predictions"]["resnet_test"]
        assert name == said and probability == pytest.approx(stated, abs=1e-3)


def test_a_run_is_not_lost(smoke, tmp_path):
    folder = tmp_path / smoke[0].name
    shutil.copytree(smoke[0], folder)
    recipe = load_recipe(DIGITS, smoke=True)
    with pytest.raises(UserError, match=r"already holds a run \(finished .*\); --overwrite starts it again"):
        run_recipe(recipe, output=tmp_path)
    before = (folder / "records.jsonl").read_bytes()
    log = Log()
    assert run_recipe(recipe, output=tmp_path, resume=True, progress=log) == folder
    assert log.lines == [f"{folder} is finished already"] and (folder / "records.jsonl").read_bytes() == before
    changed = load_recipe(DIGITS, ["training.epochs=3"], smoke=True)
    with pytest.raises(UserError, match=r"was started with training.epochs=2 \(now 3\)"):
        run_recipe(changed, output=tmp_path, resume=True)
    (folder / "recipe.toml").unlink()
    with pytest.raises(UserError, match="holds files that are not a run's"):
        run_recipe(recipe, output=tmp_path, overwrite=True)


KILLED = """
import os, signal, sys, torch
from ssmlab.tasks.recipe import load_recipe
from ssmlab.core.progress import Progress
from ssmlab.experiments.run import run_recipe

class Kill(Progress):
    def start(self, title, *_, **__):
        self.title = title
    def update(self, done, note=""):
        if self.title == "resnet_mamba_test" and done == 7:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(int(sys.argv[1]))
run_recipe(load_recipe(sys.argv[3], sys.argv[4:], smoke=True), output=sys.argv[2], progress=Kill())
"""


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_is_bit_equal(tmp_path, no_report):
    changes = [*SMALL, "training.batch_size=16", "training.checkpoint_steps=3"]  # epochs of 4 steps
    arguments = [str(torch.get_num_threads()), str(tmp_path / "killed"), DIGITS, *changes]
    done = subprocess.run([sys.executable, "-W", "error", "-c", KILLED, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "killed" / "small"
    checkpoints = folder / "models" / "resnet_mamba_test" / "checkpoints"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-6"]
    first = folder / "models" / "resnet_test" / "model.safetensors"
    written = first.stat().st_mtime_ns
    recipe = load_recipe(DIGITS, changes, smoke=True)
    run_recipe(recipe, output=tmp_path / "killed", resume=True)
    assert first.stat().st_mtime_ns == written, "a finished model is not trained again"
    whole = run_recipe(recipe, output=tmp_path / "whole")
    for label in LABELS:
        a, b = (load_file(run / "models" / label / "model.safetensors") for run in (folder, whole))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        assert one(folder, label, "accuracy", "test").value == one(whole, label, "accuracy", "test").value
    assert not checkpoints.exists() and (folder / "report.html").is_file()


def test_interrupted_between_models_and_data_changed(tmp_path, no_report):
    class Stop(Log):
        def start(self, title, *args, **kwargs):
            if title == "resnet_mamba_test":
                raise KeyboardInterrupt

    data = tmp_path / "data"
    for part, label, i in [(p, c, i) for p in ("train", "test") for c in ("cat", "dog") for i in range(12)]:
        (data / part / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([i, label == "dog", part == "test"]).integers(
            0, 256, (20, 24, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(data / part / label / f"{i}.png")
    changes = [*SMALL, f"data.path={data}", "training.class_weights=balanced", "training.batch_size=64"]
    recipe = load_recipe(DIGITS, changes, smoke=True)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, output=tmp_path, progress=Stop())
    half = json.loads((tmp_path / "small" / "run.json").read_text())
    assert half["finished"] is None and {r.model for r in records_of(tmp_path / "small")} == {"resnet_test"}
    (data / "train" / "cat" / "0.png").rename(data / "train" / "cat" / "other.png")
    with pytest.raises(UserError, match="the images or their parts are not those that the run was started with"):
        run_recipe(recipe, output=tmp_path, resume=True)
    (data / "train" / "cat" / "other.png").rename(data / "train" / "cat" / "0.png")
    folder = run_recipe(recipe, output=tmp_path, resume=True)
    assert one(folder, "resnet_mamba_test", "sensitivity", "test", "dog").n == 12
    assert one(folder, "resnet_test", "specificity", "test", "dog").n == 12


@pytest.mark.slow
def test_several_seeds(tmp_path, no_report):
    changes = [*SMALL, "seeds=[1, 2]", "models.1.label=hybrid", "training.epochs=1"]
    folder = run_recipe(load_recipe(DIGITS, changes, smoke=True), output=tmp_path)
    assert sorted(path.name for path in (folder / "models").iterdir()) == [
        "hybrid_seed1", "hybrid_seed2", "resnet_test_seed1", "resnet_test_seed2",
    ]  # fmt: skip
    found = records_of(folder, "hybrid", metric="accuracy", split="test")
    assert [r.seed for r in found] == [1, 2]
    weights = [load_file(folder / "models" / f"hybrid_seed{seed}" / "model.safetensors") for seed in (1, 2)]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    difference = one(folder, "hybrid - resnet_test", "accuracy_difference", "test")
    assert difference.seed is None and difference.n == 64


def test_a_wrong_option_is_told_before_training(tmp_path):
    log = Log()
    with pytest.raises(ModelError, match="has no option 'dept'; did you mean depth"):
        run_recipe(load_recipe(DIGITS, [*SMALL, "models.1.options.dept=2"], smoke=True), output=tmp_path, progress=log)
    assert "resnet_test" not in log.titles and not (tmp_path / "small").exists()


def test_wrong_data_cost_no_earlier_run(smoke, tmp_path):
    recipe = load_recipe(DIGITS, [f"data.path={tmp_path / 'nothing'}", f"name={smoke[0].name}"], smoke=True)
    before = (smoke[0] / "run.json").read_bytes()
    with pytest.raises(DataError, match="no such file or folder"):
        run_recipe(recipe, output=smoke[0].parent, overwrite=True)
    assert (smoke[0] / "run.json").read_bytes() == before
    with pytest.raises(DataError):
        run_recipe(recipe, output=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_device_that_is_not_here_is_told_before_data_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = load_recipe(DIGITS, ["device=cuda", f"data.path={tmp_path / 'nothing'}"], smoke=True)
    with pytest.raises(UserError, match="device 'cuda' is not available here"):
        run_recipe(recipe, output=tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_is_slower_is_said_once(monkeypatch, tmp_path, no_report):
    from ssmlab.ops import _native

    monkeypatch.setattr(_native, "MISSING", "the native library was not built")
    monkeypatch.setenv("SSMLAB_BACKEND", "chunked")
    log = Log()
    run_recipe(load_recipe(DIGITS, [*SMALL, "training.epochs=1"], smoke=True), output=tmp_path, progress=log)
    assert [line for line in log.lines if "not built" in line and "slower" in line and "doctor" in line] == log.lines[
        :1
    ]


def test_processes_without_a_launcher_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is 2 but RANK, .* start the processes with `torchrun"):
        run_recipe(load_recipe(DIGITS, smoke=True), output=tmp_path)


def test_weights_of_another_run(smoke, tmp_path, no_report):
    trained = smoke[0] / "models" / "resnet_test"
    changes = [*SMALL, f"models.0.weights={trained}", "training.learning_rate=1e-12", "training.epochs=1"]
    folder = run_recipe(load_recipe(DIGITS, changes, smoke=True), output=tmp_path)
    a, b = (load_file(path / "model.safetensors") for path in (trained, folder / "models" / "resnet_test"))
    key = next(key for key, value in a.items() if value.ndim == 4)
    assert torch.allclose(a[key], b[key], atol=1e-6)
    before, after = (
        json.loads((path / "preprocess.json").read_text()) for path in (trained, folder / "models" / "resnet_test")
    )
    other = json.loads((folder / "models" / "resnet_mamba_test" / "preprocess.json").read_text())
    assert after["mean"] == before["mean"] != other["mean"], (
        "weights are used with the statistics they were trained with"
    )
    with pytest.raises(RecipeError, match="weights nowhere.pth: no such file or folder"):
        load_recipe(DIGITS, ["models.0.weights=nowhere.pth"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in list_recipes()])
def test_smoke_of_every_recipe(name, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ssmlab", "run", name, "--smoke", "--output", str(tmp_path)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout and list(tmp_path.glob("*/report.html"))


@pytest.mark.parametrize(
    ("recipe", "data", "meant"),
    [
        ("classification/own_folder", "masks", "segmentation/own_folder"),
        ("classification/own_folder", "texts", "language/classify_text"),
        ("segmentation/own_folder", "pictures", "classification/own_folder"),
        ("language/classify_text", "pictures", "classification/own_folder"),
        ("language/text", "masks", "segmentation/own_folder"),
        ("classification/own_folder", "damaged", None),
    ],
)
def test_data_of_another_kind_name_the_recipe_for_them(recipe, data, meant, tmp_path):
    files = {
        "masks": ("images/a.png", "images/b.png", "masks/a.png", "masks/b.png"),
        "texts": ("pos/a.txt", "neg/b.txt"),
        "pictures": ("cat/a.png", "dog/b.png"),
        "damaged": ("train/cat/a.png", "train/dog/b.png"),
    }
    for name in files[data]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".txt"):
            (tmp_path / name).write_text("a text")
        else:
            Image.new("RGB", (8, 8)).save(tmp_path / name)
    if data == "damaged":
        (tmp_path / "train" / "cat" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as found:
        load_data(load_recipe(recipe, [f"data.path={tmp_path}"], smoke=True))
    first = str(found.value).split("\n")[0]
    assert first.endswith(f"; ssmlab run {meant} data.path={tmp_path}") if meant else "ssmlab run" not in first
