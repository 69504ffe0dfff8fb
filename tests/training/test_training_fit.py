"""Training one model: what stops it, what it may not disturb, and what it keeps."""

import os
import signal
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from ssmlab.core.device import ComputeConfig, choose_compute
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.tasks.classify.recipe import TrainingConfig
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.shared.augment import Augment
from ssmlab.training import fit as training
from ssmlab.training.config import FitConfig
from ssmlab.training.estimate import estimate_seconds
from ssmlab.training.parameters import optimizer_of
from ssmlab.training.resume import newest_complete
from tiny import CPU, fit_tiny, network, part, same, values


def fit(folder, *, task=None, **options):
    task = task or Classify(
        classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3, augment=Augment(flip="both", shift=0.1)
    )
    return fit_tiny(folder, task, **options)


class At(Progress):
    """Does something at a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def update(self, done, note=""):
        if done == self.step:
            self.action()


class Lines(Progress):
    """What was said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_nesterov_and_the_polynomial_decay_of_nnunet(tmp_path):
    """Three epochs of six steps; the rate is (1 - t / 18)^0.9 of the first, and the first step is the gradient's."""
    chosen = {"optimizer": "sgd", "schedule": "polynomial", "weight_decay": 0.0, "warmup": 0.0}
    settings = FitConfig(epochs=3, batch_size=8, learning_rate=1e-3, **chosen)
    kind, options = optimizer_of(settings, CPU)
    assert kind is torch.optim.SGD
    assert options == {"lr": 1e-3, "momentum": 0.99, "nesterov": True}
    task = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3, augment=Augment())
    trained = training.fit(network(), task, part(50, 0), part(12, 1), settings, folder=tmp_path, seed=3, device=CPU)
    rates = values(trained, "learning_rate")
    assert rates == pytest.approx([1e-3 * (1 - t / 18) ** 0.9 for t in range(18)], rel=1e-6)


def test_it_learns_and_logs(tmp_path):
    _, trained = fit(tmp_path, epochs=6)
    assert trained.steps == 6 * (50 // 8) and trained.epoch == 6 and trained.seconds > 0
    assert values(trained, "eval_accuracy")[-1] > 0.9 > values(trained, "accuracy")[0]
    assert len(values(trained, "eval_loss")) == 6 and len(values(trained, "learning_rate")) == 36
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-36"]


def test_the_validation_loss_counts_every_image_once(tmp_path):
    model, trained = fit(tmp_path, batch_size=5, epochs=1)
    val = part(12, 1)
    task = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)
    with torch.no_grad():
        loss, logits = task.loss(model.eval(), val.__getitems__(list(range(12))))
    assert values(trained, "eval_loss")[-1] == pytest.approx(loss.item(), rel=1e-5)
    assert values(trained, "eval_accuracy")[-1] == pytest.approx(
        (logits.argmax(1) == val.arrays["labels"]).float().mean()
    )


@pytest.mark.parametrize("step", [3, 6, 17, 18])
def test_ctrl_c_leaves_a_checkpoint_and_the_continuation_is_bit_equal(tmp_path, step):
    """In mid epoch, at an epoch's end, one before the last step, and at the last."""
    whole, log = fit(tmp_path / "whole", keep="best")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", keep="best", progress=At(step, interrupt))
    assert signal.getsignal(signal.SIGINT) is before
    assert newest_complete(tmp_path / "cut" / "checkpoints").name == f"checkpoint-{step}"
    shown = Lines()
    resumed, resumed_log = fit(tmp_path / "cut", keep="best", resume=True, model=network(seed=9), progress=shown)
    assert shown.lines[0] == f"tiny: goes on after step {step} of 18"
    assert same(whole, resumed)
    assert values(log, "eval_accuracy") == values(resumed_log, "eval_accuracy")
    assert values(log, "loss") == values(resumed_log, "loss")
    assert values(log, "train_loss") == values(resumed_log, "train_loss")
    assert log.epoch == resumed_log.epoch


def test_checkpoints_between_epochs_do_not_change_the_training(tmp_path):
    plain, _ = fit(tmp_path / "a")
    saved, _ = fit(tmp_path / "b", checkpoint_steps=4)
    assert same(plain, saved)


def test_best_keeps_the_epoch_with_the_highest_validation_accuracy(tmp_path):
    _, last = fit(tmp_path / "last", epochs=6, learning_rate=0.1)
    best_model, best = fit(tmp_path / "best", epochs=6, learning_rate=0.1, keep="best")
    accuracies = values(last, "eval_accuracy")
    losses = values(last, "eval_loss")
    ranked = sorted(range(6), key=lambda i: (-accuracies[i], losses[i]))
    assert len(set(accuracies)) > 1 and best.epoch == 1 + ranked[0]
    val = part(12, 1)
    task = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)
    with torch.no_grad():
        _, logits = task.loss(best_model.eval(), val.__getitems__(list(range(12))))
    assert (logits.argmax(1) == val.arrays["labels"]).float().mean().item() == pytest.approx(max(accuracies))


class Scripted(Classify):
    """A task whose validation says what a script says."""

    def validation(self, outputs, labels=None):
        accuracy, loss = self.rows[len(self.seen)]
        self.seen.append(loss)
        return {"accuracy": accuracy, "loss": loss}


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([(0.5, 2.7), (0.5, 1.2), (0.4, 0.1)], 2),  # of equal accuracies the lower loss
        ([(0.5, 1.2), (0.5, 2.7), (0.5, 1.2)], 1),  # of equals in both the first
        pytest.param([(0.5, 1.2), (0.6, 2.7), (0.5, 0.1)], 2, marks=pytest.mark.slow),
    ],
)
def test_of_equal_epochs_the_one_with_the_lower_loss_is_kept(tmp_path, rows, kept):
    class Shown(Progress):
        lines, notes = [], []

        def say(self, text):
            self.lines.append(text)

        def note(self, text):
            self.notes.append(text)

    def task():
        made = Scripted(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)
        made.rows, made.seen = rows, []
        return made

    shown = Shown()
    _, trained = fit(tmp_path / "whole", task=task(), keep="best", progress=shown)
    assert trained.epoch == pytest.approx(kept)
    (record,) = [r for r in trained.found if r.metric == "kept_epoch"]
    assert (record.value, record.n) == (kept, 3)
    assert shown.lines == [f"tiny: the weights of epoch {kept} of 3 are kept"]
    assert len(shown.notes) == 3 and shown.notes[-1].endswith(f"validation {rows[-1][0]:.1%}"), "the last one is shown"
    _, last = fit(tmp_path / "last", task=task())
    assert not last.found and last.epoch == 3


def test_a_loss_that_is_not_finite_stops_with_step_and_model(tmp_path):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(3 * 64, 3), 0

        def forward(self, x):
            self.calls += self.training
            return self.layer(x.flatten(1)) * (float("nan") if self.calls == 9 else 1)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        UserError, match=r"^tiny: the loss is nan at step 9 \(epoch 1\.3\).*learning_rate \(now 0\.01\)"
    ):
        fit(tmp_path, model=Breaks())
    assert signal.getsignal(signal.SIGINT) is before
    assert newest_complete(tmp_path / "checkpoints").name == "checkpoint-6"


def test_the_seed_decides_and_a_failure_to_save_does_not_harm(tmp_path, monkeypatch):
    first, _ = fit(tmp_path / "a")
    again, _ = fit(tmp_path / "b")
    assert same(first, again)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "c", progress=At(8, interrupt))

    def fails(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ssmlab.training.resume._to_disk", fails)
        with pytest.raises(OSError, match="no space"):
            fit(tmp_path / "c", resume=True)
    assert newest_complete(tmp_path / "c" / "checkpoints").name == "checkpoint-8"
    resumed, _ = fit(tmp_path / "c", resume=True)
    assert same(first, resumed)


def test_weight_decay_spares_vectors_and_what_the_model_names():
    from ssmlab.models import create_model
    from ssmlab.training.parameters import decayed

    assert decayed(network()) == ["0.weight", "5.weight"]
    names = decayed(create_model("resnet_mamba_test", num_classes=2, image_size=32))
    assert any(name.endswith("in_proj.weight") for name in names)
    assert not any(name.endswith(("A_log", "D", "bias")) for name in names)


@contextmanager
def untouched(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    yield
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_estimate_touches_nothing():
    model, train_part = network(), part(8, 0)
    task = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3, augment=Augment(flip="both"))

    def estimate(steps, evaluated):
        config, batch = TrainingConfig(batch_size=8), train_part.__getitems__(list(range(8)))
        return estimate_seconds(model, task, config, batch, steps=steps, evaluated=evaluated, compute=CPU)

    with untouched(model):
        few, many = estimate(10, 0), estimate(100_000, 0)
    assert 0 < few < many and estimate(0, 1000) > 0


def test_small_data_get_more_epochs(tmp_path):
    assert TrainingConfig(epochs=3, batch_size=8).length(50) == (3, 18)
    assert TrainingConfig(epochs=3, batch_size=8, min_steps=20).length(50) == (4, 24)
    assert TrainingConfig(epochs=3, batch_size=64).length(50) == (3, 3)
    _, trained = fit(tmp_path, epochs=1, min_steps=7)
    assert trained.steps == 12 and trained.epoch == 2


def test_devices():
    assert choose_compute("cpu") == CPU
    assert choose_compute("cpu", "bf16").precision == "bf16"
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        choose_compute("cpu", "fp16")
    if not torch.cuda.is_available():
        assert choose_compute().device in ("cpu", "mps")
        with pytest.raises(UserError, match="device 'cuda' is not available here; there is .*cpu"):
            choose_compute("cuda")


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": True}])
def test_other_precisions_and_memory_orders_train(tmp_path, options):
    model = network()
    trained = training.fit(
        model, Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3), part(50, 0), part(12, 1),
        TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2),
        folder=tmp_path, label="tiny", seed=3, device=ComputeConfig(device="cpu", **options),
    )  # fmt: skip
    assert values(trained, "eval_accuracy")[-1] > 0.6
    assert model[0].weight.dtype == torch.float32 and model[0].weight.is_contiguous()
