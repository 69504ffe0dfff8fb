"""Products of two smaller layers: at full rank the same function, below it within the stated error, and they reopen."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from ssmlab.adapt.factorize import factorize
from ssmlab.adapt.ranks import choose_ranks
from ssmlab.adapt.spectrum import spectra
from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError, UserError
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.models.segmentation.plans import Plan
from ssmlab.nn import Factorized, Linear2d, factorize_like_, factorized_ranks
from ssmlab.profiling import count_flops

HOW = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": ["a", "b", "c"], "channels": 3}
ALL = 10**6


def vision(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=3, image_size=32).eval()


def difference(y: torch.Tensor, other: torch.Tensor) -> float:
    return float(((y - other).abs().max() / y.abs().max()).detach())


def test_full_rank_of_a_language_model_in_float64():
    torch.manual_seed(0)
    dense = create_model("mamba_lm_test", vocab_size=50).double().eval()
    low, tokens = copy.deepcopy(dense), torch.randint(50, (2, 9))
    factorize(low, ["in_proj", "x_proj", "dt_proj", "out_proj"], rank=ALL)
    assert difference(dense(tokens)[0], low(tokens)[0]) < 1e-12


TEXTS = [
    "mamba_lm_test",
    "mamba2_lm_test",
    "mamba3_lm_test",
    "s4d_lm_test",
    "mamba2_attention_lm_test",
    "transformer_lm_test",
]
MASKS = Plan(
    patch_size=(16, 16), features=(4, 8), kernel_sizes=((3, 3),) * 2, strides=((1, 1), (2, 2)),
    n_conv_encoder=(1, 1), n_conv_decoder=(1,),
)  # fmt: skip


def any_family(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model and what it reads."""
    torch.manual_seed(0)
    if name in TEXTS:
        return create_model(name, vocab_size=50).eval(), torch.randint(50, (2, 9))
    if name == "umamba_enc":
        return create_model(name, plan=MASKS, num_classes=2).eval(), torch.randn(1, 3, 16, 16)
    return vision(name), torch.randn(2, 3, 32, 32)


def answer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    found = model(x)
    return found if isinstance(found, torch.Tensor) else found[0]


@pytest.mark.parametrize(
    "name", [*TEXTS, "umamba_enc", "vmamba_test", "mambavision_test", "medmamba_test", "vim_test", "resnet_mamba_test"]
)
def test_every_family_at_full_rank_by_energy_and_by_count(name):
    dense, x = any_family(name)
    low, y = copy.deepcopy(dense), answer(dense, x)
    replaced = factorize(low, "*", rank=ALL)
    assert replaced and difference(y, answer(low, x)) < 2e-5
    for each in replaced:
        before, after = dense.get_submodule(each.name), low.get_submodule(each.name)
        u = torch.randn(5, before.in_features)
        u = u[:, :, None, None] if isinstance(before, Linear2d) else u
        assert difference(before(u), after(u)) < 1e-6, each.name
    for energy in (0.6, 0.95):
        low = copy.deepcopy(dense)
        for each in factorize(low, "*", energy=energy):
            weight = dense.get_submodule(each.name).weight.detach().double()
            error = (weight - low.get_submodule(each.name).weight.detach().double()).square().sum()
            assert error <= (1 - energy) * weight.square().sum(), each.name
    low, inputs = copy.deepcopy(dense), x[:1]
    macs, numbers = count_flops(dense, inputs).macs, sum(p.numel() for p in dense.parameters())
    replaced = factorize(low, "*", rank=2, inputs=inputs)
    for each in replaced:
        layer = dense.get_submodule(each.name)
        assert each.parameters == each.rank * (layer.in_features + layer.out_features)
    saved = [(r.parameters - r.dense, r.positions) for r in replaced]
    assert sum(p.numel() for p in low.parameters()) == numbers + sum(count for count, _ in saved)
    assert count_flops(low, inputs).macs == macs + sum(count * positions for count, positions in saved)


def test_a_head_that_is_the_embedding_is_left_alone(tmp_path):
    model = create_model("mamba_lm_test", vocab_size=50).eval()
    assert "lm_head" not in {each.name for each in factorize(model, "*", rank=4)}
    tokens = torch.randint(50, (1, 6))
    again = load_language_model(save_language_model(model, tmp_path))
    assert torch.equal(again(tokens)[0], model(tokens)[0])
    with pytest.raises(UserError, match="has no linear layer 'lm_head'"):
        factorize(model, "lm_head", rank=4)


def test_one_token_after_the_other_is_the_whole():
    torch.manual_seed(0)
    low, tokens = create_model("mamba_lm_test", vocab_size=50).eval(), torch.randint(50, (1, 5))
    factorize(low, rank=4)
    state, found = None, []
    with torch.inference_mode():
        for token in tokens.split(1, 1):
            y, state = low(token, state)
            found.append(y)
        assert difference(low(tokens)[0], torch.cat(found, 1)) < 1e-5


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (24, 24)])
@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999, 1 - 1e-7, 1.0])
def test_energy_meets_its_error_bound(shape, energy):
    torch.manual_seed(1)
    model = nn.ModuleDict({"in_proj": nn.Linear(*shape)})
    weight = model["in_proj"].weight.detach().double()
    (replaced,) = factorize(model, energy=energy)
    kept = (model["in_proj"].P.weight.double() @ model["in_proj"].Q.weight.double()).detach()
    error = float((weight - kept).square().sum() / weight.square().sum())
    assert error <= (1 - energy if energy < 1 else 1e-13)
    assert replaced.energy == pytest.approx(1 - error, abs=1e-6)
    if replaced.rank > 1:  # one direction less would be too few
        (layer,) = spectra(nn.ModuleDict({"in_proj": _linear(weight)}), "in_proj")
        assert layer.energy(replaced.rank - 1) < energy + 1e-3


def _linear(weight):
    layer = nn.Linear(*weight.shape[::-1], bias=False)
    layer.weight.data = weight.float()
    return layer


def test_parameters_and_operations_are_r_times_m_plus_n():
    model, x = vision("vmamba_test"), torch.randn(1, 3, 32, 32)
    weights, operations = sum(p.numel() for p in model.parameters()), count_flops(model, x).macs
    replaced = factorize(model, ["in_proj", "fc1"], rank=5, residual_rank=2, inputs=x)
    for each in replaced:
        layer = model.get_submodule(each.name)
        assert each.parameters == 7 * (layer.in_features + layer.out_features)
        assert each.parameters == sum(p.numel() for n, p in layer.named_parameters() if "bias" not in n)
    assert {each.positions for each in replaced} == {64, 16}
    assert sum(p.numel() for p in model.parameters()) == weights + sum(r.parameters - r.dense for r in replaced)
    more = sum(r.positions * (r.parameters - r.dense) for r in replaced)
    assert count_flops(model, x).macs == operations + more


def test_a_budget_is_met_and_goes_where_the_energy_is():
    model, x = vision("vmamba_test"), torch.randn(1, 3, 32, 32)
    flat, steep = (model.get_submodule(f"layers.{i}.blocks.0.op.in_proj").weight for i in (0, 1))
    with torch.no_grad():
        steep.copy_(torch.outer(torch.randn(len(steep)), torch.randn(steep.shape[1])) + 1e-3 * torch.randn_like(steep))
        nn.init.orthogonal_(flat)
    layers = spectra(model, "in_proj", x)
    for share in (0.3, 0.5, 0.9):
        ranks = choose_ranks(layers, flops=share)
        spent = sum(layer.cost * rank for layer, rank in zip(layers, ranks, strict=True))
        assert spent <= share * sum(layer.dense_cost for layer in layers)
    assert choose_ranks(layers, flops=0.3)[1] == 1  # one direction holds all of the steep layer's energy
    with pytest.raises(UserError, match=r"flops=0.001 is less than rank 1 of every layer needs; give at least 0\."):
        choose_ranks(layers, flops=0.001)


def test_the_side_path_begins_with_the_next_directions_and_everything_learns():
    torch.manual_seed(0)
    model = nn.ModuleDict({"in_proj": nn.Linear(12, 20)})
    weight = model["in_proj"].weight.detach().clone()
    alone = copy.deepcopy(model)
    factorize(model, rank=3, residual_rank=2)
    factorize(alone, rank=5)
    layer = model["in_proj"]
    assert torch.allclose(layer.weight, alone["in_proj"].weight, atol=1e-6)
    assert not torch.allclose(layer.weight, weight, atol=1e-2)
    layer(torch.randn(4, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert {name for name, _ in layer.named_parameters()} == {
        "P.weight", "P.bias", "Q.weight", "side_P.weight", "side_Q.weight",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["vmamba_test", "resnet_mamba_test"])
def test_a_factorised_model_reopens_and_starts_another_training(name, tmp_path):
    model, x = vision(name), torch.randn(2, 3, 32, 32)
    factorize(model, "in_proj", rank=4, residual_rank=1)
    folder = save_model(model, tmp_path / "low", HOW)
    again, how = load_model(folder)
    assert factorized_ranks(again) == factorized_ranks(model) and how == HOW
    assert torch.equal(again(x), model(x))
    other = create_model(name, num_classes=7, image_size=32, weights=folder / "model.safetensors").eval()
    assert other(x).shape == (2, 7) and factorized_ranks(other) == factorized_ranks(model)
    key = next(iter(factorized_ranks(model)))
    assert torch.equal(other.get_submodule(key).P.weight, model.get_submodule(key).P.weight)


def test_factorised_sequence_models_reopen(tmp_path: Path):
    torch.manual_seed(0)
    model, tokens = create_model("mamba_lm_test", vocab_size=50).eval(), torch.randint(50, (2, 9))
    factorize(model, ["in_proj", "out_proj"], energy=0.8)
    again = load_language_model(save_language_model(model, tmp_path / "language"))
    assert torch.equal(again(tokens)[0], model(tokens)[0])
    classifier = SequenceClassifier(model, 2).eval()
    loaded, _ = load_model(save_model(classifier, tmp_path / "classifier", {}))
    assert torch.equal(loaded(tokens), classifier(tokens))


def test_mistakes_are_told():
    model = vision("vmamba_test")
    with pytest.raises(UserError, match=r"has no linear layer 'proj_in'; its linear layers are fc1, fc2, "):
        factorize(model, "proj_in", rank=2)
    with pytest.raises(UserError, match=r"give one of rank, energy and flops, got rank, energy"):
        factorize(model, rank=2, energy=0.5)
    with pytest.raises(UserError, match=r"energy is a share above 0 and at most 1, got 1.5"):
        factorize(model, energy=1.5)
    with pytest.raises(UserError, match="rank must be at least 1, got 0"):
        factorize(model, rank=0)
    with pytest.raises(UserError, match="residual_rank must not be negative, got -1"):
        factorize(model, rank=2, residual_rank=-1)
    with pytest.raises(ModelError, match=r"rank \+ side_rank at most 4 for 4 inputs and 8 outputs, got 3 \+ 2"):
        Factorized(4, 8, 3, side_rank=2)
    with pytest.raises(ModelError, match="has no linear layer 'stem' that could be factorised"):
        factorize_like_(model, {"stem": [2, 0]})


def test_the_projection_inside_multihead_attention_is_left_alone():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert [each.name for each in factorize(model, "*", rank=2)] == ["linear1", "linear2"]
