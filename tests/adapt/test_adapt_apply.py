"""What is adapted, and merging; that every preset trains on every family is in test_adapt_families."""

import copy

import pytest
import torch
from families import BARS, LANGUAGE, VISION, batch_for, build, output, relative, shake, some_slow

from ssmlab import adapt
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.nn import Linear

PRESETS = ("projections", "state_transition", "embeddings", "all", "x_half", "dora", "rslora")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", some_slow(BARS))
def test_merged_equals_unmerged(name, preset):
    for dtype, bar in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        model = build(name).to(dtype).eval()
        names = sorted(model.state_dict())
        adapt.apply(model, preset)
        shake(model)
        batch = batch_for(name)
        batch = batch if name in LANGUAGE else batch.to(dtype)
        with torch.no_grad():
            expected = output(model, batch)
            merged = adapt.merge(copy.deepcopy(model))
            assert relative(output(merged, batch), expected) <= bar
            assert torch.equal(output(model, batch), expected)  # merging a copy leaves the model as it is
        assert sorted(merged.state_dict()) == names
        assert all(type(a) is type(b) for a, b in zip(merged.modules(), build(name).modules(), strict=True))


@pytest.mark.parametrize("name", some_slow([*LANGUAGE, *VISION]))
def test_an_adapter_starts_at_the_base(name):
    model, batch = build(name).eval(), batch_for(name)
    with torch.no_grad():
        expected = output(model, batch)
        adapt.apply(model, "all")
        torch.testing.assert_close(output(model, batch), expected, rtol=0, atol=1e-6)


def test_a_slice_changes_its_own_rows_only():
    model = build("mamba_lm_test")
    layer = model.backbone.layers[0].mixer.in_proj
    before = layer.weight.detach().clone()
    adapt.apply(model, "x_half")
    shake(model)
    changed = (layer.weight != before).any(1)
    half = len(before) // 2
    assert changed[:half].all() and not changed[half:].any()


@pytest.mark.parametrize("part", ["dt_part", "B_part", "C_part"])
def test_the_parts_of_mamba_2_are_rows_of_in_proj(part):
    model = build("mamba2_lm_test")
    mixer = model.backbone.layers[0].mixer
    before = mixer.in_proj.weight.detach().clone()
    adapt.apply(model, part)
    shake(model)
    rows = (mixer.in_proj.weight != before).any(1).nonzero().flatten()
    n, h = mixer.ngroups * mixer.d_state, mixer.nheads
    end = len(before)
    expected = {"dt_part": (end - h, end), "C_part": (end - h - n, end - h), "B_part": (end - h - 2 * n, end - h - n)}
    assert (rows[0].item(), rows[-1].item() + 1) == expected[part]


def test_tied_embeddings_stay_tied():
    model = build("mamba_lm_test")
    adapt.apply(model, "embeddings")
    shake(model)
    assert torch.equal(model.backbone.embedding.weight, model.lm_head.weight)
    adapt.merge(model)
    assert model.backbone.embedding.weight is model.lm_head.weight


@pytest.mark.parametrize("method", ["x_half+vocabulary", "all+vocabulary"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_vocabulary_grows_and_the_old_rows_stay(tied, method):
    model = create_model("mamba_lm_test", vocab_size=40, tie_embeddings=tied).eval()
    old = torch.arange(40)
    rows = model.backbone.embedding(old).detach()
    adapt.apply(model, method, vocab_size=60)
    adapt.check(model).raise_for_inert()
    shake(model)
    tokens = torch.tensor([[1, 45, 59]])
    expected = model(tokens)[0]
    assert expected.shape[-1] == 60 and model.config.padded_vocab == 64
    assert torch.equal(model.backbone.embedding(old), rows) == (method == "x_half+vocabulary")
    adapt.merge(model)
    assert (model.backbone.embedding.weight is model.lm_head.weight) == tied and model.config.vocab_size == 60
    assert relative(model(tokens)[0], expected) < 2e-5


def test_a_new_head_is_trained_whole():
    model = build("vmamba_test")
    adapt.apply(model, "all+head")
    head = model.get_classifier()
    assert type(head) is Linear and head.weight.requires_grad and head.bias.requires_grad


def test_what_is_named_is_trained_whole():
    model = build("resnet_mamba_test")
    adapt.apply(model, "x_half", train=("head",))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"head.hidden.weight", "head.norm.bias", "head.classifier.weight"} <= trained


def test_generation_sees_the_adapters():
    """A token at a time, by the fast path, is what the whole sequence gives."""
    for name in LANGUAGE:
        for method in ("all", "x_half", "state_offset_h", "additional_scan", "affix", "sparse_dimensions"):
            model = build(name).eval()
            adapt.apply(model, method)
            shake(model, size=0.2)
            tokens = batch_for(name)
            with torch.no_grad():
                whole = model(tokens)[0]
                found, state = model(tokens[:, :5])
                parts = [found]
                for i in range(5, tokens.shape[1]):
                    found, state = model(tokens[:, i : i + 1], state)
                    parts.append(found)
            assert relative(torch.cat(parts, 1), whole) < 2e-5, (name, method)


@pytest.mark.parametrize("name", ["mamba_lm_test", "mamba2_lm_test", "vmamba_test"])
def test_adapters_off_is_the_base(name):
    model, batch = build(name).eval(), batch_for(name)
    with torch.no_grad():
        base = output(model, batch)
        adapt.apply(model, "all+state_offset_h" if name != "mamba2_lm_test" else "in_proj+additional_scan")
        shake(model)
        adapted = output(model, batch)
        with adapt.disabled(model):
            assert torch.equal(output(model, batch), base)
        assert torch.equal(output(model, batch), adapted) and not torch.equal(adapted, base)
    assert all(p.requires_grad for n, p in model.named_parameters() if ".lora_" in n)


def test_mistakes_are_told():
    with pytest.raises(ModelError, match="did you mean projections"):
        adapt.apply(build("mamba_lm_test"), "projection")
    with pytest.raises(ModelError, match="has no A, D, dt_bias"):
        adapt.apply(build_vit(), "state_transition")
    with pytest.raises(ModelError, match="unknown option 'ranks'"):
        adapt.apply(build("mamba_lm_test"), "all", ranks=3)
    with pytest.raises(ModelError, match="rank must be at least 1"):
        adapt.apply(build("mamba_lm_test"), "all", rank=0)
    model = build("mamba_lm_test")
    adapt.apply(model, "affix")
    with pytest.raises(ModelError, match="has adapters already"):
        adapt.apply(model, "all")
    with pytest.raises(ModelError, match="cannot be merged"):
        adapt.merge(model)
    with pytest.raises(ModelError, match="has no adapters"):
        adapt.merge(build("mamba_lm_test"))


def build_vit():
    from ssmlab.models import create_model

    return create_model("timm/test_vit", num_classes=5)


def test_a_transformer_is_a_baseline():
    model = build_vit().eval()
    adapt.apply(model, "projections")
    report = adapt.check(model)
    assert len(report.rows) == 12 and not report.inert and report.merged < 2e-5


@pytest.mark.parametrize("name", ["s4d_lm_test", "mamba3_lm_test", "mamba2_attention_lm_test", "transformer_lm_test"])
def test_other_language_models(name):
    torch.manual_seed(0)
    model = create_model(name, vocab_size=40)
    adapt.apply(model, "projections+embeddings")
    report = adapt.check(model)
    report.raise_for_inert()
    assert report.merged < 2e-5


def test_half_precision_bases_keep_adapters_in_float32():
    model = build("mamba_lm_test").to(torch.bfloat16)
    adapt.apply(model, "all")
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    adapt.check(model).raise_for_inert()


def test_gradient_checkpointing_gives_the_same_gradients():
    for name in ("mamba_lm_test", "vmamba_test"):
        model, batch = build(name), batch_for(name)
        adapt.apply(model, "all")
        shake(model)
        found = []
        for again in (False, True):
            for module in model.modules():
                for attribute in ("gradient_checkpointing", "grad_checkpointing"):
                    if hasattr(module, attribute):
                        setattr(module, attribute, again)
            torch.manual_seed(0)
            parameters = [p for p in model.parameters() if p.requires_grad]
            found.append(torch.autograd.grad(output(model.train(), batch).square().mean(), parameters))
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-8) for a, b in zip(*found, strict=True))


def test_a_model_that_was_decoding_sees_the_adapters():
    """What decoding keeps from token to token is thrown away."""
    model = build("mamba_lm_test").eval()
    tokens = batch_for("mamba_lm_test")
    for method in ("A", "D", "conv", "dt_bias", "x_half"):
        with torch.no_grad():
            _, state = model(tokens[:, :1])
            for i in range(1, 4):
                _, state = model(tokens[:, i : i + 1], state)
            base, _ = model(tokens[:, 4:5], state)
            adapt.apply(model, method)
            shake(model, size=0.5)
            found, _ = model(tokens[:, 4:5], state)
            expected, _ = model(tokens[:, 4:6], state)
            assert not torch.equal(found, base)
            assert relative(found, expected[:, :1]) < 1e-5, method
            adapt.merge(model)
            assert relative(model(tokens[:, 4:5], state)[0], found) < 1e-5, method
