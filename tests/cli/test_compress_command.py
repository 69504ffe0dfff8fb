"""`ssmlab compress`: a table by rank, models that open again, and mistakes in one line."""

import json

import pytest
import torch
from typer.testing import CliRunner

from ssmlab.cli.main import app
from ssmlab.errors import UserError
from ssmlab.models import create_model, load_model, save_model
from ssmlab.nn import factorized_ranks
from ssmlab.reports.record import read_records
from ssmlab.training.compress import Options, compress

HOW = {"image_size": 16, "mean": [0.5] * 3, "std": [0.3] * 3, "classes": list("0123456789"), "channels": 3}
FAST = {"repeats": 1, "batch": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("vmamba_test", num_classes=10, image_size=16)
    return save_model(model, tmp_path_factory.mktemp("trained") / "vmamba", HOW)


def test_every_setting_is_tested_tuned_and_saved(trained, tmp_path):
    options = Options(
        rule="rank", values=(2, 1000), targets=("in_proj", "fc1"), residual_rank=1, data="digits",
        limit=40, epochs=1, **FAST,
    )  # fmt: skip
    result = compress(str(trained), options, output=tmp_path / "out")
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


def test_without_data_costs_alone_are_measured(tmp_path):
    options = Options(rule="flops", values=(0.5,), image_size=16, train=False, **FAST)
    result = compress("vmamba_test", options, output=tmp_path / "out")
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
    with pytest.raises(UserError, match="holds something else than results of ssmlab compress"):
        compress(str(trained), Options(**FAST), output=tmp_path / "mine")
