"""transformers' models: what is inert without preparation, and that preparation changes nothing else."""

import pytest
import torch
import transformers
from families import relative, shake

from ssmlab import adapt
from ssmlab.core.errors import ModelError

# Untied: a model that answers with the token that it reads would not miss its cache.
SIZES = {"vocab_size": 50, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "tie_word_embeddings": False}
HEADS = {"num_heads": 4, "head_dim": 16, "n_groups": 2, "expand": 2, "chunk_size": 8}
KINDS = {"Mamba": {}, "FalconMamba": {}, "Mamba2": HEADS}


def build(kind):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **KINDS[kind])
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.fixture(autouse=True)
def quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_stay(kind):
    model = build(kind)
    tokens = torch.randint(1, 50, (2, 14), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    call = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        logits, written = model(tokens, attention_mask=mask).logits, model.generate(tokens, **call)
        adapt.prepare(model)
        assert relative(model(tokens, attention_mask=mask).logits, logits) < 2e-6
        assert torch.equal(model.generate(tokens, **call), written)


@pytest.mark.parametrize("kind", ["Mamba", "FalconMamba"])
def test_dt_proj_is_inert_without_preparation(kind):
    model = build(kind)
    adapt.apply(model, "projections")
    report = adapt.check(model)
    assert report.inert == [f"backbone.layers.{i}.mixer.dt_proj.weight" for i in range(2)]
    adapt.prepare(model)
    report = adapt.check(model)
    assert not report.inert and report.merged < 2e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["projections", "all", "x_half", "additional_scan"])
def test_everything_is_reached_with_preparation(kind, method):
    model = adapt.prepare(build(kind))
    adapt.apply(model, method)
    report = adapt.check(model)
    assert not report.inert and report.merged < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_generation_sees_the_adapters(kind):
    model = adapt.prepare(build(kind))
    adapt.apply(model, "all")
    shake(model, size=0.1)
    tokens = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    call = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        assert torch.equal(model.generate(tokens, **call), model.generate(tokens, use_cache=False, **call))


def test_the_cache_is_known_by_its_type():
    """Whatever transformers calls the argument: it was `cache_params`, it is `cache`, it is given by its place too."""
    model = adapt.prepare(build("Mamba2"))
    shake(model, size=0.1)
    mixer, u = model.backbone.layers[0].mixer, torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        whole = mixer(u, attention_mask=mask)
        for name in ("cache", "cache_params", None):
            cache = transformers.DynamicCache(config=model.config)
            given = ((cache,), {}) if name is None else ((), {name: cache})
            first = mixer(u[:, :4], *given[0], *([] if name else [mask[:, :4]]), **given[1],
                          **({"attention_mask": mask[:, :4]} if name else {}))  # fmt: skip
            rest = [mixer(u[:, i : i + 1], *given[0], **given[1]) for i in (4, 5)]
            assert relative(torch.cat([first, *rest], 1), whole) < 2e-6


def test_affix_has_no_place_in_a_cache():
    model = adapt.prepare(build("Mamba"))
    adapt.apply(model, "affix")
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert model(tokens, use_cache=False).logits.shape == (1, 3, 50)
        with pytest.raises(ModelError, match="generate with use_cache=False"):
            model.generate(tokens, max_new_tokens=2)


OF_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT still asks for it


@OF_PEFT
@pytest.mark.parametrize("kind", KINDS)
def test_pefts_refusal_is_lifted_for_this_model_alone(kind):
    from peft import LoraConfig, get_peft_model

    layers = ["in_proj", "out_proj"] if kind == "Mamba2" else ["in_proj", "x_proj", "dt_proj", "out_proj"]
    config = LoraConfig(target_modules=layers)
    model = get_peft_model(adapt.prepare(build(kind)), config).train()
    report = adapt.check(model)
    assert len(report.rows) == 2 * len(layers) and not report.inert and report.merged < 2e-5
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.02 if "lora_B" in name else 0)
    model(input_ids=tokens, labels=tokens).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 4 * len(layers) and all(p.grad.abs().sum() > 0 for p in trained)
    with pytest.raises(ValueError, match="out_proj"):
        get_peft_model(build(kind), config)


@OF_PEFT
def test_models_of_peft_are_checked_too():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("Mamba"), LoraConfig(target_modules=["x_proj", "dt_proj"]))
    inert = adapt.check(model).inert
    assert len(inert) == 2 and all("dt_proj" in name for name in inert)


@OF_PEFT
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT 0.18, of a mixer's own parameters
def test_what_peft_itself_put_on_parameters_and_tokens_is_checked():
    from peft import LoraConfig, get_peft_model

    for config, tensor in (
        (LoraConfig(target_modules=["in_proj"], target_parameters=["mixer.A_log"]), "mixer.A_log"),
        (LoraConfig(target_modules=["in_proj"], trainable_token_indices=[1, 2]), "in_proj.weight"),
    ):
        report = adapt.check(get_peft_model(adapt.prepare(build("Mamba")), config))
        assert not report.inert and report.merged < 2e-5
        assert sum(row.name.endswith(tensor) for row in report.rows) == 2


def test_other_models_are_told():
    with pytest.raises(ModelError, match="has no MambaMixer"):
        adapt.prepare(torch.nn.Linear(2, 2))
