"""How language models are loaded: in which dtype, without initial values or copies, from which paths."""

import json

import pytest
import torch

from ssmlab.checkpoints.files import LAYOUTS, find_language_model, load_language_model, save_language_model
from ssmlab.errors import ModelError
from ssmlab.models.language import LANGUAGE_MODELS, create_language_model

SMALL = [name for name in LANGUAGE_MODELS if name.endswith("_test")]


def build(name, **options):
    torch.manual_seed(0)
    return create_language_model(name, **options).eval()


def tokens():
    return torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_the_dtype_of_the_file_or_another(name, dtype, tmp_path):
    model = build(name)
    save_language_model(model, tmp_path / "narrow")
    asked = load_language_model(tmp_path / "narrow", dtype)
    dynamics = torch.promote_types(dtype, torch.float32)
    for key, parameter in asked.named_parameters():
        own = parameter.dtype
        assert own == (dynamics if key in asked.no_weight_decay() else dtype), key
    expected = model.double()(tokens())[0]
    logits = asked(tokens())[0]
    assert logits.dtype == dtype
    limit = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float64: 1e-6}[dtype]  # a few roundings
    assert (logits - expected).norm() <= limit * expected.norm()
    save_language_model(asked, tmp_path / "saved")
    again = load_language_model(tmp_path / "saved")
    assert {k: p.dtype for k, p in again.named_parameters()} == {k: p.dtype for k, p in asked.named_parameters()}
    for key, parameter in again.named_parameters():
        assert torch.equal(parameter, asked.get_parameter(key)), key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tied", [True, False])
def test_no_value_is_drawn_and_tied_weights_are_one(layout, tied, tmp_path):
    model = build("mamba_lm_test", tie_embeddings=tied)
    save_language_model(model, tmp_path, layout=layout)
    state = torch.random.get_rng_state()
    loaded = load_language_model(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (loaded.lm_head.weight is loaded.backbone.embedding.weight) == tied
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(tokens())[0], model(tokens())[0])
    loaded(tokens())[0].sum().backward()  # and it can be trained
    with torch.no_grad():
        loaded.backbone.embedding.weight.zero_()
    assert torch.equal(load_language_model(tmp_path)(tokens())[0], model(tokens())[0])  # the file stays as it is


def test_hugging_faces_layout_keeps_the_dtype(tmp_path):
    from transformers import AutoModelForCausalLM

    model = load_language_model(save_language_model(build("mamba_lm_test"), tmp_path / "a"), torch.bfloat16)
    folder = save_language_model(model, tmp_path / "b", layout="huggingface")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_which_folder_a_path_means(tmp_path):
    model = build("mamba_lm_test")
    first = save_language_model(model, tmp_path / "run" / "models" / "first")
    for path in (first, first / "model.safetensors", tmp_path / "run"):
        assert find_language_model(path) == first
        assert load_language_model(path).registry_name == "mamba_lm_test"
    second = save_language_model(model, tmp_path / "run" / "models" / "second")
    with pytest.raises(ModelError, match="has 2 models; name one: .*first, .*second"):
        load_language_model(tmp_path / "run")
    assert find_language_model(second) == second
    with pytest.raises(ModelError, match=r"has no config\.json"):
        find_language_model(tmp_path)


def test_configurations_that_are_none(tmp_path):
    save_language_model(build("mamba_lm_test"), tmp_path)
    for config, words in [
        ([], "must hold an object, got list"),
        ({"model": "resnet18", "config": {}}, "holds 'resnet18', which is no language model"),
        ({"model": "mamba_lm_test"}, "holds 'mamba_lm_test', which is no language model"),
        ({"model": "mamba_lm_test", "config": {"d_modle": 3}}, "no option 'd_modle'; did you mean d_model"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=words):
            load_language_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    save_language_model(build("mamba_lm_test"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weights": 3}')
    with pytest.raises(ModelError, match="is no index of weights files"):
        load_language_model(tmp_path)
