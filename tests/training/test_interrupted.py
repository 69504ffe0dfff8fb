"""Trainings that signals stop, or whose checkpoints are damaged: nothing is lost, and nothing goes on wrong."""

import json
import os
import shutil
import signal

import pytest
import torch

from ssmlab.core.errors import Interrupted, UserError
from ssmlab.core.progress import Progress
from ssmlab.tasks.classify.task import Classify
from ssmlab.training import fit as training
from ssmlab.training.resume import best_weights, newest_complete
from tiny import fit_tiny, network, same

TASK = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)


class Stop(Progress):
    """Sends a signal to this process after a step; remembers what was said."""

    def __init__(self, step=0, number=signal.SIGTERM):
        self.step, self.number, self.lines = step, number, []

    def say(self, text):
        self.lines.append(text)

    def update(self, done, note=""):
        if done == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def sparse_log(monkeypatch):
    """A line of the log for every fourth step."""
    plain = training.arguments_of

    def arguments_of(*given):
        arguments = plain(*given)
        arguments.logging_steps = 4
        return arguments

    monkeypatch.setattr(training, "arguments_of", arguments_of)


def lines(trained):
    """The log without times."""
    own = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    rows = [{key: value for key, value in row.items() if key not in own} for row in trained.history]
    return [row for row in rows if row.keys() & {"loss", "eval_loss"}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_a_checkpoint_and_no_line_of_the_log_is_lost(tmp_path, number, sparse_log):
    whole, log = fit_tiny(tmp_path / "whole", TASK)
    if signal.getsignal(number) == signal.SIG_IGN:  # as under nohup, whose choice a training respects
        pytest.skip("the tests were started so that this signal is ignored")
    before = signal.getsignal(number)
    for step in (4, 6, 9):  # with a line, at an epoch's end between two lines, between two lines
        with pytest.raises(Interrupted) as stopped:
            fit_tiny(tmp_path / "cut", TASK, resume=True, progress=Stop(step, number))
        assert stopped.value.number == number and signal.getsignal(number) is before
        assert newest_complete(tmp_path / "cut" / "checkpoints").name == f"checkpoint-{step}"
    resumed, resumed_log = fit_tiny(tmp_path / "cut", TASK, resume=True, model=network(seed=9))
    assert same(whole, resumed) and lines(resumed_log) == lines(log) and len(lines(log)) == 4 + 3


def test_a_signal_before_the_first_step_waits_for_it(tmp_path):
    """While the checkpoint is read, and what it needs is imported, nothing is interrupted."""
    with pytest.raises(Interrupted):
        fit_tiny(tmp_path, TASK, progress=Stop(4))

    class Early(Stop):
        def say(self, text):
            if "goes on after step 4" in text:
                os.kill(os.getpid(), self.number)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        fit_tiny(tmp_path, TASK, resume=True, progress=Early())
    assert stopped.value.number == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    assert newest_complete(tmp_path / "checkpoints").name == "checkpoint-5"


def test_a_folder_is_trained_in_by_one(tmp_path):
    class Second(Progress):
        def update(self, done, note=""):
            if done == 3:
                fit_tiny(tmp_path, TASK)

    with pytest.raises(UserError, match=rf"checkpoints is in use by process {os.getpid()} since"):
        fit_tiny(tmp_path, TASK, progress=Second())
    assert not (tmp_path / "checkpoints" / ".lock").exists()


def test_a_programs_own_handler_stays(tmp_path):
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        _, trained = fit_tiny(tmp_path, TASK, progress=Stop(3))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM] and trained.steps == 18


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A training that was stopped, with averages and the weights of its best epoch."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.raises(Interrupted):
        fit_tiny(folder, TASK, keep="best", ema=0.9, progress=Stop(8))
    return folder / "checkpoints"


FILES = ("average.safetensors", "clock.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt",
         "trainer_state.json", "../best-6.safetensors")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_checkpoint_is_told_and_not_used(cut, tmp_path, name, damage):
    place = tmp_path / "checkpoints"
    shutil.copytree(cut, place)
    file = place / "checkpoint-8" / name
    assert newest_complete(place) is not None
    if damage == "flipped":
        flip(file)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    assert newest_complete(place) is None


def test_training_begins_again_without_a_good_checkpoint(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "checkpoints")
    flip(tmp_path / "checkpoints" / "checkpoint-8" / "optimizer.pt")
    shown = Stop()
    resumed, _ = fit_tiny(tmp_path, TASK, keep="best", ema=0.9, resume=True, progress=shown)
    assert shown.lines[0].startswith("tiny: ") and "optimizer.pt has another content than was wr" in shown.lines[0]
    assert shown.lines[0].endswith("; that checkpoint is left out")
    whole, _ = fit_tiny(tmp_path / "whole", TASK, keep="best", ema=0.9)
    assert same(whole, resumed)


def test_checkpoints_of_before_are_read(cut, tmp_path):
    """They have no checksums, and the best weights have no step in their name; if these are gone, that is told."""
    place = tmp_path / "old" / "checkpoints"
    shutil.copytree(cut, place)
    (place / "checkpoint-8" / "checksums.json").unlink()
    (place / "best-6.safetensors").rename(place / "best.safetensors")
    clock = json.loads((place / "checkpoint-8" / "clock.json").read_text())
    del clock["on"], clock["window"]
    (place / "checkpoint-8" / "clock.json").write_text(json.dumps(clock))
    whole, _ = fit_tiny(tmp_path / "whole", TASK, keep="best", ema=0.9)
    resumed, _ = fit_tiny(tmp_path / "old", TASK, keep="best", ema=0.9, resume=True)
    assert same(whole, resumed)


def test_lost_weights_of_the_best_epoch_are_told(tmp_path):
    with pytest.raises(UserError, match="best-6.safetensors is missing, the weights of the best epoch; put it back"):
        best_weights(tmp_path, 6)
    (tmp_path / "best.safetensors").touch()
    assert best_weights(tmp_path, 6).name == "best.safetensors"
    (tmp_path / "best-6.safetensors").touch()
    assert best_weights(tmp_path, 6).name == "best-6.safetensors"


def test_other_circumstances_are_told(tmp_path):
    with pytest.raises(Interrupted):
        fit_tiny(tmp_path, TASK, progress=Stop(3))
    threads, shown = torch.get_num_threads(), Stop()
    torch.set_num_threads(threads + 1)
    try:
        fit_tiny(tmp_path, TASK, resume=True, progress=shown)
    finally:
        torch.set_num_threads(threads)
    assert f"tiny: with threads {threads + 1} (was {threads}): the last bits may not be those" in " ".join(shown.lines)
