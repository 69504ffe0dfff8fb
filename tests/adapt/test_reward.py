"""The reward term: texts that the network writes, a reward that rises, and a base that is not left."""

import copy

import pytest
import torch
from torch import nn

from ssmlab import adapt
from ssmlab.adapt.forgetting.reward import Reward, load_score
from ssmlab.adapt.forgetting.terms import NextToken, SwappedHeads
from ssmlab.core.errors import UserError
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier

V = 30


def odd(tokens, prompt):
    """20 times the share of odd tokens behind the prompt."""
    return (tokens[:, prompt:] % 2).float().mean(1) * 20


def inputs(batch):
    return (batch["tokens"],), {}, batch.get("mask")


@pytest.fixture
def base():
    torch.manual_seed(0)
    return create_model("mamba_lm_test", vocab_size=V).eval().requires_grad_(False)


def term(network, base, score=None, **options):
    return Reward(SwappedHeads(network, {}), SwappedHeads(base, {}), inputs, V, score, **options)


def test_the_reward_rises_through_adapters_and_the_base_pulls_back(base):
    network, batch = copy.deepcopy(base), {"tokens": torch.randint(V, (16, 8)), "labels": torch.zeros(16)}
    adapt.apply(network, "all", rank=4)
    options = {"rows": 16, "prompt": 3, "tokens": 6}
    rewarded, held = term(network, base, odd, beta=0.1, **options), term(network, base, **options)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.05)

    def learn(remedy, steps):
        with torch.no_grad():
            share = odd(remedy.write(batch["tokens"][:, :3].repeat(8, 1)), 3).mean().item() / 20
        for _ in range(steps):
            optimizer.zero_grad()
            remedy(network.train(), batch).backward()
            optimizer.step()
        return share

    before, after = learn(rewarded, 12), learn(rewarded, 0)
    assert before < 0.6 and after > 0.9
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    learn(held, 30)
    assert learn(held, 0) < 0.75  # without a reward the texts become the base's again


def test_the_gradient_is_that_of_the_objective(base):
    """Over all continuations of one token: the mean of the estimates is the gradient of J, written out."""
    network = copy.deepcopy(base)
    with torch.no_grad():
        network.lm_head.weight.add_(0.3 * torch.randn_like(network.lm_head.weight))
    network.requires_grad_(False).backbone.norm_f.weight.requires_grad_(True)
    prompt, weight = torch.tensor([[1, 2]]), network.backbone.norm_f.weight
    value = torch.linspace(0, 3, V)
    own, other = (m(prompt)[0][0, -1, :V].log_softmax(-1) for m in (network, base))
    J = (own.exp() * (value + 0.5 * (other - own))).sum()
    (expected,) = torch.autograd.grad(-J, weight)
    remedy = term(network, base, lambda tokens, p: value[tokens[:, -1]], beta=0.5, rows=20000, prompt=2, tokens=1)
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(remedy(network, {"tokens": prompt, "labels": torch.zeros(1)}), weight)
    assert torch.nn.functional.cosine_similarity(found, expected, 0) > 0.98
    assert found.norm().item() == pytest.approx(expected.norm().item(), rel=0.1)


def test_modes_stay_and_prompts_are_as_long_as_the_shortest_row(base):
    network = SequenceClassifier(copy.deepcopy(base).requires_grad_(True), 2)
    remedy = Reward(NextToken(network, base.lm_head), SwappedHeads(base, {}), inputs, V, odd, rows=4, tokens=3)
    network.train()
    network.head.eval()
    modes = [module.training for module in network.modules()]
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    batch = {"tokens": torch.randint(V, (2, 9)), "mask": mask, "labels": torch.zeros(2)}
    assert remedy._prompts(batch).shape == (4, 5)
    remedy(network, batch).backward()
    assert modes == [module.training for module in network.modules()]
    assert network.backbone.layers[0].mixer.in_proj.weight.grad.abs().sum() > 0 and network.head.weight.grad is None


def test_padding_rows_of_the_vocabulary_are_never_written(base):
    network = nn.Module()
    network.config = base.config
    network.forward = lambda tokens, state=None: (torch.full((*tokens.shape, 32), 0.0).index_fill(
        2, torch.tensor([30, 31]), 50.0), None)  # fmt: skip
    remedy = Reward(SwappedHeads(network, {}), SwappedHeads(base, {}), inputs, V, rows=8, tokens=4)
    assert int(remedy.write(torch.zeros(8, 1, dtype=torch.int64)).max()) < V


def test_functions_in_files_and_mistakes(base, tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("def long(tokens, prompt):\n    return tokens[:, prompt:].float().mean(1)\n")
    assert load_score(f"{file}:long")(torch.tensor([[1, 2, 4]]), 1).tolist() == [3.0]
    with pytest.raises(UserError, match="has no function short"):
        load_score(f"{file}:short")
    with pytest.raises(UserError, match=r"must be FILE.py:FUNCTION"):
        load_score("rewards")
    with pytest.raises(UserError, match="rows >= 2"):
        term(base, base, rows=1)
    with pytest.raises(UserError, match="the reward must be 8 finite numbers"):
        term(base, base, lambda tokens, p: tokens).scores(torch.zeros(8, 2), 1)
