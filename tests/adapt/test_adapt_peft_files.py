"""Adapters of PEFT on transformers' models: the same logits here, and those written here the same logits there."""

import json

import pytest
import torch
import transformers
from families import relative

from ssmlab import adapt
from ssmlab.checkpoints.files import load_language_model
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model

SIZES = {"vocab_size": 56, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "tie_word_embeddings": False}
HEADS = {"num_heads": 4, "head_dim": 16, "n_groups": 2, "expand": 2, "chunk_size": 8}
KINDS = {"Mamba": {}, "FalconMamba": {}, "Mamba2": HEADS}
LAYERS = {"Mamba": ["in_proj", "x_proj", "embeddings"], "FalconMamba": ["in_proj", "x_proj"], "Mamba2": ["in_proj"]}
TOKENS = torch.randint(0, 56, (2, 13), generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory):
    """(kind, transformers' model in a folder)."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**SIZES, **KINDS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    getattr(transformers, f"{request.param}ForCausalLM")(config).save_pretrained(folder)
    return request.param, folder


def theirs(base):
    return transformers.AutoModelForCausalLM.from_pretrained(base[1]).eval()


def trained_by_peft(base, folder, **options):
    """A LoRA adapter after some steps of training; returns its logits."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 12, "target_modules": LAYERS[base[0]], "task_type": "CAUSAL_LM"} | options
    )
    model = get_peft_model(theirs(base), config).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(5):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def written_by_peft(base, folder, kind, **options):
    """An adapter with random numbers; returns its logits."""
    import peft

    torch.manual_seed(1)
    config = getattr(peft, f"{kind}Config")(target_modules=["in_proj"], task_type="CAUSAL_LM", **options)
    there = peft.get_peft_model(theirs(base), config)
    with torch.no_grad():
        for parameter in there.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    there.save_pretrained(folder)
    with torch.no_grad():
        return there.eval()(input_ids=TOKENS).logits


@pytest.mark.parametrize(
    ("kind", "options"),
    [("FourierFT", {"n_frequency": 20}), ("HRA", {}), ("IA3", {"feedforward_modules": []}),
     ("IA3", {"feedforward_modules": ["in_proj"]}), ("LoHa", {}), ("LoKr", {}), ("OFT", {"oft_block_size": 8, "r": 0})],
)  # fmt: skip
def test_other_kinds_of_peft_are_read(base, tmp_path, kind, options):
    """The same logits as PEFT's own, beside the weights and merged into them."""
    right = written_by_peft(base, tmp_path, kind, **options)
    with torch.no_grad():
        plain = load_language_model(base[1])(TOKENS)[0]
        beside = adapt.load_peft(load_language_model(base[1]), tmp_path).eval()(TOKENS)[0]
        merged = adapt.add_adapter(load_language_model(base[1]), tmp_path).eval()(TOKENS)[0]
    assert relative(right, plain) > 1e-3, "the adapter does something"
    assert relative(beside, right) < 1e-5 and relative(merged, right) < 1e-4


@pytest.mark.parametrize(
    ("kind", "options"),
    [("AdaLora", {"total_step": 9, "init_r": 4}), ("BOFT", {"boft_block_size": 4}), ("Vera", {"r": 8})],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_kinds_that_peft_merges_itself(base, tmp_path, kind, options):
    right = written_by_peft(base, tmp_path, kind, **options)
    with torch.no_grad():
        plain = load_language_model(base[1])(TOKENS)[0]
        merged = adapt.add_adapter(load_language_model(base[1]), tmp_path).eval()(TOKENS)[0]
    assert relative(right, plain) > 1e-3 and relative(merged, right) < 1e-4
    with pytest.raises(ModelError, match=f"{kind.upper()} is read only to be merged into the weights, by add_adapter"):
        adapt.load_peft(load_language_model(base[1]), tmp_path)
    with pytest.raises(ModelError, match="the layout 'huggingface' has no models of the family"):
        adapt.add_adapter(create_model("s4d_lm_test"), tmp_path)


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True, "rank_pattern": {"0.mixer.in_proj": 2}, "alpha_pattern": {"1.mixer.in_proj": 5}},
     {"use_dora": True, "target_modules": ["in_proj"]}, {"modules_to_save": ["lm_head"]}],
    ids=["lora", "patterns", "dora", "head"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning:peft")  # 0.18 says so of a head
@torch.no_grad()
def test_an_adapter_that_peft_trained_gives_the_same_logits_here(base, tmp_path, options):
    with torch.enable_grad():
        expected = trained_by_peft(base, tmp_path, **options)
    model = load_language_model(base[1])
    plain = model(TOKENS)[0]
    assert relative(plain, expected) > 1e-2
    names = set(dict(model.named_parameters()))
    adapt.load_peft(model, tmp_path)
    assert relative(model(TOKENS)[0], expected) < 1e-5
    merged = adapt.add_adapter(load_language_model(base[1]), tmp_path)
    assert relative(merged(TOKENS)[0], expected) < 1e-5 and set(dict(merged.named_parameters())) == names


def adapted_here(base, method, **options):
    torch.manual_seed(2)
    model = load_language_model(base[1]).train()
    adapted = adapt.apply(model, method, **options)
    optimizer = torch.optim.Adam(adapted.parameters(), lr=0.02)
    for _ in range(5):
        torch.nn.functional.cross_entropy(model(TOKENS)[0].flatten(0, 1), TOKENS.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted


@pytest.mark.parametrize(
    ("method", "options", "prepared"),
    [("in_proj", {"rank": 2}, False), ("in_proj+embeddings", {"rank": 40, "rslora": True}, False),
     ("in_proj", {"rank": 2, "dora": True}, False), ("projections", {"rank": 3}, True)],
)  # fmt: skip
def test_an_adapter_trained_here_gives_the_same_logits_in_peft(base, tmp_path, method, options, prepared):
    from peft import PeftModel

    adapted = adapted_here(base, method, **options)
    adapt.save_peft(adapted, tmp_path, prepared=prepared, base="owner/name")
    model = adapt.prepare(theirs(base)) if prepared else theirs(base)
    read = PeftModel.from_pretrained(model, tmp_path)
    with torch.no_grad():
        expected = adapted.model.eval()(TOKENS)[0]
        assert relative(read(input_ids=TOKENS).logits, expected) < 1e-5
        assert relative(theirs(base)(input_ids=TOKENS).logits, expected) > 1e-2
        again = adapt.load_peft(load_language_model(base[1]), tmp_path)
        assert relative(again(TOKENS)[0], expected) < 1e-5
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/name"


def test_what_peft_cannot_hold_or_would_ignore_is_refused(base, tmp_path):
    with pytest.raises(ModelError, match=r"transformers does not call .*out_proj"):
        adapt.save_peft(adapted_here(base, "out_proj", rank=2), tmp_path)
    with pytest.raises(ModelError, match="PEFT has no place for .*A_log"):
        adapt.save_peft(adapted_here(base, "in_proj+A", rank=2), tmp_path)


def test_folders_that_do_not_fit(base, tmp_path):
    trained_by_peft(base, tmp_path)
    model = load_language_model(base[1])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no adapter_model.safetensors"):
        adapt.load_peft(model, tmp_path / "x")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(ModelError, match="peft_type PREFIX_TUNING is not read; those that are: LORA, FOURIERFT, HRA"):
        adapt.load_peft(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"does not fit this model: .* \(in, out\) in the model"):
        adapt.load_peft(create_model("mamba_lm_test"), tmp_path)
