"""`ssmlab adapt`."""

import pytest
from families import build

from ssmlab import adapt
from ssmlab.cli.main import main
from ssmlab.models import create_model


def call(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["adapt", *arguments])
    return left.value.code


def test_methods_are_listed_with_their_numbers(capsys):
    assert call("methods", "mamba_lm_test") == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("x_half"))
    adapted = adapt.apply(create_model("mamba_lm_test"), "x_half")
    assert f"{adapted.trainable:,}" in row
    assert any("not of this model" in line for line in lines if line.startswith("mlp"))
    assert call("methods") == 0
    assert "additional_scan" in capsys.readouterr().out


def test_the_check_is_printed(capsys):
    assert call("check", "vmamba_test", "--method", "projections", "--rank", "2") == 0
    out = capsys.readouterr().out
    assert "layers.*.blocks.*.op.in_proj.weight" in out and "reached: " in out
    assert "merged against unmerged: " in out and "of the largest output" in out


def test_a_saved_adapter_is_checked_on_its_base(tmp_path, capsys):
    from ssmlab.checkpoints.files import save_language_model

    model = build("mamba_lm_test")
    save_language_model(model, tmp_path / "base")
    adapt.apply(model, "dora")
    adapt.save(model, tmp_path / "adapter")
    assert call("check", str(tmp_path / "base"), "--adapter", str(tmp_path / "adapter"), "--all") == 0
    assert "backbone.layers.1.mixer.out_proj.weight" in capsys.readouterr().out


def test_segmentation_networks_are_checked_too(tmp_path, capsys):
    from test_adapt_families import build as any_family

    from ssmlab.checkpoints.folder import save_model

    save_model(any_family("umamba_bot"), tmp_path / "model", {"classes": ["a", "b"]})
    assert call("check", str(tmp_path / "model"), "--method", "projections+bias") == 0
    out = capsys.readouterr().out
    assert "in_proj.weight" in out and "decoder.seg_layers" in out and "none (" not in out


def test_growing_is_checked_with_a_few_tokens(capsys):
    assert call("check", "mamba_lm_test", "--method", "x_half+vocabulary") == 0
    assert "backbone.embedding.weight" in capsys.readouterr().out


def test_mistakes_are_one_line(capsys):
    assert call("check", "mamba_lm_tset") == 2
    assert "did you mean" in capsys.readouterr().err
    assert call("check", "mamba_lm_test", "--method", "mlp") == 2
    assert "has no mlp" in capsys.readouterr().err
