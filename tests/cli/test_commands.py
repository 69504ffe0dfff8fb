"""The command line: speed, exit codes, and one line for a mistake."""

import csv
import importlib
import json
import os
import re
import subprocess
import sys
import time

import pytest
from PIL import Image

from ssmlab.cli.main import main
from ssmlab.cli.tested import NEWEST

DIGITS = "classification/digits_resnet18_vs_hybrid"
COMMANDS = ("demo", "run", "sweep", "classify", "data", "report", "models", "recipes", "doctor", "bench", "exec")


def ssmlab(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ssmlab", *arguments],
        capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def call(*arguments):
    """In this process; returns the exit code."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one small model, made by the command."""
    output = tmp_path_factory.mktemp("runs")
    changes = ["data.limit=64", "training.epochs=1", "name=tiny", "models.1.label=hybrid", "evaluation.samples=4"]
    assert call("run", DIGITS, *changes, "--smoke", "--output", str(output)) == 0
    return output / "tiny"


def test_help_is_fast_and_names_every_command():
    """In CPU time, which tests beside this one leave alone; the clock's on Windows, where children's is not counted."""
    used = time.perf_counter if os.name == "nt" else lambda: sum(os.times()[2:4])
    spent = []
    for _ in range(3):
        begin = used()
        done = ssmlab("--help")
        spent.append(used() - begin)
    assert done.returncode == 0 and all(re.search(rf"\b{name}\b", done.stdout) for name in COMMANDS)
    assert min(spent) < 0.5, spent


def test_help_and_mistakes_import_nothing_heavy():
    code = (
        "import sys; from ssmlab.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print('exit', end.code)\n"
        "print('heavy', sorted({'torch', 'transformers', 'timm', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    for arguments, exit_code in [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["recipes"], None),
        (["models"], None),
        (["run", DIGITS, "training.epoch=3"], 2),
        (["run", DIGITS, "data.path=/nowhere/at/all", "--output", os.devnull + "x"], 2),
        (["classify", "/nowhere", "/no/picture.png"], 2),
    ]:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "heavy []", (arguments, done.stdout[-500:], done.stderr[-500:])
        if exit_code is not None:
            assert f"exit {exit_code}" in done.stdout, (arguments, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", DIGITS, "training.lerning_rate=1"], "did you mean training.learning_rate?"),
        (["run", "classification/digit"], "no recipe 'classification/digit'"),
        (["run", "classification/mhist_resnet18_vs_hybrid"], "data.path is missing"),
        (["run", DIGITS, "--resume", "--overwrite"], "give one of them"),
        (["sweep", DIGITS, "training.epochs=3"], "nothing varies"),
        (["models", "resnet81"], "unknown model 'resnet81'; did you mean resnet18"),
        (["classify", "nowhere", "x.png"], "no trained model in nowhere"),
        (["data", "check", "--foo"], "No such option: --foo; see `ssmlab data check --help`"),
        (["train", DIGITS], "No such command 'train'; did you mean run?"),
        (["run", DIGITS, "--data", "nowhere"], "nowhere: no such file or folder"),
        (["data", "check", "nowhere", "--task", "sort"], "--task sort: no such task; there are classify, segment"),
        (["bogus"], "No such command 'bogus'; there are demo, run, "),
        (["compare"], "Missing argument 'MODEL...'; see `ssmlab compare --help`"),
        (["generate", "x", "--prompt", "a", "--max-tokens", "-1"], "Invalid value for '--max-tokens'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("ssmlab: ") and captured.err.count("\n") == 1
    assert captured.out == ""


def test_nothing_asked_for_is_answered_by_the_help(capsys):
    assert call("data") == 2
    assert "check" in capsys.readouterr().out


def test_a_demo_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("ssmlab.cli.run.execute", lambda recipe, how: asked.append((how.resume, how.overwrite)))
    folder = tmp_path / "demo-smoke"
    folder.mkdir()
    for started, finished, more in (
        (False, None, []),
        (True, None, []),
        (True, None, ["--overwrite"]),
        (True, "x", []),
    ):
        if started:
            (folder / "recipe.toml").write_text("")
        (folder / "run.json").write_text(json.dumps({"finished": finished}))
        assert call("demo", "--smoke", "--output", str(tmp_path), *more) == 0
    assert asked == [(False, True), (True, False), (False, True), (False, True)]


def test_debug_shows_where(monkeypatch):
    from ssmlab.core.errors import RecipeError

    monkeypatch.setenv("SSMLAB_DEBUG", "1")
    with pytest.raises(RecipeError):
        main(["run", "nothing"])


def test_waiting_threads_leave_the_core():
    code = (
        "import os; from ssmlab.cli.main import main\n"
        "try: main(['recipes'])\nfinally: print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    for policy, count in ((None, "10000"), ("ACTIVE", "None")):
        environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
        environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.splitlines()[-1] == count


def test_version_and_lists(capsys):
    assert call("--version") == 0 and capsys.readouterr().out.startswith("ssmlab 0.")
    assert call("recipes") == 0 and DIGITS in capsys.readouterr().out
    assert call("models") == 0 and "resnet18_mamba" in capsys.readouterr().out


def test_models_shows_modules_and_parameters(capsys):
    from ssmlab.models import create_model

    assert call("models", "resnet_mamba_test", "--image-size", "32", "--depth", "1") == 0
    shown = " ".join(capsys.readouterr().out.split())
    total = sum(p.numel() for p in create_model("resnet_mamba_test", num_classes=1000, image_size=32).parameters())
    assert f"{total:,} parameters with 1,000 classes, 16 tokens" in shown
    assert "backbone" in shown and "head" in shown and "layer1" not in shown


def test_run_prints_the_comparison_and_the_report(trained, capsys):
    assert call("run", str(trained), "--resume") == 0  # finished: only shown again
    shown = capsys.readouterr().out
    assert "is finished already" in shown and "Accuracy" in shown and f"report: {trained / 'report.html'}" in shown
    assert call("run", str(trained)) == 2
    assert "add --resume to continue it" in capsys.readouterr().err
    assert call("run", DIGITS, "name=tiny", "--smoke", "--output", str(trained.parent)) == 2
    assert "tiny holds a run of another recipe" in capsys.readouterr().err


def test_classify(trained, tmp_path, capsys):
    pictures = sorted((trained / "samples").glob("*.png"))
    model = trained / "models" / "hybrid"
    assert call("classify", str(model), str(pictures[0]), "--top-k", "3") == 0
    line = capsys.readouterr().out.strip()
    said = [part.rsplit(" ", 1) for part in line.split(": ", 1)[1].split(", ")]
    probabilities = [float(p.rstrip("%")) for _, p in said]
    assert len(said) == 3 and probabilities == sorted(probabilities, reverse=True)
    table = tmp_path / "out.csv"
    assert call("classify", str(trained), str(trained / "samples"), "--csv", str(table)) == 0
    captured = capsys.readouterr()
    assert "highest validation accuracy of 2 models" in captured.err and captured.out == ""
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(path) for path in pictures]
    for row in rows:
        best = max(range(10), key=lambda digit: float(row[f"p:{digit}"]))
        assert row["predicted"] == str(best) and float(row["probability"]) == float(row[f"p:{best}"])


def test_classify_reports_every_unreadable_picture_after_the_others(trained, tmp_path, capsys):
    Image.new("L", (9, 7)).save(tmp_path / "good.png")
    for name in ("bad1.png", "bad2.png"):
        (tmp_path / name).write_bytes(b"nothing")
    assert call("classify", str(trained), str(tmp_path), str(tmp_path / "gone.png")) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path / 'good.png'}: ")
    assert "3 of 4 pictures cannot be read" in captured.err
    for name in ("bad1.png", "bad2.png", "gone.png"):
        assert str(tmp_path / name) in captured.err


def test_doctor_passes_here_and_fails_on_a_wrong_kernel(capsys, monkeypatch):
    assert call("doctor") == 0
    shown = capsys.readouterr().out
    assert "selective_scan" in shown and "causal_conv1d" in shown and "PASS" in shown and "FAIL" not in shown
    assert "torch" in shown and "threads" in shown and "OpenMP" in shown
    assert "the lowest and newest version that the tests pass with" in shown and f"to {NEWEST['captum']}" in shown
    module = importlib.import_module("ssmlab.ops.causal_conv1d")  # the package; `ops.causal_conv1d` is its function
    right = module.causal_conv1d

    def wrong(x, *args, backend=None, **kwargs):
        y, state = right(x, *args, backend=backend, **kwargs)
        return (y if x.dtype.itemsize == 8 else y * 1.001), state

    monkeypatch.setattr(module, "causal_conv1d", wrong)
    assert call("doctor") == 1 and "FAIL" in capsys.readouterr().out


def test_interrupting_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssmlab.experiments.run.run_recipe", interrupted)
    assert call("run", DIGITS, "name=x", "--output", str(tmp_path)) == 130
    assert f"ssmlab run {tmp_path / 'x'} --resume" in capsys.readouterr().out


@pytest.mark.slow
def test_demo_smoke_twice_and_data_check(tmp_path):
    for _ in range(2):
        done = ssmlab("demo", "--smoke", "--output", str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert f"report: {tmp_path / 'demo-smoke' / 'report.html'}" in done.stdout
    assert json.loads((tmp_path / "demo-smoke" / "run.json").read_text())["finished"]
    assert ssmlab("data", "check", "digits").returncode == 0
    assert ssmlab("data", "check", str(tmp_path / "nothing")).returncode == 2
