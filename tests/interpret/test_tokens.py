"""Which tokens a model looked at: the parts add up, and the tokens that count are found."""

import pytest
import torch

from ssmlab.core.errors import ModelError
from ssmlab.interpret.tokens import random_curve, token_attention, token_curve, token_logits, token_scores
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier

KEY, OTHER, LENGTH = 3, 4, 16


def sequences(count, seed):
    """Noise with one key token in each; the class is which of the two it is."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 30, (count, LENGTH), generator=generator)
    labels = torch.randint(0, 2, (count,), generator=generator)
    places = torch.randint(0, LENGTH, (count,), generator=generator)
    tokens[torch.arange(count), places] = torch.where(labels == 1, KEY, OTHER)
    return tokens, labels, places


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = SequenceClassifier(create_model("mamba_lm_test", vocab_size=30), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(80):
        tokens, labels, _ = sequences(32, step)
        torch.nn.functional.cross_entropy(model(tokens), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_the_token_that_decides_is_found(classifier):
    tokens, labels, places = sequences(8, 1000)
    right = classifier(tokens).argmax(1) == labels
    assert right.float().mean() > 0.9
    hits, better = 0, 0
    for row, label, place in zip(tokens.tolist(), labels.tolist(), places.tolist()):
        found = token_scores(classifier, row, label)
        hits += int(found.values.argmax()) == place
        options = {"steps": 8}
        gone = [float(token_curve(classifier, row, found.values, label, **options).auc)]
        gone.append(float(random_curve(classifier, row, label, orders=4, seed=0, **options).auc))
        back = [float(token_curve(classifier, row, found.values, label, insertion=True, **options).auc)]
        back.append(float(random_curve(classifier, row, label, orders=4, seed=0, insertion=True, **options).auc))
        better += gone[0] < gone[1] and back[0] > back[1]
    assert hits >= 7 and better >= 7, (hits, better)


def test_the_parts_add_up_to_the_difference_from_no_tokens(classifier):
    row = sequences(1, 7)[0][0].tolist()
    found = token_scores(classifier, row, 1, steps=64)
    curve = token_curve(classifier, row, found.values, 1, steps=4)
    whole = token_logits(classifier, row)
    assert torch.allclose(whole, classifier(torch.tensor([row]))[0], atol=1e-5)
    assert float(curve.probability[0, 0]) == pytest.approx(float(whole.softmax(0)[1]), rel=1e-5)
    assert abs(found.error) < 0.02 * float(found.values.abs().sum())
    back = token_curve(classifier, row, found.values, 1, steps=4, insertion=True)
    assert float(back.probability[0, -1]) == pytest.approx(float(curve.probability[0, 0]), rel=1e-5)


def test_of_a_language_model_the_next_token_is_explained():
    torch.manual_seed(0)
    model = create_model("mamba2_lm_test").eval()
    row = [1, 2, 3, 4, 5]
    logits = token_logits(model, row)
    assert torch.allclose(logits, model(torch.tensor([row]))[0][0, -1], atol=1e-6)
    found = token_scores(model, row, int(logits.argmax()), steps=64)
    assert found.values.shape == (5,) and abs(found.error) < 0.05 * float(found.values.abs().sum())
    attention = token_attention(model, row)
    assert len(attention) == 2 and all(layer.shape == (5,) and float(layer.min()) >= 0 for layer in attention.values())
    assert token_attention(create_model("transformer_lm_test").eval(), row) == {}


def test_a_sequence_without_tokens():
    with pytest.raises(ModelError, match="without tokens"):
        token_scores(create_model("mamba_lm_test"), [], 0)
