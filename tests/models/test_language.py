"""Language models: the laws, names, initial values, options, the table."""

import copy
import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import create_model, list_models
from ssmlab.models.language.language_model import LanguageConfig, last_token
from ssmlab.models.language.mamba_lm import NormedParts

SMALL = [name for name in list_models("language") if name.endswith("_test")]
LENGTH = 9
each_model = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(name, **options):
    """In float64, so that equal means equal."""
    return create_model(name, **options).double()


def tokens(batch=2, length=LENGTH):
    return torch.randint(0, 61, (batch, length))


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@each_model
def test_one_token_at_a_time_equals_whole(name):
    model, ids = build(name), tokens()
    whole, _ = model(ids)
    state, steps = None, []
    for t in range(LENGTH):
        logits, state = model(ids[:, t : t + 1], state)
        steps.append(logits)
    assert_close(torch.cat(steps, 1), whole)


@each_model
def test_halves_equal_whole_with_gradients_through_the_state(name):
    model, ids = build(name), tokens()
    whole, _ = model(ids)
    first, state = model(ids[:, :4])
    halves = torch.cat([first, model(ids[:, 4:], state)[0]], 1)
    assert_close(halves, whole)
    weight, parameters = torch.randn_like(whole), list(model.parameters())
    expected = torch.autograd.grad((whole * weight).sum(), parameters)
    assert_close(torch.autograd.grad((halves * weight).sum(), parameters), expected)


@each_model
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_equals_alone_and_is_continued(name, side):
    model, ids, later = build(name), tokens(), tokens(length=2)
    lengths = (5, 8)
    mask = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    mask = mask if side == "right" else mask.flip(1)
    logits, state = model(ids, mask=mask)
    last, _ = model(ids, mask=mask, last_only=True)
    after, _ = model(later, state)
    for row in range(2):
        own = ids[row : row + 1, mask[row]]
        alone, own_state = model(own)
        assert_close(logits[row, mask[row]], alone[0])
        assert_close(last[row], alone[0, -1:])
        assert_close(after[row], model(later[row : row + 1], own_state)[0][0])


@each_model
def test_packed_texts_equal_each_alone(name):
    model, texts = build(name), [tokens(1, length) for length in (4, 1, 5)]
    index = torch.tensor([[0] * 4 + [1] + [2] * 5])
    logits, state = model(torch.cat(texts, 1), seq_idx=index)
    alone = [model(text) for text in texts]
    assert_close(logits, torch.cat([out for out, _ in alone], 1))
    assert_close(model(tokens(1, 2) * 0, state)[0], model(tokens(1, 2) * 0, alone[-1][1])[0])


@each_model
def test_float32_is_close_to_float64(name):
    """Logits and every gradient, as ||y - y64|| / ||y64||."""
    model, ids = build(name), tokens()
    weight, found = torch.randn(2, LENGTH, 64, dtype=torch.float64)[..., :61], []
    for own in (model, copy.deepcopy(model).float()):
        logits, _ = own(ids)
        found.append((logits, *torch.autograd.grad((logits * weight).sum(), list(own.parameters()))))
    for parameter, exact, got in zip(["logits", *dict(model.named_parameters())], *found):
        assert (got - exact).norm() <= 3e-6 * exact.norm(), parameter


@each_model
def test_checkpointing_changes_no_gradient(name):
    model, ids = build(name), tokens()
    plain = torch.autograd.grad(model(ids)[0].square().sum(), list(model.parameters()))
    calls = []
    model.backbone.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.backbone.gradient_checkpointing = True
    again = torch.autograd.grad(model(ids)[0].square().sum(), list(model.parameters()))
    assert_close(again, plain)
    assert len(calls) == 2  # once more in the backward pass
    model.eval()(ids)
    assert len(calls) == 3


def test_last_only_takes_the_last_column_or_the_last_token():
    model, ids = build("mamba_lm_test"), tokens()
    assert_close(model(ids, last_only=True)[0], model(ids)[0][:, -1:])
    hidden = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]]).bool()
    assert torch.equal(last_token(hidden, mask), torch.tensor([[[3.0]], [[5.0]]]))


def test_layers_hand_on_the_branch_and_the_stream():
    """As the original's do, so that hooks by its names see its tensors."""
    model, ids, seen = build("mamba2_attention_lm_test", d_intermediate=0), tokens(), []
    for layer in model.backbone.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits, state = model(ids)
    assert torch.equal(seen[0][1], model.backbone.embedding(ids))
    assert torch.equal(seen[1][1], seen[0][0] + seen[0][1])
    hidden, residual, last = seen[2]
    assert_close(model.lm_head(model.backbone.norm_f(hidden + residual))[..., :61], logits)
    assert last is state[2]
    names = [name for name, _ in build("mamba2_attention_lm_test").backbone.layers[1].named_children()]
    assert names == ["norm", "mixer", "norm2", "mlp", "dropout"]


def test_the_head_is_tied_and_what_rounds_up_the_vocabulary_has_no_logits():
    tied, free = build("mamba_lm_test"), build("mamba_lm_test", tie_embeddings=False, vocab_size=65)
    assert tied.lm_head.weight is tied.backbone.embedding.weight
    ids = tokens()
    assert tied.config.padded_vocab == 64 and tied(ids)[0].shape == (2, LENGTH, 61)
    padded = build("mamba_lm_test", padded_logits=True)  # as the originals of published models
    padded.load_state_dict(tied.state_dict())
    assert torch.equal(padded(ids)[0][..., :61], tied(ids)[0]) and padded(ids)[0].shape[-1] == 64
    assert padded.config.logits == 64 and tied.config.logits == 61
    with torch.inference_mode():
        one, state = tied(tokens()[:, :1])
        for _ in range(3):  # the native program of one token too
            one, state = tied(tokens()[:, :1], state)
            assert one.shape == (2, 1, 61)
    assert free.lm_head.weight is not free.backbone.embedding.weight
    assert free.config.padded_vocab == 72
    assert {"lm_head.weight", "backbone.embedding.weight"} <= set(free.state_dict())


def test_initial_values_are_gpt2s():
    model = create_model("mamba2_attention_lm_test", d_model=128, attn_out_bias=True, attn_qkv_bias=True)
    torch.testing.assert_close(model.backbone.embedding.weight.std(), torch.tensor(0.02), rtol=0.05, atol=0)
    branches = 2 * 3  # block and MLP of three layers
    for layer in model.backbone.layers:
        for linear, divisor in (
            (layer.mixer.in_proj, 1),
            (layer.mixer.out_proj, branches),
            (layer.mlp.fc1, 1),
            (layer.mlp.fc2, branches),
        ):
            bound = linear.in_features**-0.5 / divisor**0.5
            assert 0.97 * bound < linear.weight.abs().max() <= bound
            assert linear.bias is None or not linear.bias.any()
    assert model.backbone.layers[1].mixer.in_proj.bias is not None
    # the step sizes keep the block's own values
    for name in ("mamba_lm_test", "mamba2_lm_test"):
        mixer = create_model(name).backbone.layers[0].mixer
        dt = nn.functional.softplus(mixer.dt_proj.bias if name == "mamba_lm_test" else mixer.dt_bias)
        assert dt.min() > 0.99e-3 and dt.max() < 0.101


def test_residual_stream_is_float32_in_a_model_of_half_precision():
    for in_fp32, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        model, seen = create_model("mamba_lm_test", residual_in_fp32=in_fp32).bfloat16(), []
        model.backbone.layers[1].register_forward_hook(lambda m, i, o, seen=seen: seen.append(o[1].dtype))
        assert model(tokens())[0].dtype == torch.bfloat16
        assert seen == [dtype]


def test_residual_dropout_acts_while_training():
    model, ids = build("transformer_lm_test", residual_dropout=0.5), tokens()
    assert not torch.equal(model(ids)[0], model(ids)[0])
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])


def test_options_change_the_network():
    ids = tokens()
    layered = build("mamba_lm_test", norm="layer", norm_eps=1e-3)
    assert isinstance(layered.backbone.norm_f, nn.LayerNorm) and layered.backbone.norm_f.eps == 1e-3
    assert layered(ids)[0].shape == (2, LENGTH, 61)
    hybrid = build("s4d_lm_test", attn_layers=[1], attn_heads=2, d_intermediate=8)
    kinds = [type(layer.mixer).__name__ for layer in hybrid.backbone.layers]
    assert kinds == ["S4D", "Attention"] and hybrid.config.attn_layers == (1,)
    assert_close(torch.cat([hybrid(ids[:, :5])[0], hybrid(ids[:, 5:], hybrid(ids[:, :5])[1])[0]], 1), hybrid(ids)[0])


def test_normed_parts_of_falcon_mamba():
    """Its test against the original is among those of the checkpoints."""
    parts = NormedParts(nn.Linear(6, 9).double(), (2, 3, 4), 1e-6)
    for part in parts(torch.randn(5, 6).double()).split((2, 3, 4), -1):
        torch.testing.assert_close(part.square().mean(-1), torch.ones(5).double(), rtol=1e-2, atol=0)
    mixer = build("mamba_lm_test", mixer_norm_eps=1e-6).backbone.layers[0].mixer
    assert mixer.x_proj.parts == (1, 4, 4)


@each_model
def test_no_weight_decay_names_the_dynamics(name):
    model = build(name)
    spared = {key.rpartition(".")[2] for key in model.no_weight_decay()}
    assert (
        spared
        == {
            "mamba_lm_test": {"A_log", "D"},
            "mamba2_lm_test": {"A_log", "D", "dt_bias"},
            "mamba2_attention_lm_test": {"A_log", "D", "dt_bias"},
            "mamba3_lm_test": {"D", "dt_bias"},
            "mamba3_mimo_lm_test": {"D", "dt_bias"},
            "s4d_lm_test": {"D", "log_dt", "log_A_real", "A_imag"},
            "transformer_lm_test": set(),
        }[name]
    )


@pytest.mark.parametrize("name", list_models("language"))
def test_every_name_builds_and_its_config_survives_json(name):
    with torch.device("meta"):
        model = create_model(name)
    assert model.registry_name == name
    again = type(model.config)(**json.loads(json.dumps(asdict(model.config))))
    assert again == model.config
    size = name.rpartition("_")[2]
    if size[0].isdigit():  # the number in the name, which is rounded, and of opponents with other layers
        millions = float(size[:-1]) * (1000 if size[-1] == "b" else 1)
        counted = sum(p.numel() for p in model.parameters()) / 1e6
        assert abs(counted / millions - 1) < 0.16, counted


def test_wrong_names_sizes_and_arguments_are_refused():
    with pytest.raises(ModelError, match="did you mean mamba_lm_130m"):
        create_model("mamba_lm_13m")
    with pytest.raises(ModelError, match="no option 'd_modle'; did you mean d_model"):
        create_model("mamba_lm_test", d_modle=3)
    for options, words in [
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"d_intermediate": -1}, "d_intermediate must not be negative"),
        ({"norm": "batch"}, "norm must be rms or layer, got 'batch'"),
        ({"residual_dropout": 1.0}, "residual_dropout must be a probability below 1"),
        ({"attn_layers": (2,)}, r"numbers from 0 to 1, got \[2\]"),
        ({"attn_layers": (0,), "attn_heads": 3}, "3 heads do not divide d_model=16"),
        ({"d_state": 0}, "d_state must be at least 1"),
    ]:
        with pytest.raises(ModelError, match=words):
            create_model("mamba_lm_test", **options)
    model, ids = build("mamba_lm_test"), tokens()
    with pytest.raises(ShapeError, match=r"input_ids\.long\(\)"):
        model(ids.float())
    with pytest.raises(ShapeError, match="the model has 2 layers, the state is of 1"):
        model(ids, model(ids)[1][:1])
    with pytest.raises(ShapeError, match="mask must have shape"):
        model(ids, mask=torch.ones(2, 3).bool())
    with pytest.raises(NotImplementedError):
        LanguageConfig()
