"""What happens next to the optimisation: checkpoints between epochs, Ctrl-C, curves, progress."""

import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback

from ssmlab.core.errors import STOPPING, Interrupted, interrupt
from ssmlab.core.progress import Progress
from ssmlab.training.distributed import gather
from ssmlab.training.task import Task


@dataclass
class Clock:
    """Seconds of optimisation: evaluation and saving are left out, sittings before a resume are counted in."""

    seconds: float = 0.0
    _since: float | None = field(default=None, repr=False)

    def run(self) -> None:
        self._since = time.perf_counter()

    def pause(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None


class Checkpoints(TrainerCallback):
    """Saves every `steps` steps, and lets Ctrl-C, SIGTERM and a closed terminal end a run after the step under way with
    a checkpoint of it.

    interrupted: the number of the signal that came, else 0.
    agreed: of several processes: whether one of them was interrupted before this step began, as all of them know.
    window: what the next line of the log sums up, of a checkpoint between two lines.
    """

    def __init__(self, trainer, steps: int):
        self.trainer, self.steps = trainer, steps
        self.interrupted, self.agreed = 0, False
        self.window: dict[str, Any] = {}
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.clock.run()
        if self.window:
            self.trainer._tr_loss += self.window["loss"]
            self.trainer._globalstep_last_logged = self.window["logged"]
            self.trainer._total_loss_scalar += self.window.get("total", 0.0)  # checkpoints of older versions have none
            if self.trainer.world.rank == 0:  # they are of all processes
                self.trainer.model.sums = {name: tuple(found) for name, found in self.window["sums"].items()}

    def listen(self):
        """Let signals wait for the end of a step, until `restore`."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                # a program's own handler stays, and so does that of nohup, which ignores a closed terminal
                if number == signal.SIGINT or signal.getsignal(number) in (signal.SIG_DFL, interrupt):
                    self._before[number] = signal.signal(number, self._on_interrupt)

    def open_window(self) -> dict[str, Any]:
        """What the next line of the log, and the mean of all, have seen so far, so that a resumed training writes the
        same lines."""
        world = self.trainer.world
        sums = {name: list(found) for name, found in self.trainer.model.summed(world).items()}
        losses, logged = gather(world, float(self.trainer._tr_loss)), self.trainer._globalstep_last_logged
        loss = sum(losses) / len(losses)
        return {"loss": loss, "sums": sums, "logged": logged, "total": self.trainer._total_loss_scalar}

    def _on_interrupt(self, number, frame):
        if self.interrupted:  # twice: at once
            self.restore()
            raise Interrupted(number)
        self.interrupted = number

    @property
    def stopping(self) -> int:
        """The signal after which the step under way is the last, else 0; all processes have the same answer."""
        if self.trainer.world.size == 1:
            return self.interrupted
        return self.agreed and (self.interrupted or signal.SIGTERM)

    def on_step_end(self, args, state, control, **kwargs):
        per_epoch = state.max_steps // state.num_train_epochs
        if state.global_step % per_epoch == 0:
            return  # the end of the epoch evaluates, then saves; a step earlier would leave out the evaluation
        if self.stopping or (self.steps and state.global_step % self.steps == 0):
            control.should_save = True  # after the line of the log, if this step has one

    def on_save(self, args, state, control, **kwargs):
        if self.stopping and state.global_step < state.max_steps:
            self.restore()
            raise Interrupted(self.stopping)

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self):
        """Give the signals back to whoever had them."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}


class Epochs(TrainerCallback):
    """Lets a training part that changes between epochs know which one begins, also when training resumes in one.

    The part has `begin_epoch(number)`, and `begin_training(seed)` where a seed decides how it changes. The loader's own
    `set_epoch` is not called where batches are skipped.
    """

    def __init__(self, part):
        self.part = part

    def on_train_begin(self, args, state, control, **kwargs):
        if hasattr(self.part, "begin_training"):
            self.part.begin_training(args.seed)

    def on_epoch_begin(self, args, state, control, **kwargs):
        if hasattr(self.part, "begin_epoch"):
            self.part.begin_epoch(state.global_step * state.num_train_epochs // state.max_steps)


class Patience(TrainerCallback):
    """Stops a training whose validation no longer improves.

    It keeps no state: what it counts is in the log, which a resumed training has.

    Args:
        task: by its primary metric epochs are compared; of equal ones that of the lower loss is better, as in what is
            kept.
        epochs: how many in a row may be no better than the best one before them.
    """

    def __init__(self, task: Task, epochs: int):
        self.key, self.sign, self.epochs = f"eval_{task.primary_metric}", 1 if task.higher_is_better else -1, epochs

    def is_over(self, log: list[dict]) -> bool:
        """Whether the log of a training says that it is to end."""
        found = [(self.sign * row[self.key], -row["eval_loss"]) for row in log if self.key in row]
        return bool(found) and len(found) - 1 - found.index(max(found)) >= self.epochs

    def on_evaluate(self, args, state, control, **kwargs):
        control.should_training_stop |= self.is_over(state.log_history)


class Watch(TrainerCallback):
    """Adds the training accuracy to the log and shows the progress."""

    def __init__(self, trainer, progress: Progress):
        self.trainer, self.progress = trainer, progress
        self.loss, self.accuracy = "", ""

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.model.take_averages()
        unit = getattr(self.trainer.train_dataset, "unit", "items")
        size = args.per_device_train_batch_size
        self.progress.start(self.trainer.label, state.max_steps, state.global_step, unit, size)

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.update(state.global_step, self._numbers())

    def _numbers(self) -> str:
        return ", ".join(filter(None, (self.loss, self.accuracy)))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            found = self.trainer.model.take_averages(self.trainer.world)
            logs |= found
            state.log_history[-1] |= found
            self.loss = f"loss {logs['loss']:.3f}"
        if "train_loss" in logs:  # transformers' is divided by the steps of this sitting
            logs["train_loss"] = self.trainer._total_loss_scalar / max(state.global_step, 1)
            state.log_history[-1]["train_loss"] = logs["train_loss"]
        task = self.trainer.model.task
        value = logs.get(f"eval_{task.primary_metric}")
        if value is not None:
            text = (
                f"{value:.1%}"
                if task.primary_metric == "accuracy"
                else f"{value:.3f} {task.primary_metric.replace('_', ' ')}"
            )
            self.accuracy = f"validation {text}"
            self.progress.note(self._numbers())
            self.progress.evaluated(float(value))

    def on_train_end(self, args, state, control, **kwargs):
        self.progress.stop()
