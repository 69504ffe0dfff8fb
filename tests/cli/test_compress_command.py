"""`ssmlab compress`: a table by rank, models that open again, and mistakes in one line."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.cli.main import app
from ssmlab.core.errors import UserError
from ssmlab.core.files import write_records
from ssmlab.core.record import Record, read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.models import create_model
from ssmlab.nn import factorized_ranks
from ssmlab.studies.compress import Options, compress
from ssmlab.tasks.recipe import load_recipe

HOW = {"image_size": 16, "mean": [0.5] * 3, "std": [0.3] * 3, "classes": list("0123456789"), "channels": 3}
FAST = {"repeats": 1, "batch": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("vmamba_test", num_classes=10, image_size=16)
    return save_model(model, tmp_path_factory.mktemp("trained") / "vmamba", HOW)


def test_every_setting_is_tested_tuned_and_saved(trained, tmp_path):
    options = Options(
        rank=(2, 1000), targets=("in_proj", "fc1"), residual_rank=1, data="digits",
        limit=40, epochs=1, **FAST,
    )  # fmt: skip
    result = compress(str(trained), replace(options, output=tmp_path / "out"))
    found = {(r.model, r.metric, r.class_): r for r in read_records(tmp_path / "out" / "records.jsonl")}
    for label in ("dense", "rank 2", "rank 1000"):
        for when in ("before", "after"):
            assert found[label, "accuracy", f"{when} fine-tuning"].split == "test"
        for metric in ("parameters", "macs", "flops", "scan_macs", "train_seconds"):
            assert found[label, metric, None].value > 0
        assert found[label, "train_images_per_second", "batch 4"].value > 0
    assert found["rank 2", "macs", None].value < found["dense", "macs", None].value
    same = [found[label, "accuracy", "before fine-tuning"].value for label in ("dense", "rank 1000")]
    assert same[0] == same[1]
    low, how = load_model(tmp_path / "out" / "models" / "rank-2")
    assert how == HOW and set(map(tuple, factorized_ranks(low).values())) == {(2, 1)}
    page = (tmp_path / "out" / "report.html").read_text()
    assert result.answer in page and "Singular spectra" in page and "layers.0.blocks.0.mlp.fc1" in page
    assert json.loads((tmp_path / "out" / "compress.json").read_text())["settings"]["rule"] == "rank"


def test_a_model_of_a_trial_has_no_verdict(trained, tmp_path):
    trial = tmp_path / "trial"
    shutil.copytree(trained, trial / "models" / "vmamba")
    write_records(trial / "records.jsonl", [Record(model="vmamba", metric="accuracy", value=0.1)])
    (trial / "run.json").write_text(json.dumps({"trial": True, "models": [{"label": "vmamba"}]}))
    options = Options(rank=(2,), data="digits", limit=40, epochs=0, train=False, output=tmp_path / "out", **FAST)
    result = compress(str(trial), options)
    assert result.answer.startswith("No verdict: ") and result.answer.endswith(" comes from a trial run (--smoke)")
    assert result.answer in (tmp_path / "out" / "report.html").read_text()
    assert "No verdict" not in replace(result, doubt="").answer


def test_without_data_costs_alone_are_measured(tmp_path):
    options = Options(flops=(0.5,), image_size=16, train=False, **FAST)
    result = compress("vmamba_test", replace(options, output=tmp_path / "out"))
    metrics = {r.metric for r in result.records}
    assert "images_per_second" in metrics and "energy" in metrics and not metrics & {"accuracy", "train_seconds"}
    assert "of the dense model's multiply-accumulates" in result.answer
    assert not (tmp_path / "out" / "models").exists()
    replaced = result.replaced["flops 0.5"]
    assert sum(x.parameters * x.positions for x in replaced) <= 0.5 * sum(x.dense * x.positions for x in replaced)


def test_the_command_prints_the_table(tmp_path):
    words = ["compress", "vmamba_test", "--energy", "0.5,0.9", "--image-size", "16", "--batch", "2", "--repeats", "1"]
    out = CliRunner().invoke(app, [*words, "--no-train", "--output", str(tmp_path / "out")], catch_exceptions=False)
    assert out.exit_code == 0 and "Energy kept" in out.output and "Parameters" in out.output
    assert "not measured" in out.output


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "a.txt"
    file.write_text("the quick brown fox jumps over the lazy dog; " * 60)
    return file


@pytest.mark.parametrize("layout", ["ssmlab", "huggingface"])
def test_language_models_are_compressed_too(layout, text, tmp_path):
    torch.manual_seed(0)
    model = create_model("mamba_lm_test", vocab_size=257)
    folder = save_language_model(model, tmp_path / "model", layout=layout)
    options = Options(
        rank=(2, 1000), targets=("in_proj", "out_proj"), data=str(text), length=32, limit=24, epochs=1,
        tokenizer="bytes", **FAST,
    )  # fmt: skip
    result = compress(str(folder), replace(options, output=tmp_path / "out"))
    found = {(r.model, r.metric, r.class_): r for r in result.records}
    for label in ("dense", "rank 2", "rank 1000"):
        before, after = (found[label, "bits_per_byte", f"{when} fine-tuning"] for when in ("before", "after"))
        assert before.split == "test" and before.spread[0] < before.value < before.spread[1] and after.value < 9
        assert {(label, m, "after fine-tuning") for m in ("loss", "perplexity")} <= found.keys()
        for metric in ("tokens_per_second", "train_tokens_per_second"):
            assert found[label, metric, "batch 4"].value > 0
        for metric in ("parameters", "macs_per_token", "flops_per_token", "train_seconds"):
            assert found[label, metric, None].value > 0
    assert found["rank 2", "macs_per_token", None].value < found["dense", "macs_per_token", None].value
    same = [found[label, "bits_per_byte", "before fine-tuning"].value for label in ("dense", "rank 1000")]
    assert same[0] == pytest.approx(same[1], abs=1e-4)
    low = load_language_model(tmp_path / "out" / "models" / "rank-2")
    assert set(map(tuple, factorized_ranks(low).values())) == {(2, 0)}
    page = (tmp_path / "out" / "report.html").read_text()
    assert result.answer in page and "Bits per byte before fine-tuning" in page and "Cost of one token" in page


def test_a_run_of_a_classifier_of_sequences(tmp_path, monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
    changes = ["models=[{name='mamba_lm_test', label='one'}]", "data.limit=16", "training.epochs=1", "name=one"]
    run = run_recipe(load_recipe("language/classify_text", changes, smoke=True), output=tmp_path)
    options = Options(energy=(0.9,), data="generated", epochs=0, limit=16, train=False, **FAST)
    result = compress(str(run), replace(options, output=tmp_path / "out"))
    found = {(r.model, r.metric, r.class_): r for r in result.records}
    test = next(r for r in read_records(run / "records.jsonl") if (r.split, r.metric) == ("test", "accuracy"))
    assert found["dense", "accuracy", "before fine-tuning"].value == test.value  # the same rows, the same weights
    low, how = load_model(tmp_path / "out" / "models" / "energy-0.9")
    assert factorized_ranks(low) and len(how["classes"]) == low.head.out_features


def test_names_of_language_models_and_mistakes(text, tmp_path):
    options = Options(flops=(0.5,), data=str(text), train=False, length=16, **FAST)
    result = compress("mamba3_lm_test", replace(options, output=tmp_path / "out"))
    assert result.unmeasured == "random weights" and not (tmp_path / "out" / "models").exists()
    with pytest.raises(UserError, match="--weights is for vision models by name"):
        compress("mamba_lm_test", Options(weights=("a",), **FAST, output=tmp_path / "b"))
    model = save_language_model(create_model("mamba_lm_test", vocab_size=8), tmp_path / "few")
    with pytest.raises(UserError, match="has 8 tokens, the data 257; give the model's own --tokenizer"):
        compress(str(model), Options(data=str(text), tokenizer="bytes", length=16, **FAST, output=tmp_path / "c"))


def test_mistakes_are_told(trained, tmp_path):
    def run(*words):
        CliRunner().invoke(app, ["compress", *words], catch_exceptions=False)

    with pytest.raises(UserError, match=r"give one of --rank, --energy and --flops, got --rank and --energy"):
        run("vmamba_test", "--rank", "2", "--energy", "0.5")
    with pytest.raises(UserError, match=r"--rank takes numbers with commas between them, got 'two'"):
        run("vmamba_test", "--rank", "two")
    with pytest.raises(UserError, match="has no linear layer 'nothing'"):
        run("vmamba_test", "--targets", "nothing", "--image-size", "16", "--output", str(tmp_path / "a"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("hello")
    with pytest.raises(UserError, match="holds files that are not results of ssmlab compress"):
        compress(str(trained), Options(**FAST, output=tmp_path / "mine"))
