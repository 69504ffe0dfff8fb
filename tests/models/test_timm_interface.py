"""timm's interface, of every published model at its `_test` size."""

import subprocess
import sys
from itertools import pairwise

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._manipulate import group_parameters
from timm.optim import create_optimizer_v2

from ssmlab import _timm
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import MODELS, create_model

NAMES = [
    n for n, line in MODELS.items() if line.kind == "vision" and line.family != "resnet_mamba" and n.endswith("_test")
]
every_model = pytest.mark.parametrize("name", NAMES)
SIDE = 64


def build(name, **options):
    torch.manual_seed(0)
    return create_model(name, **({"num_classes": 5, "image_size": SIDE} | options)).eval()


def images(*size, channels=3):
    return torch.randn(2, channels, *(size or (SIDE, SIDE)), generator=torch.Generator().manual_seed(1))


def test_the_families_are_there():
    assert {MODELS[name].family for name in NAMES} >= {"vmamba", "medmamba"}


@every_model
@torch.no_grad()
def test_features_and_head(name):
    model, x = build(name), images()
    features = model.forward_features(x)
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size) == (2, model.num_features)
    assert torch.equal(model.forward_head(features), model(x))
    torch.testing.assert_close(model.get_classifier()(hidden), model(x))


@every_model
@torch.no_grad()
def test_other_classes(name):
    model, x = build(name), images()
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == model.config.num_classes == model.default_cfg["num_classes"] == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), hidden)
    assert build(name, num_classes=0)(x).shape == hidden.shape
    with pytest.raises(ModelError, match="global_pool='max'"):
        model.reset_classifier(3, "max")


@pytest.mark.parametrize("name", [*NAMES, "resnet_test", "resnet_mamba_test"])
@torch.no_grad()
def test_pooling_can_be_left_out_and_put_back(name, tmp_path):
    model, x = build(name), images()
    expected, hidden = model(x), model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(0, "")
    every = model(x)
    assert every.shape[-1] == model.head_hidden_size and every[..., 0].numel() > 2
    model.reset_classifier(3, "")
    assert model(x).shape == (*every.shape[:-1], 3)
    with pytest.raises(ModelError, match="without pooling is not saved"):
        save_model(model, tmp_path, {})
    model.reset_classifier(5, "avg")
    assert model(x).shape == expected.shape
    assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), hidden)


def test_pooling_is_an_argument_of_timm():
    assert timm.create_model("vmamba_test", global_pool="avg").pooling == "avg"
    assert timm.create_model("vmamba_test", global_pool="").pooling == ""
    with pytest.raises(ModelError, match="global_pool='max' is not there"):
        timm.create_model("vmamba_test", global_pool="max")


@every_model
def test_description(name):
    model = build(name, in_chans=1)
    data = timm.data.resolve_data_config(model=model)
    assert data["input_size"] == (1, SIDE, SIDE)
    assert data["mean"] == model.pretrained_cfg["mean"]
    assert model.default_cfg["architecture"] == name
    modules = dict(model.named_modules())
    assert isinstance(modules[model.default_cfg["classifier"]], torch.nn.Linear)
    assert isinstance(modules[model.default_cfg["first_conv"]], torch.nn.Conv2d)
    assert all(info["module"] in modules for info in model.feature_info)


@every_model
@torch.no_grad()
def test_intermediates(name):
    model, x = build(name), images()
    count = len(model.feature_info)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    for found, info in zip(maps, model.feature_info, strict=True):
        assert found.shape == (2, info["num_chs"], SIDE // info["reduction"], SIDE // info["reduction"])
    for indices, expected in [(1, [count - 1]), ([0], [0]), ([0, -1], [0, count - 1])]:
        taken = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        assert all(torch.equal(a, maps[i]) for a, i in zip(taken, expected, strict=True))
    early, (first,) = model.forward_intermediates(x, indices=[0], stop_early=True)
    assert torch.equal(first, maps[0])
    assert early.numel() <= first.numel() + model.num_features * 2  # a class token may come with it
    last = model.forward_intermediates(x, indices=1, output_fmt="NHWC", intermediates_only=True)[0]
    assert torch.equal(last.permute(0, 3, 1, 2), maps[-1])
    with pytest.raises(ModelError, match=f"{count} feature maps"):
        model.forward_intermediates(x, indices=[count])
    with pytest.raises(ModelError, match="NCHW, NHWC"):
        model.forward_intermediates(x, output_fmt="NLC")


@every_model
@torch.no_grad()
def test_the_norm_of_the_last_map(name):
    model, x = build(name), images()
    plain, normed = (model.forward_intermediates(x, norm=norm, intermediates_only=True)[-1] for norm in (False, True))
    assert torch.equal(plain, normed) is (model.norm_path is None)


@every_model
def test_features_only(name):
    whole, x = build(name), images()
    maps = whole.forward_intermediates(x, intermediates_only=True)
    for options, expected in [
        ({}, range(len(maps))),
        ({"out_indices": (0,)}, [0]),
        ({"out_indices": (0, 1), "feature_cls": "getter"}, [0, 1]),
    ]:
        network = timm.create_model(name, features_only=True, img_size=SIDE, **options).eval()
        assert network.feature_info.channels() == [whole.feature_info[i]["num_chs"] for i in expected]
        assert network.feature_info.reduction() == [whole.feature_info[i]["reduction"] for i in expected]
        kept = network.model.state_dict()
        network.model.load_state_dict({k: v for k, v in whole.state_dict().items() if k in kept})
        found = network(x)
        for ours, i in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, maps[i])
        sum(f.sum() for f in found).backward()
        idle = [n for n, p in network.named_parameters() if p.grad is None]
        assert not [n for n in idle if not n.startswith("model.norm_f")]
    assert network.default_cfg["num_classes"] == 0
    with pytest.raises(ModelError, match="getter"):
        timm.create_model(name, features_only=True, feature_cls="hook")


@every_model
def test_gradient_checkpointing_changes_nothing(name):
    found = []
    for enable in (False, True):
        model = build(name).train()
        model.set_grad_checkpointing(enable)
        x = images().requires_grad_()
        y = model(x)
        y.square().sum().backward()
        found.append([y, x.grad, *model.buffers(), *(p.grad for p in model.parameters())])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-5)
    model.set_grad_checkpointing(False)
    assert not any(getattr(m, "grad_checkpointing", False) for m in model.modules())


@every_model
@pytest.mark.parametrize("coarse", [False, True])
def test_parameters_are_grouped_by_depth(name, coarse):
    model = build(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    names = [n for n, _ in model.named_parameters()]
    assert sorted(groups) == sorted(names)
    assert groups[f"{model.default_cfg['first_conv']}.weight"] == 0
    assert groups[f"{model.default_cfg['classifier']}.weight"] == max(groups.values())
    stages = [[d for n, d in groups.items() if n.startswith(info["module"] + ".")] for info in model.feature_info]
    assert all(max(a) < min(b) for a, b in pairwise(stages))
    assert create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.8).param_groups


@every_model
def test_weight_decay_spares_the_scan(name):
    model = build(name)
    spared = model.no_weight_decay()
    assert {n.rpartition(".")[2] for n in spared} == {
        n.rpartition(".")[2] for n, _ in model.named_parameters() if n.rpartition(".")[2] in model.undecayed
    }
    assert any("A_log" in n for n in spared)
    groups = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05).param_groups
    (decayed,) = [group["params"] for group in groups if group["weight_decay"]]
    own = dict(model.named_parameters())
    assert not {id(p) for p in decayed} & {id(own[n]) for n in spared}


@every_model
def test_every_parameter_learns(name):
    model = build(name).train()
    x = images()
    model(x).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())


@every_model
@torch.no_grad()
@pytest.mark.parametrize(("channels", "size"), [(1, (64, 64)), (3, (72, 104)), (4, (61, 75))])
def test_any_channels_and_any_size(name, channels, size):
    y = build(name, in_chans=channels)(images(*size, channels=channels))
    assert y.shape == (2, 5)
    assert y.isfinite().all()


@every_model
def test_images_with_other_channels_are_named(name):
    with pytest.raises(ShapeError, match=r"3.*got \(2, 1, 64, 64\)"):
        build(name)(images(channels=1))


@every_model
def test_weights_by_name(name, tmp_path):
    source, x = build(name), images()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        assert torch.equal(build(name, weights=tmp_path / file)(x), source(x))
    other = build(name, weights=tmp_path / "w.pth", num_classes=3)
    assert torch.equal(other.forward_features(x), source.forward_features(x))
    assert other(x).shape == (2, 3)
    bare = build(name, weights=tmp_path / "w.pth", num_classes=0)
    torch.testing.assert_close(source.get_classifier()(bare(x)), source(x))
    through_timm = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "w.pth")}, num_classes=5, img_size=SIDE
    )
    assert torch.equal(through_timm.eval()(x), source(x))


@every_model
@torch.no_grad()
def test_weights_for_colours_are_adapted_to_other_channels(name, tmp_path):
    source, grey = build(name), images(channels=1)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = build(name, weights=tmp_path / "w.safetensors", in_chans=1)
    torch.testing.assert_close(model(grey), source(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@every_model
def test_weights_that_do_not_fit_are_listed(name, tmp_path):
    model = build(name)
    state = model.state_dict()
    state.pop(f"{model.stem_path}.weight")
    scan = next(key for key in state if "A_log" in key)
    save_file(state | {"x": torch.zeros(1), scan: torch.zeros(3, 1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="3 keys disagree"):
        build(name, weights=tmp_path / "w.safetensors")


@every_model
def test_pretrained_says_where_the_weights_are(name):
    with pytest.raises(ModelError, match=r"download them from \S+.*weights=FILE"):
        build(name, pretrained=True)
    with pytest.raises(ModelError, match="weights=FILE"):
        timm.create_model(name, pretrained=True)


@every_model
def test_save_and_load_give_the_same_model(name, tmp_path):
    model, x = build(name, in_chans=1), images(channels=1)
    save_model(model, tmp_path / "m", {"image_size": SIDE})
    loaded, _ = load_model(tmp_path / "m")
    assert loaded.config == model.config
    assert torch.equal(loaded(x), model(x))


@every_model
def test_timm_takes_its_scripts_options(name):
    model = timm.create_model(name, img_size=(SIDE, SIDE), num_classes=2, drop_rate=0.0, drop_path_rate=0.1)
    assert (model.config.image_size, model.config.drop_path_rate) == (SIDE, 0.1)
    with pytest.raises(ModelError, match="square"):
        timm.create_model(name, img_size=(SIDE, 32))


def test_a_hybrid_has_no_pyramid():
    with pytest.raises(ModelError, match="no pyramid"):
        timm.create_model("resnet_mamba_test", features_only=True)


IMPORTS = [
    "import sys, ssmlab, importlib.util\n"
    "assert 'timm' not in sys.modules and 'torch' not in sys.modules\n"
    "assert importlib.util.find_spec('timm')\n"  # looking whether timm is there must not use the hook up
    "import timm\n",
    "import sys, timm, ssmlab\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("code", IMPORTS, ids=["ssmlab first", "timm first"])
def test_models_are_registered_in_either_order(code):
    code += (
        "from ssmlab._timm import _AfterTimm\n"
        "assert not [f for f in sys.meta_path if isinstance(f, _AfterTimm)]\n"
        "assert 'ssmlab.models.vision.vmamba' not in sys.modules\n"
        "assert {'vmamba_tiny', 'medmamba_base', 'resnet18_mamba'} <= set(timm.list_models())\n"
        "assert timm.create_model('vmamba_test', num_classes=10).num_classes == 10\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_timm_is_left_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setattr(sys, "meta_path", [])
    _timm.register()
    _timm.register()
    (finder,) = sys.meta_path
    assert finder.find_spec("timm") is None
    assert finder.find_spec("numpy") is None
