"""Classifiers of sequences: padding changes nothing, both heads, and what is saved is what is loaded."""

import pytest
import torch

from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.tasks.classify_sequence.task import ClassifySequences

NAMES = ("mamba_lm_test", "mamba2_lm_test", "s4d_lm_test", "transformer_lm_test")


def classifier(name, pool="mean"):
    torch.manual_seed(0)
    return SequenceClassifier(create_model(name, vocab_size=20), 3, pool).eval()


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name, pool):
    network = classifier(name, pool)
    tokens = torch.randint(20, (3, 9))
    lengths = (9, 4, 1)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = network(tokens, mask)
        alone = torch.cat([network(tokens[i : i + 1, :n]) for i, n in enumerate(lengths)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_task():
    network, task = classifier("mamba_lm_test"), ClassifySequences(classes=("a", "b", "c"))
    tokens, labels = torch.randint(20, (4, 5)), torch.tensor([0, 1, 2, 0])
    loss, logits = task.loss(network, {"tokens": tokens, "labels": labels})
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(network(tokens), labels).item())
    right, seen = task.count_correct(logits, labels)
    found = task.validation(logits.detach().numpy(), labels.numpy())
    assert seen == 4 and found["accuracy"] == right / 4 and found["loss"] == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    network = classifier(name, "last")
    save_model(network, tmp_path / "model", {"length": 7})
    loaded, preprocess = load_model(tmp_path / "model")
    tokens = torch.randint(20, (2, 7))
    with torch.no_grad():
        assert torch.equal(loaded(tokens), network(tokens))
    assert preprocess == {"length": 7} and loaded.pool == "last" and not loaded.training
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="pool must be mean or last"):
        classifier(name, "first")
