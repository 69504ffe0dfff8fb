"""The proof: gradients of every adapter, coverage, and models that bypass their adapters."""

import pytest
import torch
from families import BARS, LANGUAGE, VISION, batch_for, build, some_slow
from torch import nn
from torch.nn import functional as F

from ssmlab import adapt
from ssmlab.adapt.checking import adapted_tensor, shortened
from ssmlab.adapt.factorize import factorize
from ssmlab.core.errors import ModelError

METHODS = [name for name in adapt.METHODS if name not in ("mlp", "vocabulary", "z_half")]


@pytest.mark.parametrize("name", some_slow([*LANGUAGE, *VISION]))
def test_every_method_gives_every_adapter_gradient(name):
    for method in METHODS:
        if name == "mamba2_lm_test" and method in ("x_proj", "dt_proj"):
            continue  # it has neither
        if name == "resnet_mamba_test" and method == "bias":
            continue  # the last norm of an untrained residual block multiplies by zero what the biases before it add
        model = build(name)
        adapted = adapt.apply(model, method)
        report = adapt.check(model)
        assert not report.inert, (method, report.inert)
        assert {row.name for row in report.rows} <= set(adapted.adapted), method
        assert report.merged is None or report.merged <= 2e-5, method
        assert all(row.merged is None or row.merged <= 1e-6 for row in report.rows), method
        assert report.trainable == adapted.trainable


@pytest.mark.parametrize("name", some_slow(BARS))
def test_each_layer_merges_to_rounding_in_float64(name):
    model = build(name).double()
    adapt.apply(model, "projections")
    report = adapt.check(model)
    assert report.merged <= 1e-12 and all(row.merged is None or row.merged <= 1e-12 for row in report.rows)


class Bypassing(nn.Module):
    """A block that calls one layer and multiplies by the weight of another itself."""

    def __init__(self, d: int = 8):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.x_proj = nn.Linear(d, d)

    def forward(self, u):
        x = F.linear(self.in_proj(u), self.x_proj.weight)
        return F.linear(x, self.out_proj.weight, self.out_proj.bias)


def test_bypassed_adapters_are_caught_by_name():
    model = nn.Sequential(Bypassing(), Bypassing())
    adapt.apply(model, "in_proj+out_proj+x_proj")
    report = adapt.check(model, torch.randn(3, 8))
    assert sorted(report.inert) == ["0.out_proj.weight", "0.x_proj.weight", "1.out_proj.weight", "1.x_proj.weight"]
    assert report.merged > 1e-3  # and merging would change the outputs
    with pytest.raises(ModelError, match=r"4 of 6 adapters receive no gradient: 0\.out_proj\.weight, 0\.x_proj"):
        report.raise_for_inert()


class Twice(nn.Module):
    """A forward that calls its layer for one half of its answer, and reads the layer's weight for the other."""

    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, u):
        return self.out_proj(self.in_proj(u) + F.linear(u, self.in_proj.weight))


def test_a_layer_that_is_called_and_bypassed_is_caught_by_merging():
    model = nn.Sequential(Twice())
    adapt.apply(model, "in_proj")
    report = adapt.check(model, torch.randn(3, 8))
    assert not report.inert and report.merged > 1e-3
    with pytest.raises(ModelError, match=r"merged and unmerged outputs differ: the model by .* of which rounding"):
        report.raise_for_inert()
    adapt.check(build("mamba_lm_test").to(torch.bfloat16).requires_grad_(True)).raise_for_inert()


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 3.5e-4), (torch.bfloat16, 0.089), (torch.float64, 1.5e-8)]
)
def test_the_limit_of_merging_follows_the_coarsest_dtype(dtype, limit):
    model = build("mamba_lm_test").to(dtype)
    adapt.apply(model, "projections")
    assert adapt.check(model).limit == pytest.approx(limit, rel=0.02)


@pytest.mark.parametrize("fault", [lambda y: 0 * y, lambda y: y.detach()])
def test_an_adapter_whose_output_is_lost_is_caught(fault):
    model = build("vmamba_test")
    adapt.apply(model, "out_proj+conv")
    layer = model.layers[1].blocks[0].op.out_proj
    updated = layer.parametrizations.weight[0] if hasattr(layer, "parametrizations") else layer.lora_B["default"]
    updated.register_forward_hook(
        lambda module, inputs, y: inputs[0] + fault(y - inputs[0]) if hasattr(layer, "parametrizations") else fault(y)
    )
    report = adapt.check(model)
    assert report.inert == ["layers.1.blocks.0.op.out_proj.weight"]
    with pytest.raises(ModelError, match="1 of 4 adapters receive no gradient"):
        report.raise_for_inert()


def test_the_check_needs_no_gradient_around_it():
    model = build("mamba_lm_test")
    adapt.apply(model, "projections")
    with torch.no_grad():
        adapt.check(model).raise_for_inert()


def test_models_of_peft_are_not_adapted_twice():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(nn.Sequential(Bypassing()), LoraConfig(target_modules=["in_proj"]))
    with pytest.raises(ModelError, match=r"has adapters of PEFT; give what model.merge_and_unload\(\) returns"):
        adapt.apply(model, "x_proj")
    with pytest.raises(ModelError, match="has adapters of PEFT"):
        adapt.apply(model.get_base_model(), "x_proj")
    with pytest.raises(ModelError, match="has adapters of PEFT, not of adapt.apply"):
        adapt.merge(model)
    adapt.apply(model.merge_and_unload(), "in_proj")


def test_an_update_of_the_weight_itself_cannot_be_bypassed():
    model = nn.Sequential(Bypassing())
    adapt.apply(model, "bias")
    assert adapt.check(model, torch.randn(3, 8)).inert == ["0.x_proj.bias"]  # which that forward never reads


def test_the_check_leaves_the_model_as_it_was():
    model = build("mambavision_test").train()
    adapt.apply(model, "all", dropout=0.5)
    model.get_submodule("levels").eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    adapt.check(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        model.eval()(batch_for("mambavision_test"))


def test_coverage_counts_layers_and_numbers():
    model = build("mamba_lm_test")
    adapt.apply(model, "in_proj")
    report = adapt.check(model)
    layers = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    inside = sum(layer.mixer.in_proj.weight.numel() for layer in model.backbone.layers)
    total = sum(p.numel() for p in build("mamba_lm_test").parameters())
    # the head shares its tensor with the embedding, and PEFT's layers hold matrices of their own
    assert report.layers[0] == 2 and report.layers[1] < len(layers)
    assert report.parameters == (inside, total)


def test_a_task_and_its_batch():
    from ssmlab.tasks.language.task import Language

    model = build("mamba_lm_test")
    adapt.apply(model, "projections")
    tokens = batch_for("mamba_lm_test")
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}
    report = adapt.check(model, batch, task=Language(vocab_size=40))
    assert not report.inert and report.merged < 2e-5


def test_a_loss_that_ignores_a_part_makes_it_inert():
    class FirstHalf:
        def loss(self, model, batch):
            return model[0](batch).sum(), model[0](batch)

    model = nn.Sequential(Bypassing(), Bypassing())
    adapt.apply(model, "in_proj")
    assert adapt.check(model, torch.randn(3, 8), task=FirstHalf()).inert == ["1.in_proj.weight"]


def test_what_cannot_be_checked_is_told():
    with pytest.raises(ModelError, match="has no adapters"):
        adapt.check(build("mamba_lm_test").requires_grad_(False))
    model = nn.Sequential(Bypassing())
    adapt.apply(model, "in_proj")
    with pytest.raises(ModelError, match="give check a batch"):
        adapt.check(model)


def test_names():
    name = "a.0.in_proj.lora_A.default.weight"
    assert adapted_tensor(name) == "a.0.in_proj.weight"
    assert adapted_tensor("a.dt_proj.base_layer.parametrizations.bias.0.delta") == "a.dt_proj.bias"
    assert adapted_tensor("parametrizations.A_log.0.B") == "A_log"
    assert shortened([f"layers.{i}.x_proj.weight" for i in range(24)]) == "layers.*.x_proj.weight (24)"


def test_a_model_that_bypasses_every_adapter_is_told():
    model = build("mamba_lm_test")
    adapt.apply(model, "in_proj")
    for layer in model.backbone.layers:
        wrapped = layer.mixer.in_proj
        wrapped.forward = wrapped.base_layer.forward
    report = adapt.check(model)
    assert len(report.inert) == len(report.rows) == 2 and report.layers[0] == report.parameters[0] == 0


def test_an_adapter_that_is_switched_off_is_inert():
    model = build("mamba_lm_test")
    adapt.apply(model, "projections")
    numbers = adapt.check(model).parameters[1]
    model.backbone.layers[1].mixer.x_proj.enable_adapters(False)
    report = adapt.check(model)
    assert report.inert == ["backbone.layers.1.mixer.x_proj.weight"] and report.parameters[1] == numbers


@pytest.mark.parametrize("method", ["projections", "x_half", "all", "bias"])
@pytest.mark.parametrize("name", ["mamba_lm_test", "mamba2_lm_test", "vmamba_test"])
def test_a_factorised_layer_is_adapted_in_its_factors(name, method):
    model = build(name)
    factorize(model, "in_proj", rank=4)
    adapt.apply(model, method)
    report = adapt.check(model)
    assert not report.inert and report.merged <= 2e-5
    if method != "bias":
        assert any(row.name.endswith("in_proj.P.weight") for row in report.rows)
