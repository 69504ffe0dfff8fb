"""Translation as a task: the loss, label smoothing, half precision for all arms, documents with a carried state."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssmlab.data.pairs.subwords import SEP
from ssmlab.models import create_model, list_models
from ssmlab.tasks.translate.batches import joined
from ssmlab.tasks.translate.task import Translate

ARMS = [name for name in list_models("translation") if name.endswith("_test")]
CARRYING = [name for name in ARMS if name in ("translation_mamba_test", "translation_mamba2_test")]
TASK = Translate(vocab_size=61)


def made(name, **options):
    torch.manual_seed(0)
    return create_model(name, vocab_size=61, **options)


def pairs(count=5, seed=0):
    random = np.random.default_rng(seed)
    return [tuple(random.integers(3, 61, random.integers(1, 9)) for _ in range(2)) for _ in range(count)]


def test_there_are_arms():
    assert len(ARMS) >= 6 and len(CARRYING) == 2


@pytest.mark.parametrize("name", ARMS)
def test_the_loss_is_the_mean_over_the_tokens_of_every_pair_alone(name):
    """Filling up changes nothing, of the source and of the target."""
    model, rows = made(name).double().eval(), pairs()
    loss, sums = TASK.loss(model, TASK.collate(rows))
    alone = [TASK.loss(model, TASK.collate([row])) for row in rows]
    count = torch.tensor([len(target) + 1 for _, target in rows])
    assert sums[:, 1].tolist() == count.tolist() and torch.allclose(sums, torch.cat([s for _, s in alone]), atol=1e-5)
    assert loss.item() == pytest.approx(
        sum(one.item() * n for (one, _), n in zip(alone, count, strict=True)) / count.sum()
    )
    correct, n = TASK.count_correct(sums, None)
    assert 0 <= correct <= n == count.sum()
    found = TASK.validation(sums.numpy())
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(loss.item()), rel=1e-5)


def test_smoothing_is_for_training_and_the_nats_are_without_it():
    model, batch = made("translation_mamba_test").train(), TASK.collate(pairs())
    smooth = Translate(vocab_size=61, label_smoothing=0.2)
    loss, sums = smooth.loss(model, batch)
    logits, _ = model(batch["tokens"], model.read_source(batch["source"], batch["source_mask"]))
    wanted = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.2)
    plain = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5) and loss.item() != pytest.approx(
        plain.item(), rel=1e-4
    )
    nll, count = smooth.nll(sums)
    assert (nll / count).item() == pytest.approx(plain.item(), rel=1e-5)
    assert smooth.loss(model.eval(), batch)[0].item() == pytest.approx(plain.item(), rel=1e-5)


def test_rows_that_fill_up_the_vocabulary_are_in_no_loss():
    model = made("translation_transformer_test", padded_logits=True).eval()
    assert model.config.padded_vocab > 61
    loss, _ = TASK.loss(model, TASK.collate(pairs()))
    with torch.no_grad():
        model.lm_head.weight[61:] += 1000
    assert torch.equal(TASK.loss(model, TASK.collate(pairs()))[0], loss)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_in_bfloat16_on_the_cpu(name):
    model, batch = made(name, dropout_branch=0.1).train(), TASK.collate(pairs())
    with torch.autocast("cpu", torch.bfloat16):
        loss, sums = TASK.loss(model, batch)
    loss.backward()
    assert loss.dtype == sums.dtype == torch.float32
    whole, _ = TASK.loss(made(name).eval(), batch)
    assert loss.item() == pytest.approx(whole.item(), rel=0.1)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", CARRYING)
def test_an_example_of_several_pairs_is_their_state_carried_on(name):
    """Source, target and end of each, then the next: one row of training equals the network that goes on."""
    model, rows = made(name).double().eval(), pairs(4, seed=2)
    sources, targets = ([np.asarray(row[side]) for row in rows] for side in (0, 1))
    (source,), (target,), (learned,) = (part[:1] for part in joined(sources, targets, 60, True, 1))
    count = int((target == SEP).sum()) + 1
    assert count == 4
    batch = TASK.collate([(source, target)])
    batch["labels"][0, torch.from_numpy(~learned)] = -100
    loss, _ = TASK.loss(model, batch)
    state, total = None, 0.0
    for read, written in rows:
        state = model.read_source(torch.from_numpy(read)[None], None, state)
        tokens = torch.tensor([[SEP, *written.tolist(), 2]])
        logits, state = model(tokens, state)
        total += F.cross_entropy(logits[0, :-1, :61], tokens[0, 1:], reduction="sum").item()
    assert loss.item() == pytest.approx(total / sum(len(written) + 1 for _, written in rows), rel=1e-5)


def test_only_what_decodes_has_a_score():
    assert TASK.decoded(None) == {} and TASK.primary_metric == "bleu" and TASK.higher_is_better
    assert Translate(vocab_size=61, decode=lambda model: {"bleu": 3.0}).decoded(None) == {"bleu": 3.0}
