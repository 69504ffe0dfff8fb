"""Files of a run that were cut, zeroed, changed or deleted: every reader says so, in one line or in a banner."""

import json
import shutil
from contextlib import suppress

import pytest
from calling import call
from PIL import Image
from safetensors.torch import load_file, save_file

from ssmlab.core.errors import UserError
from ssmlab.experiments.folder import MARKER_FILE, PAGE_DUE
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.recipe import load_recipe

DIGITS = "classification/digits_resnet18_vs_hybrid"
SMALL = ["data.limit=64", "training.epochs=1", "evaluation.samples=3", "evaluation.throughput_batch=4", "name=small",
         "evaluation.throughput_repeats=1"]  # fmt: skip
MODEL = "models/resnet_test"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssmlab.reports.html.write_report", lambda folder, *_: folder / "report.html")
        return run_recipe(load_recipe(DIGITS, SMALL, smoke=True), output=folder)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "small")


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "p.png")
    return tmp_path / "p.png"


def damage(file, how):
    content = file.read_bytes()
    middle = len(content) // 2
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: content.rindex(b"\n", 0, middle) + 1 if b"\n" in content[:middle] else middle])
    elif how == "zeroed":
        file.write_bytes(content[:middle] + bytes(min(512, len(content) - middle)) + content[middle + 512 :])
    else:
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


HOW = ("missing", "cut", "zeroed", "flipped")


def test_a_run_that_is_whole(run, capsys):
    assert call("run", "--check", run) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{run}: ") and shown.strip().endswith("files as written")
    assert call("run", run, "--resume") == 0 and "is finished already" in capsys.readouterr().out
    assert call("report", run) == 0
    assert 'class="banner"' not in (run / "report.html").read_text()
    assert call("run", "--check", run) == 0, "the page is no part of it"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "name",
    ["recipe.toml", "run.json", "records.jsonl", "samples/samples.json", "samples/0.png", f"{MODEL}/records.jsonl",
     f"{MODEL}/predictions.csv", f"{MODEL}/config.json", f"{MODEL}/preprocess.json", f"{MODEL}/model.safetensors"],
)  # fmt: skip
def test_check_and_resume_name_the_file(run, name, how, capsys):
    damage(run / name, how)
    assert call("run", "--check", run) == 2
    assert str(run / name) in capsys.readouterr().err
    if name == f"{MODEL}/records.jsonl" and how == "missing":
        return  # that model is trained again
    again = load_recipe(DIGITS, SMALL, smoke=True)
    with pytest.raises(Exception, match=name.rpartition("/")[2]) as found:
        run_recipe(again, output=run.parent, resume=True)
    assert "\n" not in str(found.value) and type(found.value).__name__ in ("UserError", "RecipeError")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "name", ["recipe.toml", "run.json", "records.jsonl", "samples/0.png", f"{MODEL}/predictions.csv"]
)
def test_the_page_says_what_is_missing(run, name, how, capsys):
    damage(run / name, how)
    code = call("report", run)
    shown = capsys.readouterr()
    if code:  # run.json that is no JSON
        assert code == 2 and str(run / name) in shown.err and shown.err.count("\n") == 1
        return
    page = (run / "report.html").read_text()
    assert 'class="banner"' in page and name.rpartition("/")[2] in page[page.index('class="banner"') :][:2000]
    assert f"note: {run / name}" in shown.out or "run.json is missing" in shown.out


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["config.json", "preprocess.json", "model.safetensors"])
def test_classify_names_the_file(run, picture, name, how, capsys):
    damage(run / MODEL / name, how)
    assert call("classify", run / MODEL, picture) == 2
    shown = capsys.readouterr()
    assert not shown.out and name in shown.err and shown.err.count("\n") == 1


def test_a_model_that_is_gone_is_trained_again(run, capsys, monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, *_: folder / "report.html")
    before = load_file(run / MODEL / "model.safetensors")
    shutil.rmtree(run / MODEL)
    assert call("report", run) == 2 or "resnet_test" in capsys.readouterr().out
    run_recipe(load_recipe(DIGITS, SMALL, smoke=True), output=run.parent, resume=True)
    after = load_file(run / MODEL / "model.safetensors")
    assert all((before[key] == after[key]).all() for key in before)
    assert call("run", "--check", run) == 0


def test_a_run_that_was_killed_while_its_page_was_written(run, monkeypatch):
    """The same command writes the page, and takes away what was half written."""
    (run / "report.html").unlink(missing_ok=True)
    (run / PAGE_DUE).touch()
    (run / "plots").mkdir(exist_ok=True)
    (run / "plots" / ".curves.svg.1.partial").write_text("<svg")
    recipe = load_recipe(DIGITS, SMALL, smoke=True)
    run_recipe(recipe, output=run.parent)
    assert (run / "report.html").is_file() and not [path for path in run.rglob(".*") if path.name != MARKER_FILE]
    with pytest.raises(UserError, match="already holds a run"):
        run_recipe(recipe, output=run.parent)


def without_checksums(run):
    """As versions before wrote it."""
    for file in run.rglob("checksums.json"):
        file.unlink()


def test_runs_of_before_are_read_and_their_structure_is_checked(run, picture, capsys):
    without_checksums(run)
    assert call("run", "--check", run) == 0
    assert "0 files as written, 9 others without a checksum can be read" in capsys.readouterr().out
    assert call("classify", run / MODEL, picture) == 0 and call("report", run) == 0
    assert 'class="banner"' not in (run / "report.html").read_text()
    count = json.loads((run / "run.json").read_text())["data"]["counts"]["test"]
    for name, how in (("records.jsonl", 10), (f"{MODEL}/predictions.csv", 3)):
        lines = (run / name).read_bytes().splitlines(keepends=True)
        (run / name).write_bytes(b"".join(lines[:-how]) + lines[-how][:20])
    assert call("report", run) == 0
    page = (run / "report.html").read_text()
    assert "records.jsonl ends in half a record" in page and f"1 of {count - 2} rows are cut" in page
    lines = (run / MODEL / "predictions.csv").read_bytes().splitlines(keepends=True)
    (run / MODEL / "predictions.csv").write_bytes(b"".join(lines[:30]))
    assert call("report", run) == 0
    assert f"has 29 rows of {count} and was left out" in (run / "report.html").read_text()


def test_weights_that_are_not_numbers(run, picture, capsys):
    without_checksums(run)
    weights = load_file(run / MODEL / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, run / MODEL / "model.safetensors")
    assert call("classify", run / MODEL, picture) == 2
    shown = capsys.readouterr()
    assert not shown.out and "the model's answer is not a number" in shown.err and shown.err.count("\n") == 1


def test_what_is_no_runs_folder(tmp_path, capsys):
    assert call("run", "--check", tmp_path) == 2
    assert "is not the folder of a run; give runs/<name>" in capsys.readouterr().err


def test_a_failing_overwrite_gives_the_run_back(run, capsys):
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    changed = load_recipe(DIGITS, [*SMALL, "training.learning_rate=1e30", "training.warmup=0"], smoke=True)
    with suppress(Exception):
        run_recipe(changed, output=run.parent, overwrite=True)
        pytest.fail("such a rate trains nothing")
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert json.loads((run / "run.json").read_text())["finished"]
