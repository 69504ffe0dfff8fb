"""How language models are loaded: in which dtype, without initial values or copies, from which paths."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmlab.checkpoints.files import LAYOUTS, language_folder, load_language_model, save_language_model
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model, list_models
from ssmlab.nn import quantize_linear_

SMALL = [name for name in list_models("language") if name.endswith("_test")]


def build(name, **options):
    torch.manual_seed(0)
    return create_model(name, **{"vocab_size": 64} | options).eval()  # a number that nothing rounds up


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
        assert language_folder(path) == first
        assert load_language_model(path).registry_name == "mamba_lm_test"
    second = save_language_model(model, tmp_path / "run" / "models" / "second")
    with pytest.raises(ModelError, match="has 2 models; name one: .*first, .*second"):
        load_language_model(tmp_path / "run")
    assert language_folder(second) == second
    with pytest.raises(ModelError, match=r"has no config\.json"):
        language_folder(tmp_path)


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_piece_at_a_time_is_the_same_model(layout, tmp_path, monkeypatch):
    model = build("mamba_lm_test", tie_embeddings=False)
    save_language_model(model, tmp_path, layout=layout)
    whole = {dtype: load_language_model(tmp_path, dtype) for dtype in (None, torch.bfloat16)}
    monkeypatch.setattr("ssmlab.checkpoints.files.WINDOW", 100)
    for dtype, expected in whole.items():
        loaded = load_language_model(tmp_path, dtype)
        for name, tensor in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor) and loaded.state_dict()[name].dtype == tensor.dtype


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"tie_embeddings": False, "bias": True}], ids=["tied", "biases"])
def test_int8_while_loading_is_int8_behind_it(options, layout, tmp_path):
    model = build("mamba_lm_test", **options)
    save_language_model(model, tmp_path, layout=layout)
    small, expected = load_language_model(tmp_path, int8=True), quantize_linear_(model)
    assert list(small.state_dict()) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(small.state_dict()[name], tensor), name
    assert torch.equal(small(tokens())[0], expected(tokens())[0])


def test_parts_that_are_missing_or_repeat_each_other(tmp_path):
    save_language_model(build("mamba_lm_test"), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"{i % 3}.safetensors" for i, name in enumerate(state)}}))
    with pytest.raises(ModelError, match=r"names 0.safetensors, 1.safetensors, 2.safetensors, which .* lacks"):
        load_language_model(tmp_path)
    for part in range(3):
        save_file(
            {name: t for i, (name, t) in enumerate(state.items()) if i % 3 <= part}, tmp_path / f"{part}.safetensors"
        )
    with pytest.raises(ModelError, match=r"1.safetensors repeats backbone.*of another part"):
        load_language_model(tmp_path)
    index.write_text('{"weight_map": []}')
    with pytest.raises(ModelError, match="is no index of weights files"):
        load_language_model(tmp_path)


def test_values_and_tensors_of_a_wrong_kind(tmp_path):
    save_language_model(build("mamba_lm_test"), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    weight = state["backbone.norm_f.weight"]
    save_file(state | {"backbone.norm_f.weight": weight.long()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors are no floating-point numbers: backbone.norm_f.weight int64"):
        load_language_model(tmp_path)
    for wrong in ("16", None, [16]):
        (tmp_path / "config.json").write_text(json.dumps({"model": "mamba_lm_test", "config": {"d_model": wrong}}))
        with pytest.raises(ModelError, match=r"config.json has values that make no model: "):
            load_language_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("mamba_lm_test", "ssm_cfg", "ssm_cfg of the original has no mlp_dim; it has d_state"),
        ("mamba2_lm_test", "ssm_cfg", "ssm_cfg of the original has no mlp_dim; it has d_state"),
        ("mamba_lm_test", "attn_cfg", "attn_cfg: our attention has no mlp_dim=512, only 0"),
    ],
)
def test_a_gated_layer_next_to_a_block_is_refused_and_not_left_out(name, table, said, tmp_path):
    save_language_model(build(name), tmp_path, layout="state-spaces")
    config = json.loads((tmp_path / "config.json").read_text())
    config["attn_layer_idx"], config["attn_cfg"] = [0], {"num_heads": 2, "causal": True}
    config[table]["mlp_dim"] = 512
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        load_language_model(tmp_path)
