"""`ssmlab models`: lists, shows and what was compared with the originals."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from forked import python
from ssmlab.cli.main import main
from ssmlab.models import MODELS, create_model
from ssmlab.profiling import peak_memory

PARITY = Path(__file__).parent.parent / "parity.py"


def call(capsys, *arguments):
    """What the command prints, with single spaces."""
    with pytest.raises(SystemExit) as end:
        main(["models", *arguments])
    assert not end.value.code
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_every_model_is_listed_in_a_group(capsys):
    shown = call(capsys)
    places = [shown.index(group) for group in ("Vision", "Language", "Translation", "Baselines")]
    assert places == sorted(places) and all(f" {name} " in f" {shown} " for name in MODELS)
    assert places[0] < shown.index("vmamba_tiny") < places[1] < shown.index("s4d_lm_130m") < places[2]
    assert places[2] < shown.index(" resnet18 ") and places[2] < shown.index("transformer_lm_2.8b")


@pytest.mark.slow
def test_verbose_counts_parameters(capsys):
    shown = call(capsys, "--verbose")
    assert "VMamba-T, s1l8 30.2 M" in shown and "Mamba, 2.8b 2.77 G" in shown


def test_a_vision_model(capsys):
    shown = call(capsys, "vmamba_tiny", "--depth", "1")
    assert "30,249,064 parameters with 1,000 classes" in shown, "as in the list, and as published"
    assert "an image of 224 x 224: 4.88 G MAC = 9.75 G FLOP" in shown and "scans 63.2 M" in shown
    assert "without the scan: 4.81 G MAC = 9.63 G FLOP" in shown
    assert "published: 82.6 % top-1 on ImageNet-1K" in shown and "MzeroMiko/VMamba" in shown
    assert "patch_embed Sequential" in shown and "Conv2d" not in shown


def test_the_tree_has_shapes_and_joins_equal_neighbours(capsys):
    shown = call(capsys, "timm/test_vit", "--classes", "7", "--depth", "2")
    model = create_model("timm/test_vit", num_classes=7)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters with 7 classes" in shown
    assert f"pos_embed ({', '.join(map(str, model.pos_embed.shape))})" in shown
    assert "head Linear(in_features=64, out_features=7, bias=True)" in shown
    assert f"0 to {len(model.blocks) - 1}, {len(model.blocks)} × Block" in shown
    assert "an image of 160 x 160" in shown and "without the scan" not in shown
    assert "an image of 96 x 96" in call(capsys, "resnet_test", "--image-size", "96")


@pytest.mark.parametrize("name", [n for n in MODELS if n.endswith("_test")])
def test_every_family_can_be_shown(name, capsys):
    shown = call(capsys, name)
    of_text = MODELS[name].kind in ("language", "translation", "vision_language")
    options = {} if of_text else {"num_classes": 1000}
    model = create_model(name, **options)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in shown
    assert ("a token written" if of_text else "an image of") in shown


def test_a_large_language_model_takes_no_memory(capsys):
    with peak_memory("cpu") as peak:
        shown = call(capsys, "mamba_lm_2.8b", "--depth", "3")
    assert peak.extra < 2**30, "its weights would take 10 GiB"
    assert "2,768,345,600 parameters" in shown and "0 to 63, 64 × Layer" in shown
    state = 64 * (5120 * 16 + 5120 * 3) * 4 / 2**20
    assert f"state of a sequence: {state:.3g} MiB in float32, however long it is" in shown
    assert "a token written: 5.62 G FLOP, of which the scan 95 M" in shown
    assert "more with each" in call(capsys, "transformer_lm_130m", "--depth", "1")


def test_a_misspelt_name_imports_nothing_heavy():
    code = (
        "import sys; from ssmlab.cli.main import main\n"
        "try: main(['models', *sys.argv[1:]])\n"
        "except SystemExit as end: print('exit', end.code)\n"
        "print('heavy', sorted({'torch', 'timm', 'transformers'} & set(sys.modules)))"
    )
    for arguments, ending in ((["mamba_lm_13m"], "exit 2"), (["--parity"], "exit 0"), ([], "exit 0")):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-2:] == [ending, "heavy []"], (arguments, done.stdout[-300:], done.stderr)
    assert (
        "did you mean mamba_lm_130m"
        in subprocess.run(
            [sys.executable, "-c", code, "mamba_lm_13m"], capture_output=True, text=True, check=True
        ).stderr
    )


def test_parity_shows_what_was_recorded(capsys):
    shown = call(capsys, "--parity")
    content = json.loads((files("ssmlab.checkpoints") / "parity.json").read_text(encoding="utf-8"))
    for family, row in content["families"].items():
        assert f"{family} {row['cases']} {row['passed']} {row['worst']:.3f} {row['originals'][0][0]} @" in shown
        assert 0 <= row["worst"] <= 1 and row["passed"] == row["cases"] > 0
        assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for _, commit in row["originals"])
    assert {"selective_scan", "mamba1", "mamba2", "mambavision", "vmamba", "vim", "medmamba"} <= set(
        content["families"]
    )
    assert f"recorded {content['date']} at {content['commit']}" in shown and "torch" in content["versions"]


def test_parity_can_be_recorded_again(tmp_path):
    file = tmp_path / "parity.json"
    folder = PARITY.parent / "parity_data" / "causal_conv1d"
    code = f"import sys; sys.path.insert(0, {str(PARITY.parent)!r})\nimport runpy; runpy.run_path({str(PARITY)!r}, "
    code += "run_name='__main__')"
    done = python(code, str(folder), "--record", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    (family,) = json.loads(file.read_text())["families"].items()
    assert family[0] == "causal_conv1d" and family[1]["cases"] == len(list(folder.glob("*.json")))
    assert 0 < family[1]["worst"] <= 1 and family[1]["originals"][0][0] == "Dao-AILab/causal-conv1d"


def test_networks_that_segment_are_listed_and_shown(capsys, tmp_path):
    from ssmlab.models.segmentation.plans import read_plan

    shown = call(capsys)
    assert shown.index("Segmentation") < shown.index(" umamba_bot ") < shown.index("Baselines")
    assert all(
        f" {name} {entry.title}, 2-D and 3-D" in shown for name, entry in MODELS.items() if entry.kind == "segmentation"
    )
    table = {
        "patch_size": [16, 24, 24],
        "features": [4, 8],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2]],
        "n_conv_encoder": [1, 1],
        "n_conv_decoder": [1],
    }
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(table))
    shown = call(capsys, "umamba_enc", "--plan", str(file), "--classes", "3", "--depth", "2")
    network = create_model("umamba_enc", plan=read_plan(file), num_classes=3, in_chans=1)
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters by {file}" in shown
    assert "3-D" in shown and "a patch of 16 x 24 x 24, 1 channel: " in shown and "scans" in shown
    assert "MambaLayer" in call(capsys, "umamba_enc", "--plan", str(file), "--depth", "3")
    shown = call(capsys, "umamba_bot", "--depth", "1")
    assert "a patch of 512 x 512, 3 channels: 99.1 G MAC" in shown and "64,795,278 parameters" in shown
    assert "without the scan" not in call(capsys, "residual_unet", "--dims", "3", "--depth", "1")


def test_options_that_do_not_fit_a_network_are_told(capsys, tmp_path):
    for arguments, said in (
        (["umamba_bot", "--image-size", "64"], "the plan says the size of umamba_bot's patches; give --plan"),
        (
            ["resnet18", "--plan", "x.toml"],
            "resnet18 is built from no plan; umamba_bot, umamba_enc, residual_unet, resenc_unet are",
        ),
        (["umamba_bot", "--plan", str(tmp_path / "x.toml")], "there is no plan"),
        (["umamba_bott"], "unknown model 'umamba_bott'; did you mean umamba_bot"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["models", *arguments])
        assert end.value.code == 2 and said in capsys.readouterr().err
