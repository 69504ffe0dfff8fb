"""Fitting a model to a task: one function on transformers.Trainer, which is bit-equal when it goes on after a kill."""

import json
import math
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ProgressCallback, TrainerState
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from ssmlab.core.device import ComputeConfig, choose_compute, memory_advice, same_random
from ssmlab.core.errors import Interrupted, UserError
from ssmlab.core.files import write_tensors, writing
from ssmlab.core.lock import locked
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.training import resume as resuming
from ssmlab.training.arguments import arguments_of
from ssmlab.training.average import Average
from ssmlab.training.callbacks import Checkpoints, Clock, Epochs, Patience, Watch
from ssmlab.training.config import FitConfig
from ssmlab.training.curves import curves
from ssmlab.training.dataset import Position, StreamDataset, as_dataset
from ssmlab.training.distributed import agree, explained, gather, seed_apart, sharing, start, wait, whole, whole_state
from ssmlab.training.gradients import Gradients
from ssmlab.training.nonfinite import LastStep
from ssmlab.training.parallel import Parallel
from ssmlab.training.parameters import decayed, optimizer_groups, optimizer_of
from ssmlab.training.resume import PARTIAL, contiguous
from ssmlab.training.task import Task

CHECKPOINTS = "checkpoints"  # in the folder of a fit


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A trained model, and what training left.

    Args:
        model: trained in place, with the weights that were kept, in evaluation mode.
        history: the log; a row has "step", "epoch" and the numbers of the training part ("loss", "learning_rate", an
            accuracy) or of the validation part ("eval_loss", "eval_<metric>").
        seconds, steps: of optimisation; validation and saving are left out.
        epoch: that of the weights that were kept.
        found: records of the fit as a whole: whose weights were kept, what was frozen and what that saved.
    """

    model: nn.Module
    history: list[dict]
    seconds: float
    steps: int
    epoch: float
    found: list[Record] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """The curves of both parts (by `split`), seconds and steps, and what was found."""
        rows = [replace(row, split=split) for split, part in curves(self.history).items() for row in part]
        return [*rows, Record(metric="train_seconds", value=self.seconds, unit="seconds", n=self.steps), *self.found]


def fit(
    model: nn.Module,
    task: Task,
    train: Any,
    val: Any = None,
    config: FitConfig | None = None,
    *,
    folder: Path | str | None = None,
    device: ComputeConfig | str | None = None,
    label: str = "",
    seed: int = 0,
    progress: Progress | None = None,
    resume: bool = True,
    logs: Path | None = None,
    kept: tuple[Any, ...] = (),
) -> FitResult:
    """Train a model in place; with a launcher such as torchrun together with its other processes.

    Args:
        model, task: any module, and what a batch and its outputs mean.
        train, val: datasets of torch, map-style or iterable, whose items the task's `collate` makes a batch of; one
            whose `__getitems__` returns a batch is used as it is. The training part may change, see `callbacks.Epochs`;
            with `streams` it is read in its order, so many items at a time: 1, where an item is a whole batch.
        config, logs: None takes the defaults of `FitConfig`; a folder for TensorBoard.
        folder: for checkpoints and gradients.npz, which the first of several processes writes; None: no file at all.
        device: "cpu", "cuda", "mps", or a device with its precision; None takes the fastest.
        label, seed: what messages call the model; what decides the order of the items, dropout and augmentation.
        resume: go on from the newest complete checkpoint in the folder, bit-equal on the CPU; else begin again.
        kept: what else belongs to a checkpoint, with `save(folder)` for one that is written and `load(folder)`.
    Raises:
        UserError: the loss is not finite, memory or data are not in order, another process trains there, or has gone.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, with a checkpoint of the step that was under way.
    """
    config, progress = config or FitConfig(), progress or Progress()
    label = label or getattr(model, "registry_name", None) or type(model).__name__
    if not isinstance(device, ComputeConfig):
        device = choose_compute(device or "auto", config.precision, config.channels_last)
    train = as_dataset(train, config.batch_size, config.epochs, config.min_steps)
    if val is not None:
        val = as_dataset(list(val) if isinstance(val, IterableDataset) else val, config.batch_size)
    elif config.keep == "best" or config.patience:
        raise UserError("keep='best' chooses by the validation part, and so does patience; give one, or leave both out")
    if device.channels_last:
        model.to(memory_format=torch.channels_last)
    world = start(device.device)
    own = None if folder is None or world.rank else Path(folder)  # the others read the first one's checkpoints
    with locked(own / CHECKPOINTS) if own else tempfile.TemporaryDirectory() as place, explained(world):
        trainer = SsmTrainer(model, task, train, val, config, Path(place), device, label=label, seed=seed, world=world,
                             saves=folder is not None, progress=progress, logs=logs, kept=kept)  # fmt: skip
        trainer.fit(resume and folder is not None)
        found, epoch = trainer.keep()
    for record in found:
        what = record.metric.removeprefix("kept_")
        progress.say(f"{label}: the weights of {what} {record.value:g} of {record.n} are kept")
    model.eval().to(memory_format=torch.contiguous_format)
    found += trainer.gradients.records if trainer.gradients else []
    if trainer.gradients and own:
        trainer.gradients.write(own)
    return FitResult(model=model, history=trainer.state.log_history, seconds=trainer.clock.seconds,
                     steps=trainer.state.global_step, epoch=epoch, found=found)  # fmt: skip


class SsmTrainer(Trainer):
    """transformers.Trainer with the few changes that the house needs; use `fit`."""

    optimizer: Any
    _weights: dict[str, Any]  # of the checkpoint that is being written

    def __init__(
        self, network, task, train, val, config, folder, device, *, label, seed, world, saves, progress, logs, kept
    ):
        if size := getattr(train, "streams", 0):
            config = config.model_copy(update={"batch_size": size})
        self.label, self.config, self.saves, self.progress = label, config, saves, progress
        self.clock, self.world = Clock(), world
        arguments = arguments_of(config, task, train, val, folder, seed, device)
        self.parallel = Parallel(network, task, config, world, arguments.device)
        super().__init__(
            self.parallel.module,
            arguments,
            data_collator=lambda found: found if isinstance(found, dict) else task.collate(found),
            train_dataset=self.parallel.share(train),
            eval_dataset=self.parallel.share(val),
            compute_metrics=self._metrics,
            optimizer_cls_and_kwargs=optimizer_of(config, device),
        )
        self.remove_callback(ProgressCallback)
        self.gradients = Gradients(network, config, label, progress) if Gradients.wanted(config) else None
        self.average = Average(self.model, config.ema, config.ema_warmup) if config.ema else None
        self.kept_parts: list[Any] = [*kept, *filter(None, (self.average, self.gradients))]  # in a checkpoint
        self.kept_parts += [Position(train, self)] if isinstance(train, StreamDataset) and train.has_position else []
        self.checkpoints, self.last_step = Checkpoints(self, config.checkpoint_steps), LastStep(self)
        self.patience = Patience(task, config.patience) if config.patience else None
        callbacks: list[Any] = [self.average, Watch(self, progress)]
        if logs is not None and world.rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            callbacks.append(TensorBoardCallback(SummaryWriter(str(logs))))
        for callback in (*callbacks, Epochs(train), self.gradients, self.patience, self.checkpoints):
            if callback is not None:
                self.add_callback(callback)

    def fit(self, resume: bool) -> None:
        """Train, with `resume` from the newest complete checkpoint if there is one."""
        self.checkpoints.listen()  # before anything is loaded: nothing is interrupted half-way
        try:
            self._fit(resume)
        finally:
            self.checkpoints.restore()
        if number := max(gather(self.world, self.checkpoints.interrupted)):  # in the last step, or where none was left
            raise Interrupted(number)
        self.clock.pause()

    def _fit(self, resume: bool) -> None:
        """`fit`, while signals wait."""
        for note in self.parallel.notes():
            self.progress.say(f"{self.label}: {note}")
        folder = Path(self.args.output_dir)
        for flaw in resuming.flaws(folder) if resume else ():
            self.progress.say(f"{self.label}: {flaw}; that checkpoint is left out")
        self.place, checkpoint = agree(  # where the first process reads and writes
            self.world, (folder.absolute(), resuming.newest_complete(folder.absolute()) if resume else None)
        )
        if checkpoint is not None:  # what transformers' trainer does not load by itself
            done, steps = int(checkpoint.name.split("-")[1]), self.config.length(len(self.train_dataset))[1]
            self.progress.say(f"{self.label}: goes on after step {done:,} of {steps:,}")
            clock = resuming.check_same(checkpoint, self.model, self.config)
            if other := resuming.other_circumstances(clock, self.args.device.type, self.world.size):
                self.progress.say(f"{self.label}: with {other}: the last bits may not be those of an unbroken training")
            self.clock.seconds, self.checkpoints.window = clock["seconds"], clock.get("window", {})
            for part in self.kept_parts:
                part.load(checkpoint)
            resuming.load_states(self.model.task, self.model.network.to(self.args.device), checkpoint, self.world)
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if self.patience and self.patience.is_over(state.log_history):  # it was over before it was killed
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                return
        seed_apart(self.world, self.args.seed)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _metrics(self, found: Any, network: Any = None) -> dict[str, float]:
        """Of the validation part: those of the outputs, and those for which the task lets the model write."""
        task = self.model.task
        metrics = task.validation(found.predictions, found.label_ids)
        if not hasattr(task, "decoded"):
            return metrics
        with sharing(self.world):
            return metrics | task.decoded(network or self.model.network)

    def keep(self) -> tuple[list[Record], float]:
        """Give the model the weights of the best epoch, if one was chosen, else the running averages, if any.

        Returns:
            whose they are, where that was chosen: an epoch, or an iteration where these are counted; and the epoch.
        """
        state = self.state
        epoch = state.epoch or 0.0
        if self.config.keep == "best" and state.best_global_step:
            best = resuming.best_weights(self.place, state.best_global_step)
            self.parallel.load_weights(load_file(best))
            wait(self.world)  # all have read it before the first process goes on
            epoch = state.best_global_step / state.max_steps * state.num_train_epochs
        elif self.average:
            self.average.apply()
        self.parallel.finish()
        if self.config.keep != "best":
            return [], epoch
        if getattr(self.train_dataset, "counts", "epochs") == "iterations":
            steps = round(epoch / state.num_train_epochs * state.max_steps)
            return [Record(metric="kept_iteration", value=steps, unit="count", n=state.max_steps)], epoch
        epochs = round(state.num_train_epochs)
        return [Record(metric="kept_epoch", value=round(epoch, 6), unit="count", n=epochs)], epoch

    def training_step(self, model, inputs, num_items_in_batch=None):
        number = self.state.global_step + 1
        self.last_step.begin(inputs)
        with memory_advice(self.label, self.config), self.gradients.step(number) if self.gradients else nullcontext():
            one = partial(super().training_step, model)
            if self.parallel.active:
                held, interrupted = partial(self.parallel.held, model), bool(self.checkpoints.interrupted)
                loss, self.checkpoints.agreed = self.parallel.step(inputs, one, held, interrupted)
            else:
                loss = one(inputs)
        self.last_step.check(loss, "the loss")
        if self.gradients:
            scaler = self.accelerator.scaler
            self.gradients.after_backward(number, scaler.get_scale() if scaler is not None else 1.0)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = whole(super()._get_grad_norm(model, grad_norm))
        scaled = self.accelerator.scaler is not None  # which leaves such a step out
        return norm if scaled else self.last_step.check(norm, "the norm of the gradient")

    def evaluate(self, *args, **kwargs):
        """As the Trainer's, of the averaged weights if there are; training goes on with its own, and with the random
        numbers that it would have had without it."""
        self.clock.pause()
        with same_random(self.args.device.type), self._kept_weights():
            metrics = super().evaluate(*args, **kwargs)
        if self.is_in_train:
            self.clock.run()
        return metrics

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
        """Several processes predict a share of every batch each; all of them get all outputs."""
        if self.world.size == 1:
            kwargs["metric_key_prefix"] = metric_key_prefix
            return super().evaluation_loop(dataloader, description, *args, **kwargs)
        module = self.parallel.evaluated()
        found, labels = self.parallel.outputs(dataloader, self._prepare_inputs, module.eval())
        metrics = self._metrics(EvalPrediction(predictions=found, label_ids=labels), module.network)
        self.parallel.release()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=found, label_ids=labels, metrics=metrics, num_samples=len(found))

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.parallel.adjust(self.accelerator)

    def get_eval_dataloader(self, eval_dataset=None):
        """`dataloader_drop_last` is meant for training; validation sees every item."""
        self.args.dataloader_drop_last, drop = False, self.args.dataloader_drop_last
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop

    def _kept_weights(self):
        return self.average.applied() if self.average else nullcontext()

    def get_decay_parameter_names(self, model) -> list[str]:
        return [f"network.{name}" for name in decayed(model.network)]

    def create_optimizer(self, model=None):
        plain = self.config.layer_decay == 1 and not self.config.rates
        if plain or self.optimizer is not None:
            super().create_optimizer(model)
        else:
            kind, options = self.optimizer_cls_and_kwargs
            self.optimizer = kind(optimizer_groups(self.model.network, self.config), **options)
        if self.gradients:
            self.gradients.restore(self.optimizer, self.model)
        return self.optimizer

    def _get_output_dir(self, trial) -> str:
        return str(Path(self.args.output_dir) / PARTIAL)

    def _save_checkpoint(self, model, trial) -> None:
        if not self.saves:
            return
        self.clock.pause()
        folder = Path(self.args.output_dir)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        name = f"checkpoint-{self.state.global_step}"
        config, on = self.config.model_dump(mode="json"), resuming.circumstances(self.args.device.type, self.world.size)
        clock = {"seconds": self.clock.seconds, "config": config, "on": on, "window": self.checkpoints.open_window()}
        with writing(folder / name):
            self._weights, states = whole_state(self.model), resuming.whole_states(self.model.task, self.world)
            super()._save_checkpoint(model, trial)  # the other processes' files are in folders that are thrown away
            self._weights = {}
            if self.world.rank == 0:
                (folder / PARTIAL / name / "clock.json").write_text(json.dumps(clock))
                for part in self.kept_parts:
                    part.save(folder / PARTIAL / name)
                if states:
                    write_tensors(folder / PARTIAL / name / resuming.STATES, states)
                resuming.commit(folder, name, self.state.best_global_step)
            wait(self.world)
        self.clock.run()

    def _save(self, output_dir=None, state_dict=None) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        write_tensors(Path(output_dir) / "model.safetensors", contiguous(self._weights), {"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        self.parallel.load_weights(load_file(Path(resume_from_checkpoint) / "model.safetensors"))

    def _save_optimizer_and_scheduler(self, output_dir) -> None:
        if not self.parallel.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
        elif (state := self.parallel.optimizer_state(self.optimizer)) and self.world.rank == 0:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        if checkpoint is None or not self.parallel.sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        files = (Path(checkpoint) / f"{name}.pt" for name in ("optimizer", "scheduler"))
        optimizer, scheduler = (torch.load(file, "cpu", weights_only=True) for file in files)
        self.parallel.load_optimizer(self.optimizer, optimizer)
        self.lr_scheduler.load_state_dict(scheduler)

    def _save_rng_state(self, output_dir) -> None:
        if self.world.size == 1:
            super()._save_rng_state(output_dir)
        else:
            self.parallel.save_random(Path(output_dir))

    def _load_rng_state(self, checkpoint) -> None:
        if self.world.size == 1:
            super()._load_rng_state(checkpoint)
        elif checkpoint is not None:
            self.parallel.load_random(Path(checkpoint), self.args.seed, self.state.global_step)

    def _determine_best_metric(self, metrics, trial) -> bool:
        """A new best epoch also leaves its weights in a file. Of equal ones the lower loss is better."""
        name, best = f"eval_{self.args.metric_for_best_model}", self.state.best_metric
        tie = best is not None and metrics.get(name) == best
        better = super()._determine_best_metric(metrics, trial)
        if tie and not better:
            rows = [row for row in self.state.log_history if row["step"] == self.state.best_global_step]
            if metrics["eval_loss"] < next((row["eval_loss"] for row in rows if "eval_loss" in row), math.inf):
                self.state.best_global_step, better = self.state.global_step, True
        if better:
            with self._kept_weights():
                self._write_weights(Path(self.args.output_dir) / resuming.BEST.format(self.state.global_step))
        return better

    def _write_weights(self, path: Path) -> None:
        weights = whole_state(self.model)
        if self.world.rank == 0:
            write_tensors(path, contiguous(weights), {"format": "pt"})
        wait(self.world)
