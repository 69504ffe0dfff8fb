"""What the training of translation models needs: a schedule, patience, scores of written texts, whole batches."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.tasks.classify.task import Classify
from ssmlab.training.config import FitConfig
from ssmlab.training.fit import curves
from ssmlab.training.fit import fit as train
from ssmlab.training.parameters import optimizer_of
from tiny import CPU, fit_tiny, network, part, same, values

LOOK = {"classes": ("a", "b", "c"), "mean": (0.5,) * 3, "std": (0.25,) * 3}


class Kill(Progress):
    """Ends a training at a step, as if it had been killed: no checkpoint of that step."""

    def __init__(self, step):
        self.step = step

    def update(self, done, note=""):
        if done == self.step:
            raise SystemExit


class Scores(Classify):
    """A task that writes: its score is what a script says, whatever the model does."""

    primary_metric = "bleu"
    higher_is_better = True

    def decoded(self, model):
        assert not model.training
        weights = torch.cat([p.flatten() for p in model.parameters()]).detach().clone()
        self.seen.append(weights)
        return {"bleu": self.script[len(self.seen) - 1]}


def scored(*script, before=0):
    """The task, as it is after so many evaluations of an earlier sitting."""
    task = Scores(**LOOK)
    object.__setattr__(task, "script", script)
    object.__setattr__(task, "seen", [None] * before)
    return task


def test_the_inverse_square_root_of_the_step_after_so_many_steps_of_warmup(tmp_path):
    _, trained = fit_tiny(tmp_path, Classify(**LOOK), schedule="inverse_sqrt", warmup=4)
    rates = values(trained, "learning_rate")
    wanted = [1e-2 * (t / 4 if t < 4 else (t / 4) ** -0.5) for t in range(18)]
    assert rates == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 2), (0.0, 0), (1, 1), (400, 400)])
def test_the_warmup_is_a_share_of_the_steps_or_their_number(warmup, steps):
    assert FitConfig(warmup=warmup).warmup_steps(18) == steps
    assert FitConfig(warmup=warmup).warmup_steps(1) == 0


def test_the_decay_of_squares_reaches_the_optimizer():
    assert optimizer_of(FitConfig(optimizer="adam", adam_beta2=0.98), CPU)[1]["betas"] == (0.9, 0.98)
    assert optimizer_of(FitConfig(), CPU)[1]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("script", "patience", "steps", "best"),
    [
        ([3, 1, 2, 9], 2, 3, 1),  # two that are no better
        ([3, 4, 2, 4], 2, 4, 4),  # an equal one with a lower loss is better
        ([1, 2, 3, 4], 1, 4, 4),
        ([3, 1, 2, 9], 0, 4, 4),
    ],
)
def test_patience_ends_a_training_and_the_best_is_kept(tmp_path, script, patience, steps, best):
    task = scored(*script)
    epochs = 4
    _, trained = fit_tiny(tmp_path, task, epochs=epochs, patience=patience, keep="best")
    assert values(trained, "eval_bleu") == script[:steps]
    assert trained.steps == steps * 6 and trained.epoch == best
    weights = torch.cat([p.flatten() for p in trained.model.parameters()])
    assert torch.equal(weights, task.seen[best - 1])
    assert [record.value for record in curves(trained.history)["val"] if record.metric == "bleu"] == script[:steps]


def test_patience_needs_a_validation_part():
    with pytest.raises(UserError, match="chooses by the validation part, and so does patience; give one"):
        train(network(), Classify(**LOOK), part(50, 0), None, FitConfig(patience=2), device=CPU)


@pytest.mark.parametrize("step", [5, 8, 16, 20])
def test_a_killed_training_goes_on_with_its_patience(tmp_path, step):
    """In mid-epoch, before and after the best epoch, 2, and when it is over already."""
    script = [3, 5, 1, 2, 9, 9]
    how = {"epochs": 6, "patience": 2, "keep": "best", "ema": 0.9, "checkpoint_steps": 4}
    whole, log = fit_tiny(tmp_path / "whole", scored(*script), **how)
    assert log.steps == 24 and log.epoch == 2
    with pytest.raises(SystemExit):
        fit_tiny(tmp_path / "cut", scored(*script), progress=Kill(step), **how)
    before = (step // 4 * 4) // 6
    task = scored(*script, before=before)
    again, second = fit_tiny(tmp_path / "cut", task, resume=True, model=network(seed=9), **how)
    assert same(whole, again) and second.steps == 24 and second.epoch == 2
    assert values(second, "eval_bleu") == values(log, "eval_bleu") == script[:4]


def test_a_training_that_was_over_does_not_go_on(tmp_path):
    """It was killed after its last checkpoint, before anything was made of it."""
    how = {"epochs": 6, "patience": 1, "keep": "best", "resume": True}
    whole, log = fit_tiny(tmp_path, scored(3, 1, 9), **how)
    assert log.steps == 12
    again, second = fit_tiny(tmp_path, scored(), model=network(seed=9), **how)
    assert same(whole, again) and (second.steps, second.epoch) == (12, 1)
    last, third = fit_tiny(tmp_path / "last", scored(3, 1, 9), **how | {"keep": "last"})
    again, fourth = fit_tiny(tmp_path / "last", scored(), model=network(seed=9), **how | {"keep": "last"})
    assert same(last, again) and not same(last, whole) and (third.epoch, fourth.epoch) == (2, 2)


def test_texts_are_written_with_the_averaged_weights(tmp_path):
    task = scored(1, 2, 3)
    model, _ = fit_tiny(tmp_path, task, ema=0.9)
    assert torch.equal(task.seen[-1], torch.cat([p.flatten() for p in model.parameters()]))
    plain = scored(1, 2, 3)
    fit_tiny(tmp_path / "plain", plain)
    assert not torch.equal(task.seen[-1], plain.seen[-1])


class Batches(Dataset):
    """Batches of other sizes in every epoch; each is an item."""

    streams, unit = 1, "batches"

    def __init__(self):
        self.begin_epoch(0)
        self.begun = []

    def begin_epoch(self, number):
        random = torch.Generator().manual_seed(number)
        sizes = torch.randint(2, 9, (5,), generator=random).tolist()
        inputs = [torch.randn(size, 4, generator=random) for size in sizes]
        self.batches = [{"x": x, "labels": (x.sum(1) > 0).long()} for x in inputs]
        if number:
            self.begun.append(number)

    def __len__(self):
        return 5

    def __getitems__(self, indices):
        (index,) = indices
        return self.batches[index]


class Signs:
    """Whether numbers sum to more than 0, with label smoothing in training."""

    primary_metric, higher_is_better = "token_accuracy", True

    def __init__(self):
        self.sizes = []

    def loss(self, model, batch):
        if model.training:
            self.sizes.append(len(batch["labels"]))
        logits = model(batch["x"])
        nll = nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
        smooth = nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.2)
        right = (logits.argmax(1) == batch["labels"]).float()
        return smooth if model.training else nll.mean(), torch.stack([nll, torch.ones_like(nll), right], 1)

    def outputs(self, model, batch):
        return self.loss(model, batch)[1]

    def count_correct(self, outputs, labels):
        return outputs[:, 2].sum(), outputs[:, 1].sum()

    def nll(self, outputs):
        return outputs[:, 0].sum(), outputs[:, 1].sum()

    def validation(self, outputs, labels):
        nll, count, right = outputs.sum(0)
        return {"loss": nll / count, "token_accuracy": right / count}


def signs(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))


def test_an_item_may_be_a_whole_batch_of_any_size(tmp_path):
    """Every batch is a step, in the dataset's own order; validation counts every row once."""
    task, data = Signs(), Batches()
    config = FitConfig(epochs=3, learning_rate=1e-2)
    found = train(signs(), task, data, Batches(), config, folder=tmp_path, device=CPU)
    wanted = [len(batch["labels"]) for number in range(3) for batch in (data.begin_epoch(number), data)[1].batches]
    assert found.steps == 15 and task.sizes == wanted and len(set(wanted)) > 2
    val = Batches().batches
    with torch.no_grad():
        rows = torch.cat([task.loss(found.model, batch)[1] for batch in val])
    assert values(found, "eval_loss")[-1] == pytest.approx(rows[:, 0].mean().item(), rel=1e-5)
    losses, nlls = values(found, "loss"), values(found, "nll")
    assert len(losses) == len(nlls) == 15 and all(math.isfinite(x) for x in nlls) and losses != nlls


@pytest.mark.parametrize("step", [3, 5, 13])
def test_whole_batches_go_on_in_mid_epoch_bit_equal(tmp_path, step):
    config = FitConfig(epochs=3, learning_rate=1e-2, checkpoint_steps=1, schedule="inverse_sqrt", warmup=3, ema=0.9)
    whole = train(signs(), Signs(), Batches(), Batches(), config, folder=tmp_path / "a", device=CPU)
    with pytest.raises(SystemExit):
        train(signs(), Signs(), Batches(), Batches(), config, folder=tmp_path / "b", device=CPU, progress=Kill(step))
    again = train(signs(5), Signs(), Batches(), Batches(), config, folder=tmp_path / "b", device=CPU)
    assert same(whole.model, again.model)


def test_the_average_without_smoothing_is_of_the_predictions_of_a_log(tmp_path):
    """In bf16 too, where the CPU computes in it."""
    compute = ComputeConfig(device="cpu", precision="bf16")
    config = FitConfig(epochs=1, learning_rate=1e-9, warmup=0)
    found = train(signs().eval(), Signs(), Batches(), None, config, device=compute)
    rows = [Signs().loss(signs().eval(), batch)[1].detach() for batch in Batches().batches]
    assert len(values(found, "nll")) == 5
    assert sum(values(found, "nll")) / 5 == pytest.approx(sum(r[:, 0].mean().item() for r in rows) / 5, abs=0.2)
