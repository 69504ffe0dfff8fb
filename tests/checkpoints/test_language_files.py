"""Language models in files: the originals' names and sizes, all layouts there and back, Hugging Face's own classes."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmlab.checkpoints import from_upstream
from ssmlab.checkpoints.files import family_for, load_language_model, save_language_model, to_upstream
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model, list_models
from ssmlab.models.language import hugging_face, state_spaces
from ssmlab.models.registry import original
from ssmlab.nn import quantize_linear_

PUBLISHED = json.loads((Path(__file__).parent.parent / "parity_data/manifests/language_models.json").read_text())
SMALL = [name for name in list_models("language") if name.endswith("_test")]
UPSTREAM = {
    "mamba1": ("mamba_lm_test", {}),
    "mamba1 with everything": ("mamba_lm_test", {"bias": True, "norm": "layer", "tie_embeddings": False, "d_state": 3,
                                                 "attn_layers": (0,), "attn_heads": 2, "d_intermediate": 8}),
    "mamba2": ("mamba2_lm_test", {}),
    "mamba2 hybrid": ("mamba2_attention_lm_test", {"attn_kv_heads": 1, "dt_limit": (0.0, 0.1)}),
    "mamba2 with everything": ("mamba2_lm_test", {"d_ssm": 16, "ngroups": 2, "D_has_hdim": True, "rmsnorm": False}),
}  # fmt: skip
HUGGING_FACE = {
    "mamba": ("mamba_lm_test", {}),
    "mamba with biases": ("mamba_lm_test", {"bias": True, "conv_bias": False, "tie_embeddings": False, "dt_rank": 3}),
    "mamba2": ("mamba2_lm_test", {"ngroups": 2}),
    "mamba2 with biases": ("mamba2_lm_test", {"bias": True, "dt_limit": (0.01, 0.05), "tie_embeddings": False}),
    "falcon": ("mamba_lm_test", {"mixer_norm_eps": 1e-6, "tie_embeddings": False}),
}


def tokens():
    return torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(1))


def build(name, **options):
    torch.manual_seed(0)
    model = create_model(name, **{"vocab_size": 64} | options)  # a number that nothing rounds up
    with torch.no_grad():  # away from initial values that would hide a swap: zeros and ones
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def digest(state):
    lines = sorted(f"{name} {','.join(map(str, tensor.shape))}" for name, tensor in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def assert_same(model, other):
    """The same keys and bits."""
    assert list(model.state_dict()) == list(other.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert torch.equal(model(tokens())[0], other(tokens())[0])


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_models_have_the_originals_keys_and_shapes(case):
    family, known = case.split("/")[0], PUBLISHED[case]
    with torch.device("meta"):
        model = original(family).build(known["config"])
    config, state = to_upstream(model, family)
    assert digest(state) == known["sha256"]
    assert sum(p.numel() for p in model.parameters()) == known["parameters"]
    if family.endswith("_hf"):  # every size is as in the original's configuration
        assert {name: value for name, value in known["config"].items() if name in config}.items() <= config.items()


@pytest.mark.parametrize("case", [case for case in PUBLISHED if "_hf" not in case])
def test_named_sizes_are_the_published_ones(case):
    family, size = case.split("/")
    name = size.replace("mamba2attn-", "mamba2_attention_lm_")
    name = name.replace("mamba2-", "mamba2_lm_").replace("mamba-", "mamba_lm_")
    with torch.device("meta"):
        model, theirs = create_model(name), original(family).build(PUBLISHED[case]["config"])
    assert digest(model.state_dict()) == PUBLISHED[case]["sha256"]
    assert model.config == theirs.config


@pytest.mark.parametrize("name", SMALL)
def test_our_layout_there_and_back(name, tmp_path):
    model = build(name)
    save_language_model(model, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = load_language_model(tmp_path)
    assert loaded.config == model.config and loaded.registry_name == name and not loaded.training
    assert_same(loaded, model)


@pytest.mark.parametrize("case", UPSTREAM)
def test_the_layout_of_state_spaces_there_and_back(case, tmp_path):
    name, options = UPSTREAM[case]
    model = build(name, **options)
    save_language_model(model, tmp_path, layout="state-spaces")
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert set(state) == set(model.state_dict())  # tied keys too, without which the original refuses the file
    loaded = load_language_model(tmp_path)
    assert_same(loaded, model)
    (tmp_path / "pytorch_model.bin").unlink()
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "model.safetensors")
    assert_same(load_language_model(tmp_path), model)


@pytest.mark.parametrize("case", HUGGING_FACE)
def test_hugging_face_opens_what_we_write_and_we_what_it_writes(case, tmp_path):
    from transformers import AutoModelForCausalLM

    name, options = HUGGING_FACE[case]
    model = build(name, **options)
    save_language_model(model, tmp_path / "ours", layout="huggingface")
    assert_same(load_language_model(tmp_path / "ours"), model)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        expected, logits = theirs.eval()(tokens()).logits, model(tokens())[0]
    # both in float32; the largest that was measured is 4e-7
    assert (logits - expected).abs().max() <= 2e-6 * expected.abs().max()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    assert_same(load_language_model(tmp_path / "theirs"), model)


def test_the_layouts_are_hugging_faces_own_by_its_names(tmp_path):
    from transformers import FalconMambaForCausalLM, Mamba2ForCausalLM, MambaForCausalLM

    for case, kind in (("mamba", MambaForCausalLM), ("mamba2", Mamba2ForCausalLM), ("falcon", FalconMambaForCausalLM)):
        name, options = HUGGING_FACE[case]
        folder = save_language_model(build(name, **options), tmp_path / case, layout="huggingface")
        theirs = kind.from_pretrained(folder)
        assert theirs.config.architectures == [kind.__name__]
        keys = set(load_file(folder / "model.safetensors"))
        assert keys | {"lm_head.weight"} == set(theirs.state_dict())


def test_every_field_has_its_place_in_every_layout():
    """A field that is added to a config must be written, refused or, for once, without effect on a trained model."""
    free = {"padded_logits", "residual_dropout", "chunk_size", "mlp_multiple", "vocab_multiple", "dt_min", "dt_max"}
    free |= {f"dropout_{place}" for place in ("embedding", "skip", "inner", "attention")}
    attention = set(state_spaces.ATTENTION.values())
    spaces = set(state_spaces.MODEL.values()) | attention | {"norm", *state_spaces.FIXED} | free
    theirs = set(hugging_face.FIXED) | attention | free  # without attn_layers, attention means nothing
    real = state_spaces.REAL
    for name, layouts in {
        "mamba_lm_test": [
            spaces | set(state_spaces.MAMBA1) | {"mixer_norm_eps", *state_spaces.REAL},
            theirs | {*real, *hugging_face.FIELDS.values(), *hugging_face.RANK.values(), "mixer_norm_eps"},
            theirs | {*real, *hugging_face.FALCON_FIELDS.values()},
        ],
        "mamba2_lm_test": [
            spaces | set(state_spaces.MAMBA2),
            theirs | {*hugging_face.MAMBA2_FIELDS.values(), *hugging_face.MAMBA2_FIXED},
        ],
    }.items():
        own = {field.name for field in fields(create_model(name).config)}
        for layout in layouts:
            assert own <= layout, own - layout


def test_what_a_layout_cannot_hold_is_listed(tmp_path):
    for name, options, layout, words in [
        ("s4d_lm_test", {}, "state-spaces", "no models of the family s4d_lm"),
        ("mamba_lm_test", {"norm_eps": 1e-6, "mixer_norm_eps": 1e-6}, "state-spaces",
         r"cannot hold a model with norm_eps=1e-06, mixer_norm_eps=1e-06; save it with layout=\"ssmlab\""),
        ("mamba2_attention_lm_test", {"mlp_multiple": 8}, "state-spaces", "mlp_multiple=8"),
        ("mamba2_attention_lm_test", {}, "huggingface", r"d_intermediate=24, attn_layers=\(1,\)"),
        ("mamba2_lm_test", {"rmsnorm": False, "norm": "layer"}, "huggingface", "norm='layer', rmsnorm=False"),
        ("mamba_lm_test", {"expand": 1.5}, "huggingface", "whole expansions only, got expand=1.5"),
        ("mamba_lm_test", {"init": "lin"}, "huggingface", "init='lin'"),
        ("mamba_lm_test", {"init": "lin"}, "state-spaces", "init='lin'"),
        ("mamba_lm_test", {}, "zip", "layout must be one of ssmlab, state-spaces, huggingface, got 'zip'"),
    ]:  # fmt: skip
        with pytest.raises(ModelError, match=words):
            save_language_model(build(name, **options), tmp_path / "model", layout=layout)
    assert not (tmp_path / "model").exists()
    with pytest.raises(ModelError, match="cannot be written as mambavision"):
        to_upstream(build("mamba_lm_test"), "mambavision")
    assert family_for(build("mamba_lm_test"), "huggingface") == "mamba1_hf"


def test_int8_weights_are_not_written(tmp_path):
    with pytest.raises(ModelError, match="int8 weights .*backbone.layers.0.*before quantize_linear_"):
        save_language_model(quantize_linear_(build("mamba_lm_test")), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unknown_arguments_of_the_original_are_refused():
    for family, config, words in [
        ("mamba1", {"d_modle": 3}, "MambaConfig of the original has no d_modle; it has d_model"),
        ("mamba1", {"ssm_cfg": {"headdim": 3}}, "ssm_cfg of the original has no headdim"),
        ("mamba1", {"ssm_cfg": {"layer": "Mamba2"}}, "of Mamba2 layers, not of Mamba1"),
        ("mamba2", {}, "of Mamba1 layers, not of Mamba2"),
        ("mamba1", {"attn_layer_idx": [0], "attn_cfg": {"num_heads": 2}}, "no causal=False, only True"),
        ("mamba1", {"attn_layer_idx": [0], "attn_cfg": {"num_heads": 2, "causal": True, "mlp_dim": 8}}, "no mlp_dim=8"),
        ("mamba1_hf", {"hidden_act": "gelu"}, "no gelu, only silu"),
        ("mamba1_hf", {"model_type": "jamba"}, "of jamba, not of mamba"),
        ("mamba2_hf", {"quantization_config": {"bits": 4}}, "quantised"),
        ("mamba2_hf", {"hidden_size": 64, "num_heads": 3, "head_dim": 16, "num_hidden_layers": 1}, "make 8 heads"),
    ]:
        with pytest.raises(ModelError, match=words):
            original(family).build(config)


def test_attention_of_the_original_has_its_defaults():
    """Biases, no rotation, no convolution: what the original's MHA is where attn_cfg is silent."""
    config = {"d_model": 16, "n_layer": 2, "vocab_size": 61, "attn_layer_idx": [1], "ssm_cfg": {"d_state": 4},
              "attn_cfg": {"num_heads": 2, "causal": True}}  # fmt: skip
    model = original("mamba1").build(config)
    mixer = model.backbone.layers[1].mixer
    assert mixer.rotary_dim == 0 and mixer.conv1d is None
    assert mixer.in_proj.bias is not None and mixer.out_proj.bias is not None
    written, state = to_upstream(model, "mamba1")
    assert from_upstream("mamba1", written, state).config == model.config


def test_files_that_do_not_fit_are_told_with_every_key(tmp_path):
    model = build("mamba_lm_test")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_language_model(tmp_path)
    save_language_model(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    weight = state.pop("backbone.norm_f.weight")
    save_file(state | {"more": weight, "backbone.layers.0.mixer.D": weight.clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="3 keys disagree") as error:
        load_language_model(tmp_path)
    for words in ("missing in the file: backbone.norm_f.weight", "unknown to the model: more", "mixer.D: (16,)"):
        assert words in str(error.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights; one of model.safetensors"):
        load_language_model(tmp_path)
    save_language_model(model, tmp_path)
    for text, words in (
        ("{", "is not JSON"),
        ('{"model_type": "jamba"}', "model_type='jamba'"),
        ("{}", "model_type=None"),
        ('{"model": "resnet_mamba_test"}', "is no language model of ours; `ssmlab classify` is for classifiers"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=words):
            load_language_model(tmp_path)


class Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_language_model(build("mamba_lm_test"), tmp_path, layout="state-spaces")
    torch.save({"backbone.embedding.weight": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds more than tensors"):
        load_language_model(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model = build("mamba_lm_test")
    save_language_model(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def half(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", half)
    with pytest.raises(OSError, match="no space left"):
        save_language_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
