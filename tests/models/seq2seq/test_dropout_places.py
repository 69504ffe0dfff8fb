"""Places of dropout: each acts where it says, while training alone, and 0 is as if it were not there."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.language.tokens import Dropout
from ssmlab.models.registry import FAMILIES
from ssmlab.models.seq2seq.encoder_decoder import Branch, EncoderDecoder
from ssmlab.nn import BiMamba, Mamba

NAMES = [f"{family.name}_test" for family in FAMILIES if family.kind == "translation"]
PLACES = ("embedding", "branch", "skip", "inner", "attention")
NOWHERE = {("translation_mamba_test", "attention"), ("translation_mamba2_test", "attention")}
every_model = pytest.mark.parametrize("name", NAMES)


def build(name, **options):
    torch.manual_seed(0)
    return create_model(name, **options)


def logits(model, seed=0):
    random = torch.Generator().manual_seed(1)
    source, target = (torch.randint(3, 61, (2, length), generator=random) for length in (9, 7))
    torch.manual_seed(seed)
    return model(target, model.read_source(source))[0]


@every_model
@pytest.mark.parametrize("place", PLACES)
def test_a_place_acts_while_training_alone(name, place):
    options = {f"dropout_{place}": 0.5}
    if (name, place) in NOWHERE:
        with pytest.raises(ModelError, match=f"dropout_{place}=0.5 acts nowhere in a model of Mamba"):
            build(name, **options)
        return
    plain, model = build(name), build(name, **options)
    assert [key for key, _ in plain.named_parameters()] == [key for key, _ in model.named_parameters()]
    assert torch.equal(logits(model.eval()), logits(plain.eval()))
    assert not torch.equal(logits(model.train()), logits(plain.train()))
    assert not torch.equal(logits(model, 1), logits(model, 2))
    assert torch.equal(logits(model, 1), logits(model, 1))


@every_model
def test_zero_is_as_if_it_were_not_there(name):
    zero = build(name, **{f"dropout_{place}": 0.0 for place in PLACES})
    assert torch.equal(logits(zero.train()), logits(build(name).train()))
    state = torch.get_rng_state()
    logits(zero, 5)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5))), "nothing was drawn"
    torch.set_rng_state(state)


@every_model
def test_the_branch_is_residual_dropout_by_another_name(name):
    one, other = build(name, dropout_branch=0.25), build(name, residual_dropout=0.25)
    assert one.config == other.config and one.config.dropout == Dropout(branch=0.25)
    with pytest.raises(ModelError, match="are one place; give one of them"):
        build(name, residual_dropout=0.1, dropout_branch=0.2)


@every_model
@pytest.mark.parametrize("place", PLACES)
def test_a_probability_is_below_one(name, place):
    with pytest.raises(ModelError, match="must be a probability below 1, got 1.0"):
        build(name, **{f"dropout_{place}": 1.0})


@pytest.mark.parametrize("post_norm", [False, True])
def test_skip_is_on_the_identity_path_and_branch_on_the_other(post_norm):
    """x becomes skip(x) + branch(block(x)), and the block reads x as it was."""
    config = build("translation_transformer_test", dropout_skip=0.5, dropout_branch=0.25, post_norm=post_norm).config
    seen = []

    class Block(nn.Module):
        def forward(self, x):
            seen.append(x)
            return 3 * torch.ones_like(x)

    branch, x = Branch(config, Block()).train(), torch.ones(64, 8, 16)
    branch.norm = nn.Identity()
    branch.norm.weight = x
    y, _ = branch(x)
    assert torch.equal(seen[0], x)
    assert set(y.unique().tolist()) == {0.0, 2.0, 4.0, 6.0}  # skip gives 0 or 1 / .5, the branch 0 or 3 / .75
    assert float((y % 4 == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((y < 4).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_skip_of_a_language_model_drops_the_stream_before_every_branch_is_added():
    """With branches of zero a value of the embedding is left with probability (1 - p)^n, scaled up."""
    model = build("translation_decoder_test", dropout_skip=0.5, n_layer=2, norm="rms").train()
    for layer in model.backbone.layers:
        for linear in (layer.mixer.out_proj, layer.mlp.fc2):
            nn.init.zeros_(linear.weight)
    model.backbone.norm_f = nn.Identity()
    model.backbone.norm_f.weight = model.lm_head.weight
    y, _ = model.backbone(torch.ones(64, 32, 16))
    assert set(y.unique().tolist()) == {0.0, 16.0}
    assert float((y > 0).float().mean()) == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.parametrize("kind", [Mamba, BiMamba])
def test_inner_stands_before_the_last_projection(kind):
    torch.manual_seed(0)
    block, u, seen = kind(16, inner_dropout=0.5).train(), torch.randn(4, 8, 16), []
    block.out_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    y, _ = block(u)
    assert float((seen[0] == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(y, F.linear(seen[0], block.out_proj.weight))
    block.eval()(u)
    assert not (seen[1] == 0).any()


def test_states_are_not_dropped():
    """Neither the step size nor what a model remembers of the inputs that it was given depends on inner dropout."""
    model, plain = (
        build("translation_mamba_test", dropout_inner=0.5, n_layer=1),
        build("translation_mamba_test", n_layer=1),
    )
    source = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))
    for one, other in zip(model.train().read_source(source)[0], plain.read_source(source)[0]):
        assert torch.equal(one, other)


def test_an_encoder_decoder_says_where_nothing_would_act():
    assert isinstance(build("translation_mamba_encdec_test", dropout_attention=0.1), EncoderDecoder)
    with pytest.raises(ModelError, match="dropout_inner=0.1 acts nowhere in a model of S4D blocks"):
        build("s4d_lm_test", dropout_inner=0.1)
