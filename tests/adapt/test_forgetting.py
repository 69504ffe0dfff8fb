"""Remedies against forgetting: each is the stated term, and the old task is seen under its old head."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab import adapt
from ssmlab.adapt.forgetting.terms import (
    EWC,
    Distillation,
    NextToken,
    Rehearsal,
    Remembering,
    SwappedHeads,
    fisher_diagonal,
    matching,
)
from ssmlab.adapt.methods.orthogonal import merge_orthogonal, tune_orthogonally
from ssmlab.core.errors import UserError
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.language.task import Language

OLD = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)
NEW = Classify(classes=("x", "y"), mean=(0.5,) * 3, std=(0.25,) * 3)


class Part(torch.utils.data.Dataset):
    def __init__(self, n, classes, seed):
        random = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 255, (n, 3, 16, 16), generator=random).to(torch.uint8)
        self.labels = torch.arange(n) % classes
        self.asked = []

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        self.asked.append(indices)
        return {"images": self.images[indices], "labels": self.labels[indices]}


def vision():
    torch.manual_seed(0)
    base = create_model("vmamba_test", num_classes=3, image_size=16)
    network = copy.deepcopy(base)
    network.reset_classifier(2)
    return base.eval(), network, SwappedHeads(network, {"classifier.head": base.classifier["head"]})


def inputs(batch):
    return (OLD.prepare(batch["images"]),), {}, None


def test_a_view_is_the_base_until_the_body_changes_and_leaves_the_network_as_it_was():
    base, network, view = vision()
    x, before = torch.randn(2, 3, 16, 16), dict(network.named_parameters())
    assert torch.equal(view(x), base(x)) and network(x).shape == (2, 2)
    assert all(before[name] is p for name, p in network.named_parameters())
    network.train()
    assert view.eval() is view and not view.training and network.training
    view(x).sum().backward()
    assert all(p.grad is None for p in view.heads.parameters())
    assert network.layers[0].blocks[0].op.A_logs.grad is not None and network.classifier["head"].weight.grad is None


def test_a_classifier_of_sequences_still_writes_under_the_old_head():
    torch.manual_seed(0)
    base = create_model("mamba_lm_test", vocab_size=30).eval()
    network = SequenceClassifier(copy.deepcopy(base), 2)
    view, tokens = NextToken(network, base.lm_head), torch.randint(30, (2, 7))
    assert torch.equal(view(tokens)[0], base(tokens)[0])
    with torch.no_grad():
        network.backbone.embedding.weight.add_(1)
    assert torch.equal(view.head.weight, base.lm_head.weight)  # the head was tied to the embedding, and stays


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_rehearsal_has_its_share_of_rows_and_of_the_loss(share):
    _, network, view = vision()
    part = Part(30, 3, 0)
    batch = Part(12, 2, 1).__getitems__(list(range(12)))
    network.train()
    term = Rehearsal(view, OLD, part, share)(network, batch)
    (rows,) = part.asked
    assert len(rows) == round(share / (1 - share) * 12)
    old = {"images": part.images[rows], "labels": part.labels[rows]}
    assert term.item() == pytest.approx(share / (1 - share) * OLD.loss(view, old)[0].item(), rel=1e-5)
    with pytest.raises(UserError, match="rehearsal.share must be above 0 and below 1, got 1.0"):
        Rehearsal(view, OLD, part, 1.0)


def test_matching_is_the_divergence_in_the_stated_direction():
    wanted, found = torch.randn(5, 4), torch.randn(5, 4)
    p, q = F.softmax(wanted / 2, -1), F.softmax(found / 2, -1)
    assert matching(wanted, found, 2.0).item() == pytest.approx(4 * (p * (p / q).log()).sum(-1).mean().item(), rel=1e-5)
    assert matching(wanted, wanted).item() == pytest.approx(0, abs=1e-6)


def test_distillation_begins_at_zero_and_pulls_back():
    base, network, view = vision()
    batch = Part(8, 2, 1).__getitems__(list(range(8)))
    teacher = SwappedHeads(base, {"classifier.head": base.classifier["head"]})
    term = Distillation(view, teacher, inputs, weight=3.0)
    assert term(network, batch).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        network.layers[0].blocks[0].op.out_proj.weight.add_(0.3 * torch.randn(16, 16))
    moved = term(network, batch)
    moved.backward()
    with torch.no_grad():
        for p in network.parameters():
            p.sub_(0.01 * p.grad if p.grad is not None else 0)
    assert term(network, batch).item() < moved.item()
    old = Part(9, 3, 2)
    Distillation(view, teacher, inputs, part=old)(network, batch)
    assert len(old.asked[0]) == 8


def test_padding_is_not_matched():
    torch.manual_seed(0)
    base = create_model("mamba_lm_test", vocab_size=30).eval()
    network = SequenceClassifier(copy.deepcopy(base), 2)
    with torch.no_grad():
        network.backbone.layers[0].mixer.D.add_(1)
    tokens, mask = torch.randint(30, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    mask[1, 3:] = False

    def read(batch):
        return (batch["tokens"],), {"mask": batch["mask"]}, batch["mask"]

    term = Distillation(NextToken(network, base.lm_head), NextToken(base, base.lm_head), read)
    labels = torch.tensor([0, 1])
    one = term(network, {"tokens": tokens, "mask": mask, "labels": labels})
    other = tokens.clone()
    other[1, 3:] = 0
    assert torch.allclose(one, term(network, {"tokens": other, "mask": mask, "labels": labels}))


def test_fisher_information_of_a_known_model():
    """Softmax regression: E[(dL/db_k)^2] = p_k (1 - p_k) for each row."""
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    view = SwappedHeads(network, {})
    x = torch.randn(2, 4)
    batches = [{"x": x} for _ in range(3000)]
    found = fisher_diagonal(view, batches, lambda batch: ((batch["x"],), {}, None))
    p = F.softmax(network(x), -1).detach()
    expected = (p * (1 - p)).sum(0)
    assert torch.allclose(found["bias"] / found["bias"].sum(), expected / expected.sum(), atol=0.03)
    total = torch.cat([f.flatten() for f in found.values()])
    assert total.mean().item() == pytest.approx(1, rel=1e-5)


def test_ewc_is_a_weighted_spring():
    network = nn.Linear(2, 1, bias=False)
    anchor = {"weight": network.weight.detach().clone()}
    term = EWC({"weight": torch.tensor([[1.0, 4.0]])}, anchor, weight=3.0)
    with torch.no_grad():
        network.weight.add_(torch.tensor([[2.0, 0.5]]))
    assert term(network, {"labels": torch.zeros(1)}).item() == pytest.approx(1.5 * (4 + 1))


def test_remedies_add_to_the_training_loss_only():
    _, network, _ = vision()
    batch = Part(4, 2, 1).__getitems__(list(range(4)))
    task = Remembering(NEW, [lambda model, batch: torch.tensor(2.0), lambda model, batch: torch.tensor(0.5)])
    network.train()
    assert task.loss(network, batch)[0].item() == pytest.approx(NEW.loss(network, batch)[0].item() + 2.5, rel=1e-5)
    network.eval()
    assert torch.equal(task.loss(network, batch)[0], NEW.loss(network, batch)[0])
    assert (task.primary_metric, task.higher_is_better) == ("accuracy", True)


@pytest.mark.parametrize("channel_first", [True, False])
def test_orthogonal_tuning_keeps_the_large_directions_and_merges(channel_first):
    torch.manual_seed(0)
    model = create_model("vmamba_test", num_classes=3, image_size=16, channel_first=channel_first).eval()
    x, weights = torch.randn(4, 3, 16, 16), {name: p.detach().clone() for name, p in model.named_parameters()}
    names, y = list(model.state_dict()), model(x)
    layers = tune_orthogonally(model, share=0.5, train=["classifier.head"])
    assert torch.allclose(model(x), y, atol=1e-6)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    tuned = model(x)
    merge_orthogonal(model)
    assert list(model.state_dict()) == names and torch.allclose(model(x), tuned, atol=1e-5)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, weights[name])}
    assert changed == {f"{layer}.weight" for layer in layers} | {"classifier.head.weight", "classifier.head.bias"}
    for layer in layers:
        before, after = weights[f"{layer}.weight"], model.get_submodule(layer).weight.detach()
        U, _, _ = torch.linalg.svd(before, full_matrices=False)
        half = U[:, : U.shape[1] // 2]
        inside = (half.T @ (after - before)).norm() / (after - before).norm()
        assert inside < 1e-2, layer  # rounding of a small difference; of any directions it would be 0.7


def test_orthogonal_tuning_of_a_language_model():
    torch.manual_seed(0)
    model = create_model("mamba_lm_test", vocab_size=30).eval()
    tokens = torch.randint(30, (2, 7))
    y = model(tokens)[0]
    layers = tune_orthogonally(model)
    assert {name.rpartition(".")[2] for name in layers} == {"in_proj", "x_proj", "out_proj"}
    merge_orthogonal(model)
    assert torch.allclose(model(tokens)[0], y, atol=1e-5)


def test_a_language_model_that_grows_is_compared_by_the_tokens_that_both_have():
    from ssmlab.tasks.shared.continual import old_view

    torch.manual_seed(0)
    base = create_model("mamba_lm_test", vocab_size=32).eval().requires_grad_(False)
    network, tokens = copy.deepcopy(base), torch.randint(32, (2, 7))
    adapt.apply(network, "embeddings+vocabulary", new_tokens=("a", "b"))
    view = old_view(network, base)
    assert torch.equal(view(tokens)[0], network(tokens)[0])  # it writes with the head that it has now
    term = Distillation(view, old_view(base, base), lambda batch: ((batch["tokens"],), {}, None))
    batch = {"tokens": tokens, "labels": tokens}
    assert term(network, batch).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        network.lm_head.parametrizations.weight[-1].rows.add_(3.0)  # of the new tokens alone
    assert term(network, batch).item() == pytest.approx(0, abs=1e-5)


def test_fisher_information_leaves_the_random_numbers_alone():
    network, x = nn.Linear(4, 3), torch.randn(2, 4)
    state = torch.random.get_rng_state()
    one, two = (
        fisher_diagonal(SwappedHeads(network, {}), [{"x": x}], lambda b: ((b["x"],), {}, None)) for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(one["weight"], two["weight"])


def test_a_carried_state_is_the_tasks_own():
    task = Language(vocab_size=30, stateful=True)
    assert Remembering(task).states is task.states and Remembering(NEW).states == {}
