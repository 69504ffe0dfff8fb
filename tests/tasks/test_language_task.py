"""Next tokens and answers: losses and metrics against what they are by definition, states that are carried."""

import math

import numpy as np
import pytest
import torch

from ssmlab.data.text.documents import Document
from ssmlab.data.text.packing import pack, pack_streams
from ssmlab.models import create_model
from ssmlab.tasks.language.experiment import dataset_of
from ssmlab.tasks.language.task import CORRECT, COUNT, NLL, Language, token_loss
from ssmlab.tasks.synthetic.task import Recall

RECURRENT = ("mamba_lm_test", "mamba2_lm_test", "s4d_lm_test")


def model(name="mamba_lm_test", vocab=11, seed=0):
    torch.manual_seed(seed)
    network = create_model(name, vocab_size=vocab)
    with torch.no_grad():
        network.lm_head.weight.mul_(20)  # far from uniform
    return network.eval()


def batch_of(rows):
    part = dataset_of(rows)
    return part.__getitems__(list(range(len(part))))


def text(count, seed=0, vocab=10):
    return np.random.default_rng(seed).integers(0, vocab, count)


def test_the_loss_is_the_mean_over_asked_tokens():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    labels[0, :3] = labels[2] = -100
    loss, sums = token_loss(logits, labels)
    logs = logits.log_softmax(-1)
    asked = [(i, t) for i in range(3) for t in range(5) if labels[i, t] != -100]
    nats = [-logs[i, t, labels[i, t]].item() for i, t in asked]
    assert loss.item() == pytest.approx(np.mean(nats), rel=1e-5)
    assert sums[:, COUNT].tolist() == [2, 5, 0] and sums[:, NLL].sum().item() == pytest.approx(sum(nats), rel=1e-5)
    assert sums[:, CORRECT].sum() == sum(int(logits[i, t].argmax() == labels[i, t]) for i, t in asked)
    nothing, _ = token_loss(logits, torch.full_like(labels, -100))
    assert nothing == 0


def test_metrics_are_weighted_by_tokens():
    task = Language(vocab_size=9, unit="byte", tokens_per_unit=0.25)
    found = task.validation(np.array([[2.0, 4, 1], [6.0, 1, 0]]))
    assert found["loss"] == pytest.approx(8 / 5) and found["perplexity"] == pytest.approx(math.exp(8 / 5))
    assert found["bits_per_byte"] == pytest.approx(8 / 5 / math.log(2) / 4) and found["token_accuracy"] == 1 / 5
    assert task.primary_metric == "bits_per_byte" and not task.higher_is_better
    answers = Recall(vocab_size=9).validation(np.array([[1.0, 2, 2], [3.0, 2, 1]]))
    assert answers == {"loss": 1.0, "accuracy": 0.75, "all_right": 0.5}


def test_tokens_that_the_model_has_beyond_the_data_do_not_count():
    network = model(vocab=11)  # 16 rows of logits
    tokens, labels = torch.randint(11, (2, 6)), torch.randint(11, (2, 6))
    with torch.no_grad():
        loss, _ = Language(vocab_size=11).loss(network, {"tokens": tokens, "labels": labels})
        logits = network(tokens)[0][..., :11]
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits.mT, labels).item(), rel=1e-5)


@pytest.mark.parametrize("name", [*RECURRENT, "transformer_lm_test"])
def test_packed_documents_cost_what_each_costs_alone(name):
    network, task = model(name), Language(vocab_size=11)
    documents = [Document("a", text(9, 1)), Document("b", text(5, 2)), Document("c", text(8, 3))]
    with torch.no_grad():
        _, together = task.loss(network, batch_of(pack(documents, 40, 10)))
        alone = [task.loss(network, batch_of(pack([d], 40, 10)))[1] for d in documents]
    assert together[:, COUNT].sum() == sum(sums[:, COUNT].sum() for sums in alone)
    assert together[:, NLL].sum().item() == pytest.approx(sum(s[:, NLL].sum().item() for s in alone), rel=1e-4)


@pytest.mark.parametrize("name", RECURRENT)
def test_carried_states_make_one_text_of_many_rows(name):
    network = model(name)
    documents = [Document("a", text(21, 1)), Document("b", text(16, 2)), Document("c", text(7, 3))]
    rows = pack_streams(documents, 4, 10, 1)
    with torch.no_grad():
        _, whole = Language(vocab_size=11).loss(network, batch_of(pack(documents, 60, 10)))
        task, sums = Language(vocab_size=11, stateful=True), torch.zeros(3)
        part = dataset_of(rows)
        for i in range(len(rows)):
            sums += task.loss(network, part.__getitems__([i]))[1].sum(0)
        _, cold = Language(vocab_size=11).loss(network, batch_of(pack(documents, 4, 10)))
    assert sums.tolist() == pytest.approx(whole.sum(0).tolist(), rel=1e-4)
    assert abs(cold[:, NLL].sum() - whole[:, NLL].sum()) > 1e-2, "without the state it is another number"


def test_rows_of_a_lane_begin_anew_by_themselves():
    network, task = model(), Language(vocab_size=11, stateful=True)
    first = {"tokens": torch.from_numpy(text(8).reshape(2, 4)), "labels": torch.zeros(2, 4, dtype=torch.int64)}
    with torch.no_grad():
        task.loss(network, first | {"fresh": torch.tensor([True, True])})
        state = task.states[False]
        _, mixed = task.loss(network, first | {"fresh": torch.tensor([False, True])})
        _, cold = Language(vocab_size=11).loss(network, first)
        logits, _ = network(first["tokens"], state)
    _, warm = token_loss(logits[..., :11], first["labels"])
    assert torch.allclose(mixed[0], warm[0], rtol=1e-5) and torch.allclose(mixed[1], cold[1], rtol=1e-5)
    assert task.states[True] is None, "training has a state of its own"


def test_no_gradient_flows_into_the_step_before():
    network, task = model().train(), Language(vocab_size=11, stateful=True)
    batch = {"tokens": torch.zeros(1, 3, dtype=torch.int64), "labels": torch.ones(1, 3, dtype=torch.int64)}
    for fresh in (True, False, False):
        loss, _ = task.loss(network, batch | {"fresh": torch.tensor([fresh])})
        loss.backward()  # would fail on a graph that is gone
    assert not any(tensor.requires_grad for layer in task.states[True] for tensor in layer)
