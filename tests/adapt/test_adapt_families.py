"""Every family under every preset, as somebody would measure it who wants to find a fault."""

import copy

import pytest
import torch
from families import BARS, relative, shake

from ssmlab import adapt
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.segmentation.plans import Plan

PRESETS = ("projections", "state_transition", "embeddings", "all", "x_half")
OTHERS = ("dora", "rslora")
TEXTS = ("mamba_lm_test", "mamba2_lm_test", "mamba3_lm_test", "mamba3_mimo_lm_test", "s4d_lm_test")
IMAGES = ("vmamba_test", "mambavision_test", "medmamba_test", "vim_test", "resnet_mamba_test")
MASKS = ("umamba_bot", "umamba_enc")
PLAN = Plan(
    patch_size=(16, 16),
    features=(4, 8, 16),
    kernel_sizes=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (2, 2)),
    n_conv_encoder=(2, 2, 2),
    n_conv_decoder=(2, 2),
)


def build(name):
    torch.manual_seed(0)
    if name in TEXTS:
        return create_model(name, vocab_size=40).eval()
    if name in MASKS:
        return create_model(name, plan=PLAN, num_classes=2).eval()
    return create_model(name, num_classes=5, image_size=32).eval()


def batch_for(name, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    if name in TEXTS:
        return torch.randint(0, 40, (3, 12), generator=generator)
    return torch.randn(3, 3, *((16, 16) if name in MASKS else (32, 32)), generator=generator).to(dtype)


def output(model, batch):
    found = model(batch)
    while not isinstance(found, torch.Tensor):
        found = found[0]
    return found


def layers_apart(report):
    return max((row.merged for row in report.rows if row.merged is not None), default=0.0)


def presets_of(name):
    if name in MASKS:
        return [preset for preset in PRESETS if preset != "embeddings"]
    return PRESETS + OTHERS if name in BARS else PRESETS


QUICK = ("mamba_lm_test", "mamba2_lm_test", "vmamba_test", "umamba_bot")
CASES = [
    pytest.param(name, preset, marks=() if name in QUICK else pytest.mark.slow)
    for name in (*TEXTS, *IMAGES, *MASKS)
    for preset in presets_of(name)
]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_it_trains_everywhere_keeps_the_base_loads_and_merges(name, preset, tmp_path):
    model, batch = build(name), batch_for(name)
    before = copy.deepcopy(model.state_dict())
    adapt.apply(model, preset)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    optimizer, reached = torch.optim.Adam(trained.values(), 0.01), set()
    target = torch.randn(output(model, batch).shape, generator=torch.Generator().manual_seed(3))
    losses = []
    for _ in range(3):
        loss = (output(model, batch) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        reached |= {key for key, p in trained.items() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
        losses.append(loss.item())
    assert reached == trained.keys() and losses[-1] < losses[0]
    kept = adapt.base_state(model) | {key: buffer for key, buffer in model.named_buffers() if key in before}
    assert all(torch.equal(tensor, before[key]) for key, tensor in kept.items())
    with torch.no_grad():
        expected = output(model, batch)
        adapt.load(again := build(name), adapt.save(model, tmp_path))
        assert torch.equal(output(again, batch), expected)
        report = adapt.check(model, batch)
        report.raise_for_inert()
        assert layers_apart(report) <= 1e-6 and relative(output(adapt.merge(model), batch), expected) <= 2e-5
    assert sorted(model.state_dict()) == sorted(before)


# of the others see test_adapt_apply
@pytest.mark.parametrize(("name", "preset"), [case for case in CASES if case.values[0] not in BARS])
def test_it_merges_to_rounding_in_float64(name, preset):
    model, batch = build(name).double(), batch_for(name, torch.float64)
    adapt.apply(model, preset)
    shake(model)
    with torch.no_grad():
        expected = output(model, batch)
        assert layers_apart(adapt.check(model, batch)) <= 1e-12
        assert relative(output(adapt.merge(model), batch), expected) <= 1e-12


@pytest.mark.parametrize("name", ["mamba3_lm_test", "s4d_lm_test", "umamba_bot"])
def test_a_method_acts_or_is_refused(name):
    """No method may go through and do nothing."""
    acting, reasons = set(), []
    for method in adapt.METHODS:
        model = build(name)
        try:
            adapt.apply(model, method, **({"vocab_size": 60} if method == "vocabulary" else {}))
        except ModelError as refused:
            reasons.append(str(refused))
            continue
        adapt.check(model, batch_for(name)).raise_for_inert()
        acting.add(method)
    assert {"projections", "all", "in_proj", "out_proj", "x_half", "D"} <= acting
    assert all(reason.startswith("method '") for reason in reasons)
