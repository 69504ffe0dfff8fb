"""Adapters to a folder and back."""

import copy
import json

import pytest
import torch
from families import BARS, LANGUAGE, VISION, batch_for, build, output, shake
from safetensors.torch import load_file, save_file

from ssmlab import adapt
from ssmlab.core.errors import ModelError

ONE = "mamba_lm_test"


def saved(folder, name=ONE, method="all", **options):
    model = build(name).eval()
    adapted = adapt.apply(model, method, **options)
    shake(model)
    adapt.save(adapted, folder)
    return model


@pytest.mark.parametrize("name", [*LANGUAGE, *VISION])
def test_saved_and_loaded_is_the_same(name, tmp_path):
    methods = (
        "all",
        "x_half+D",
        "dora",
        "affix",
        "additional_scan",
        "state_offset_h",
        "sparse_dimensions",
        "bias+head",
    )
    for method in methods if name in BARS else methods[:2]:
        model = saved(tmp_path / method, name, method, rank=3)
        loaded = build(name).eval()
        adapt.load(loaded, tmp_path / method)
        with torch.no_grad():
            batch = batch_for(name)
            assert torch.equal(output(loaded, batch), output(model, batch)), method


def test_a_new_head_is_in_the_folder(tmp_path):
    model = saved(tmp_path, "vmamba_test", "x_half+head")
    other = build("vmamba_test").eval()
    torch.nn.init.normal_(other.get_classifier().weight)
    adapt.load(other, tmp_path)
    with torch.no_grad():
        assert torch.equal(other(batch_for("vmamba_test")), model(batch_for("vmamba_test")))


def test_grown_vocabulary_is_in_the_folder(tmp_path):
    model = saved(tmp_path, method="vocabulary", vocab_size=60)
    loaded = build(ONE).eval()
    adapt.load(loaded, tmp_path)
    tokens = torch.tensor([[1, 50, 59]])
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])


def test_the_folder_holds_the_adapter_alone(tmp_path):
    model = saved(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"adapter.json", "adapter.safetensors"}
    count = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter.safetensors").values())
    assert count == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_another_base_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ModelError, match="trained on other weights"):
        adapt.load(build(ONE, seed=5), tmp_path)
    adapt.load(build(ONE, seed=5), tmp_path, other_base=True)


def test_a_base_in_half_precision_is_the_same_base(tmp_path):
    saved(tmp_path)
    adapt.load(build(ONE).to(torch.bfloat16), tmp_path)


def test_another_model_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ModelError, match="does not fit|has no"):
        adapt.load(build("mamba2_lm_test"), tmp_path)


def test_damage_is_told(tmp_path):
    with pytest.raises(ModelError, match="has no adapter.json"):
        adapt.load(build(ONE), tmp_path)
    saved(tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name][:1]}, tmp_path / "adapter.safetensors")
    with pytest.raises(ModelError, match="has shape"):
        adapt.load(build(ONE), tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="is damaged"):
        adapt.load(build(ONE), tmp_path)
    (tmp_path / "adapter.json").write_text(json.dumps({"format": 9}))
    save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(ModelError, match="another format"):
        adapt.load(build(ONE), tmp_path)


@pytest.mark.parametrize("method", ["norm", "bias"])
@pytest.mark.parametrize("name", ["mambavision_test", "medmamba_test", "resnet_mamba_test"])
def test_statistics_of_batch_norms_stay_the_bases(name, method, tmp_path):
    base = build(name).eval()
    model = copy.deepcopy(base)
    adapt.apply(model, method)
    shake(model)
    batch = batch_for(name, 4)
    model.train()(batch)
    adapt.save(model.eval(), tmp_path)
    again = copy.deepcopy(base)
    adapt.load(again, tmp_path)
    with torch.no_grad():
        assert torch.equal(output(again, batch), output(model, batch))
        with adapt.disabled(model):
            assert torch.equal(output(model, batch), output(base, batch))


def test_statistics_of_what_is_trained_whole_are_in_the_adapter(tmp_path):
    base = build("mambavision_test").eval()
    norms = [name for name, module in base.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    model = copy.deepcopy(base)
    adapt.apply(model, "x_half", train=(norms[0],))
    batch = batch_for("mambavision_test", 4)
    model.train()(batch)
    adapt.save(model.eval(), tmp_path)
    again = copy.deepcopy(base)
    adapt.load(again, tmp_path)
    assert not torch.equal(again.get_submodule(norms[0]).running_mean, base.get_submodule(norms[0]).running_mean)
    assert torch.equal(output(again, batch), output(model, batch))
