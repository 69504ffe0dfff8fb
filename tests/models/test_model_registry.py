"""Names, options, saving and loading."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from hub import at_home, closed_port
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError
from ssmlab.models import MODELS, create_model, list_models
from ssmlab.models.registry import describe
from ssmlab.models.vision.backbones import map_sizes
from ssmlab.models.vision.resnet_mamba import CONFIGS

SIZES = {"num_classes": 3, "image_size": 32}
PREPROCESS = {"image_size": 32, "mean": [0.5], "std": [0.25], "classes": ["a", "b", "c"], "channels": 3}


def test_listing_names_imports_nothing_heavy():
    code = "import sys, ssmlab.models as m; m.list_models(); print([x for x in ('torch', 'timm') if x in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_table_and_families_agree():
    assert list(CONFIGS) == [name for name, line in MODELS.items() if line.family == "resnet_mamba"]
    assert any(name.endswith("_test") for name in list_models())
    assert describe("resnet18_mamba") == "ResNet-18 + Mamba"
    assert describe("timm/test_vit") == "test_vit"
    assert describe("mamba_lm_130m") == "Mamba, 130m" and describe("umamba_bot", "segmentation").startswith("U-Mamba")
    with pytest.raises(ModelError, match="mamba_lm_130m is a language model, a model of images is needed"):
        describe("mamba_lm_130m", "vision")
    assert "vim_tiny" in list_models("vision") and "mamba_lm" in list_models("language")
    assert "vim_tiny" not in list_models("language") and {"vim_tiny", "mamba_lm"} <= set(list_models())
    with pytest.raises(ModelError, match="kind must be one of vision, language, segmentation"):
        list_models("text")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet18_mamb", {}, "unknown model 'resnet18_mamb'; did you mean resnet18_mamba"),
        ("mamba_lm_test", {}, "mamba_lm_test has no option 'num_classes'; there are vocab_size"),
        ("umamba_bot", {}, "umamba_bot has no option 'image_size'; there are plan, num_classes, in_chans, seed"),
        ("zzz", {}, "timm/<name>"),
        ("timm/test_vitt", {}, "did you mean test_vit"),
        ("resnet_mamba_test", {"d_stat": 4}, "no option 'd_stat'; did you mean d_state"),
        ("resnet_test", {"scales": 1}, "no option 'scales'"),
        ("timm/test_vit", {"dept": 4}, "dept"),
        ("resnet_test", {"pretrained": True, "weights": "x.pth"}, "give one of them"),
        ("resnet_test", {"weights": "x.pth"}, "no weights file x.pth"),
        ("vmamba_tiny", {"dims": 32}, "dims must be a list with one number a stage, got 32"),
        ("vmamba_tiny", {"dim": (32,) * 4}, "no option 'dim'; did you mean dims"),
        ("vmamba_test", {"d_state": "a"}, "has options that make no model"),
        ("timm/resnet18", {"checkpoint_path": "evil.pth"}, "cannot be given the option 'checkpoint_path'"),
        ("timm/resnet18", {"pretrained_cfg_overlay": {"file": "x"}}, "cannot be given the option"),
        ("timm/resnet18", {"act_layer": print}, "act_layer must be a number, a text or a list"),
    ],
)
def test_mistakes_are_named(name, options, words):
    with pytest.raises(ModelError, match=words):
        create_model(name, **SIZES, **options)


def test_classes_must_be_given():
    with pytest.raises(ModelError, match="num_classes is missing"):
        create_model("resnet_test")
    with pytest.raises(ModelError, match="dims must be a list"):
        create_model("vmamba_tiny", num_classes=10, dims=32)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("timm/test_vit", {"options": {"checkpoint_path": "evil.pth"}}, "cannot be given the option 'checkpoint_path'"),
        ("timm/test_vit", {"options": {"pretrained": True}}, "config.json has pretrained: a folder does not decide"),
        ("timm/test_vit", {"options": {"cache_dir": "/tmp"}}, "cannot be given the option 'cache_dir'"),
        ("timm/test_vit", {"weights": "/etc/passwd"}, "config.json has weights: a folder does not decide"),
        ("resnet_test", {"pretrained": True}, "config.json has pretrained: a folder does not decide"),
        ("resnet_test", {"weights": "x.pth"}, "config.json has weights: a folder does not decide"),
        ("vmamba_test", {"depths": [10**9, 1]}, "has depths=.*but its weights are .* tensors"),
        ("vmamba_test", {"dims": [10**6, 2 * 10**6]}, "describes a model of .* numbers, model.safetensors holds"),
        ("vmamba_test", {"dims": "abc"}, "dims must be a list"),
        ("vmamba_test", {"d_state": [1]}, "options that make no model|values that make no model"),
        ("vim_test", {"depth": 10**9}, "has depth=1000000000, but its weights are"),
    ],
)
def test_a_folder_describes_an_architecture_and_nothing_else(name, change, words, tmp_path):
    save_model(create_model(name, **SIZES), tmp_path, {})
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    content["config"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path)
    file.write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        load_model(tmp_path)


def test_seed_alone_decides_the_weights():
    map_sizes.cache_clear()
    models = []
    for _ in range(2):  # the second finds the sizes of the feature maps remembered
        torch.manual_seed(3)
        models.append(create_model("resnet_mamba_test", **SIZES))
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet_test", {}),
        ("resnet_mamba_test", {"depth": 2, "in_chans": 1}),
        ("timm/test_vit", {"drop_rate": 0.2}),
    ],
)
def test_save_and_load_give_the_same_model(name, options, tmp_path):
    model = create_model(name, **SIZES, **options).to(memory_format=torch.channels_last).eval()
    save_model(model, tmp_path / "m", PREPROCESS)
    loaded, preprocess = load_model(tmp_path / "m")
    assert preprocess == PREPROCESS
    assert loaded.config == model.config
    assert not loaded.training
    x = torch.randn(2, options.get("in_chans", 3), 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocess.json",
    ]
    assert json.loads((tmp_path / "m/config.json").read_text())["model"] == name


def test_saving_over_a_model_that_cannot_be_written_keeps_the_old(tmp_path, monkeypatch):
    model = create_model("resnet_test", **SIZES)
    save_model(model, tmp_path, PREPROCESS)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(state, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, tmp_path, PREPROCESS)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_model_without_a_name_is_not_saved(tmp_path):
    with pytest.raises(ModelError, match="build it with create_model"):
        save_model(torch.nn.Linear(2, 2), tmp_path, PREPROCESS)


def test_reset_classifier_is_saved(tmp_path):
    model = create_model("resnet_test", **SIZES)
    model.reset_classifier(6)
    assert load_model(save_model(model, tmp_path, PREPROCESS))[0].num_classes == 6


def test_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json, preprocess\.json, model\.safetensors; give the folder"):
        load_model(tmp_path)


def test_all_disagreeing_keys_are_listed(tmp_path):
    folder = save_model(create_model("resnet_mamba_test", **SIZES), tmp_path, PREPROCESS)
    state = load_file(folder / "model.safetensors")
    state["layers.0.extra"] = state.pop("layers.0.norm.weight")
    state["head.hidden.bias"] = torch.zeros(2)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelError) as error:
        load_model(folder)
    lines = str(error.value).splitlines()
    assert "3 keys disagree" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "missing in the file: layers.0.norm.weight",
        "unknown to the model: layers.0.extra",
        "head.hidden.bias: (2,) in the file, (32,) in the model",
    ]


def test_weights_of_a_whole_model(tmp_path, caplog):
    old = create_model("resnet_mamba_test", **SIZES)
    save_model(old, tmp_path, PREPROCESS)
    torch.save({"state_dict": old.state_dict()}, tmp_path / "m.pth")
    for file in ("model.safetensors", "m.pth"):
        new = create_model("resnet_mamba_test", **SIZES, weights=tmp_path / file)
        assert all(torch.equal(a, b) for a, b in zip(new.parameters(), old.parameters(), strict=True))
    assert not caplog.records
    new = create_model("resnet_mamba_test", num_classes=8, image_size=32, weights=tmp_path / "model.safetensors")
    assert "classifier for 3 classes" in caplog.text
    assert new.get_classifier().out_features == 8
    assert torch.equal(new.layers[0].norm.weight, old.layers[0].norm.weight)
    assert torch.equal(new.head.hidden.weight, old.head.hidden.weight)


@pytest.mark.parametrize("in_chans", [3, 1])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
@pytest.mark.parametrize("classes", [11, 0])
def test_weights_of_the_timm_backbone(backbone, in_chans, classes, tmp_path):
    source = timm.create_model(backbone, num_classes=classes)
    save_file(source.state_dict(), tmp_path / "backbone.safetensors")
    model = create_model(
        "resnet_mamba_test",
        **SIZES,
        backbone=backbone,
        in_chans=in_chans,
        weights=tmp_path / "backbone.safetensors",
    )
    theirs = [p for name, p in source.named_parameters() if name.startswith(("layer4", "stages.3"))]
    ours = [p for name, p in model.backbone.named_parameters() if name.startswith(("layer4", "stages_3"))]
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_weights_of_another_backbone_are_refused(tmp_path):
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ModelError, match="does not fit test_resnet") as error:
        create_model("resnet_mamba_test", **SIZES, weights=tmp_path / "other.pth")
    assert "conv1.0.weight" in str(error.value)
    assert "stages.3" in str(error.value)


def test_weights_of_a_timm_model_with_the_same_and_other_classes(tmp_path):
    source = timm.create_model("test_vit", num_classes=3, img_size=32)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    same = create_model("timm/test_vit", **SIZES, weights=tmp_path / "vit.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), source.parameters(), strict=True))
    other = create_model("timm/test_vit", num_classes=4, image_size=32, weights=tmp_path / "vit.safetensors")
    assert other.head.out_features == 4
    assert torch.equal(other.blocks[0].mlp.fc1.weight, source.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("content", [b"not weights", b""])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_that_hold_no_weights(content, suffix, tmp_path):
    file = tmp_path / f"m.{suffix}"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.(safetensors is not|pth holds more)"):
        create_model("resnet_test", **SIZES, weights=file)


def test_pickles_are_not_run(tmp_path):
    torch.save({"model": print}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match="holds more than tensors"):
        create_model("resnet_test", **SIZES, weights=tmp_path / "m.pth")


def test_an_error_of_loading_is_not_one_of_the_options(tmp_path, monkeypatch):
    def broken(*_):
        raise TypeError("of loading")

    file = save_model(create_model("vim_test", num_classes=2), tmp_path, {"image_size": 32}) / "model.safetensors"
    assert create_model("vim_test", num_classes=2, weights=file).num_classes == 2
    monkeypatch.setattr("ssmlab.models.vision.base.read_state_dict", broken)
    with pytest.raises(TypeError, match="of loading"):
        create_model("vim_test", num_classes=2, weights=file)
    with pytest.raises(ModelError, match="options that make no model"):
        create_model("vim_test", num_classes=2, weights=file, d_state="a")


@pytest.mark.parametrize("name", ["resnet18_mamba", "timm/test_vit"])
def test_unreachable_hub_says_what_to_do(name, monkeypatch, tmp_path):
    waits = []
    with at_home(tmp_path, closed_port(), monkeypatch):
        monkeypatch.setattr("time.sleep", waits.append)
        with pytest.raises(ModelError) as error:
            create_model(name, **SIZES, pretrained=True)
    assert not waits, "the client alone tries five times more, for 23 s"
    assert "\n" not in str(error.value) and "Connection refused" in str(error.value)
    assert {"resnet18_mamba": "huggingface.co/timm/resnet18.a1_in1k"}.get(name, "timm/test_vit") in str(error.value)
    assert "weights=FILE" in str(error.value)


def test_timm_reads_its_cache_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr("ssmlab.models.vision.backbones.try_to_load_from_cache", lambda repository, file: str(tmp_path))
    monkeypatch.setattr("ssmlab.models.vision.backbones.check_hub", lambda *_: pytest.fail("the network is not needed"))
    built = create_model("timm/test_vit", **SIZES).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: built)
    found = create_model("timm/test_vit", **SIZES, pretrained=True).state_dict()
    assert torch.equal(found["patch_embed.proj.weight"], built["patch_embed.proj.weight"])


def test_a_kind_may_be_said():
    from ssmlab.models import create_language_model, create_segmenter

    assert create_language_model("mamba_lm_test", vocab_size=9).config.vocab_size == 9
    for make, name in ((create_language_model, "vmamba_test"), (create_segmenter, "mamba_lm_test")):
        with pytest.raises(ModelError, match=name):
            make(name)
