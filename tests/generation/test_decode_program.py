"""One token as one native call: the numbers of the modules called one by one, and who must not get it."""

import copy

import pytest
import torch
from torch import nn

from ssmlab.generation import decode_program
from ssmlab.models import create_model
from ssmlab.models.language.language_model import Backbone, Layer
from ssmlab.nn import quantize_linear_
from ssmlab.ops import _native
from ssmlab.ops.steps import FEW

pytestmark = pytest.mark.skipif(_native.LIBRARY is None, reason="needs the native library")
MODELS = [
    ("mamba_lm_test", {}),
    ("mamba_lm_test", {"bias": True, "d_conv": 1, "d_state": 5, "conv_bias": False, "tie_embeddings": False}),
    ("mamba_lm_test", {"d_state": 16, "d_model": 24, "dt_rank": 3}),
    ("mamba2_lm_test", {}),
    ("mamba2_lm_test", {"ngroups": 2, "d_state": 17, "bias": True}),
]


def made(name="mamba_lm_test", dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = create_model(name, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains away from 0 and 1
            parameter += 0.1 * torch.randn_like(parameter)
    return model.to(dtype)


def relative(got, expected):
    return ((got - expected).double().norm() / expected.double().norm().clamp(min=1e-30)).item()


@torch.no_grad()
def both(model, rows=2):
    """Logits and states of one token, in one call and module by module; None where the one call refuses."""
    ids = torch.randint(0, 50, (rows, 6))
    _, state = model(ids[:, :5])
    one = decode_program.step(model, ids[:, 5:], state, (Backbone, Layer))
    return one, model.backbone(model.backbone.embedding(ids[:, 5:]), state), ids


@pytest.mark.parametrize("rows", [1, 3, FEW])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
def test_the_numbers_are_those_of_the_modules(name, options, dtype, bound, rows):
    model = made(name, dtype, **options)
    (logits, states), (hidden, expected), _ = both(model, rows)
    assert logits.dtype is dtype
    with torch.no_grad():
        assert relative(logits, model.lm_head(hidden)) < bound
    for own, other in zip(states, expected, strict=True):
        assert type(own) is type(other)
        for part, wanted in zip(own, other, strict=True):
            assert part.dtype is wanted.dtype
            assert part.shape == wanted.shape
            assert relative(part, wanted) < bound


def test_int8_weights_too():
    model = quantize_linear_(made(d_model=32))
    (logits, _), (hidden, _), _ = both(model)
    with torch.no_grad():
        assert relative(logits, model.lm_head(hidden)) < 1e-6


def test_the_state_that_goes_in_stays():
    model = made()
    with torch.no_grad():
        _, state = model(torch.arange(5)[None])
        kept = copy.deepcopy(state)
        once, after = model(torch.tensor([[3]]), state)
        again, _ = model(torch.tensor([[3]]), state)
        model(torch.tensor([[4]]), after)
    assert torch.equal(once, again)
    for own, was in zip(state, kept, strict=True):
        assert torch.equal(own.conv, was.conv)
        assert torch.equal(own.ssm, was.ssm)


def wrap(model):
    mixer = model.backbone.layers[0].mixer
    mixer.out_proj = nn.Sequential(mixer.out_proj)


def hook(model):
    model.backbone.layers[1].mixer.register_forward_hook(lambda *_: None)


def replace_forward(model):
    model.backbone.layers[1].forward = model.backbone.layers[1].forward


def drop(model):
    model.train()
    model.backbone.layers[0].dropout.p = 0.5


@pytest.mark.parametrize("change", [wrap, hook, replace_forward, drop])
def test_what_was_changed_is_called_module_by_module(change):
    model = made()
    assert both(model)[0] is not None
    change(model)
    assert both(model)[0] is None


@pytest.mark.parametrize(
    ("name", "options"),
    [("mamba_lm_test", {"init": "lin"}), ("mamba_lm_test", {"norm": "layer"}), ("mamba_lm_test", {"d_intermediate": 8}),
     ("mamba_lm_test", {"mixer_norm_eps": 1e-6}), ("mamba2_attention_lm_test", {}), ("s4d_lm_test", {}),
     ("mamba2_lm_test", {"norm_before_gate": True}), ("mamba2_lm_test", {"dt_limit": (0.0, 0.1)})],
    ids=str,
)  # fmt: skip
def test_other_models_are_called_module_by_module(name, options):
    model = made(name, **options)
    assert both(model)[0] is None
    whole = torch.arange(6)[None]
    with torch.no_grad():
        expected, _ = model(whole)
        _, state = model(whole[:, :5])
        got, _ = model(whole[:, 5:], state)
    assert relative(got[:, 0], expected[:, 5]) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", [lambda p: p.mul_(1.5), lambda p: p.data.mul_(1.5)], ids=["", "data"])
@pytest.mark.parametrize("name", ["A_log", "D", "in_proj.weight", "conv1d.bias", "conv1d.weight", "dt_bias", "norm"])
def test_changed_weights_are_seen_between_two_tokens(name, how, dtype):
    model = made("mamba2_lm_test", dtype)
    layer = model.backbone.layers[0]
    parameter = layer.norm.weight if name == "norm" else layer.mixer.get_parameter(name)
    with torch.no_grad():
        _, state = model(torch.arange(5)[None])
        before, _ = model(torch.tensor([[3]]), state)
        how(parameter)
        after, _ = model(torch.tensor([[3]]), state)
        decode_program._programs[model] = None
        expected, _ = model(torch.tensor([[3]]), state)
    assert relative(after, expected) < (1e-6 if dtype is torch.float32 else 2e-2)
    assert relative(before, expected) > 1e-4


def test_training_and_gradients_take_the_modules():
    model = made()
    with torch.no_grad():
        _, state = model(torch.arange(5)[None])
    logits, _ = model(torch.tensor([[3]]), state)
    assert logits.requires_grad


def test_a_model_can_be_copied_and_forgotten():
    model = made()
    both(model)
    copied = copy.deepcopy(model)
    assert both(copied)[0] is not None
    held = len(decode_program._programs)
    del model, copied
    assert len(decode_program._programs) < held
