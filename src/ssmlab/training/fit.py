"""A thin layer over transformers.Trainer: our task computes the loss, checkpoints are atomic, NaN stops the run."""

import json
import math
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ProgressCallback

from ssmlab.core.device import Placement, memory_advice, same_random
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.training.average import Average
from ssmlab.training.callbacks import Checkpoints, Epochs, Watch
from ssmlab.training.config import Optimisation
from ssmlab.training.gradients import Gradients
from ssmlab.training.parameters import decayed, frozen_modules, layer_groups
from ssmlab.training.resume import PARTIAL, commit, contiguous, newest_complete
from ssmlab.training.stateful import load_carried, save_carried
from ssmlab.training.task import Task


class TaskModule(nn.Module):
    """Network and task as one module that returns {"loss", "logits"}, which is what the Trainer asks of a model.

    It also keeps the network's own `config` away from the Trainer, which writes into it.
    """

    accepts_loss_kwargs = False  # or the Trainer would take **batch for a wish to count tokens

    def __init__(self, network: nn.Module, task: Task):
        super().__init__()
        self.network, self.task = network, task
        self.frozen = frozen_modules(network)
        self.seen = self.correct = 0  # predictions of training batches since the last log

    def train(self, mode: bool = True):
        """As of any module, except that what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        loss, outputs = self.task.loss(self.network, batch)
        if self.training:
            correct, seen = self.task.right(outputs.detach(), batch["labels"])
            self.correct, self.seen = self.correct + correct, self.seen + seen
        return {"loss": loss, "logits": outputs}

    def take_accuracy(self) -> float | None:
        """Accuracy on the (augmented) training batches since the last call."""
        accuracy = float(self.correct) / float(self.seen) if self.seen else None
        self.seen = self.correct = 0
        return accuracy


class Images(torch.utils.data.Dataset):
    """Images (n, 3, h, w) uint8 and labels in memory, served a batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return self[torch.as_tensor(indices)]


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


class SsmTrainer(Trainer):
    """transformers.Trainer with the few changes that the house needs; use `train`."""

    def __init__(self, *args, label: str, config: Optimisation, gradients: Gradients | None = None, **kwargs):
        self.label, self.config, self.gradients = label, config, gradients
        self.clock = Clock()
        super().__init__(*args, **kwargs)
        self.average = Average(self.model, config.ema, config.ema_warmup) if config.ema else None
        if self.average:
            self.add_callback(self.average)

    def training_step(self, model, inputs, num_items_in_batch=None):
        number = self.state.global_step + 1
        with memory_advice(self.label, self.config), self.gradients.step(number) if self.gradients else nullcontext():
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            epoch, rate = self.state.epoch or 0, self.config.learning_rate
            raise UserError(
                f"{self.label}: the loss is {loss.item()} at step {number} (epoch {epoch:.1f}); the last checkpoint is "
                f"kept; try a lower training.learning_rate (now {rate:g}) or training.precision=float32"
            )
        if self.gradients:
            scaler = self.accelerator.scaler
            self.gradients.after_backward(number, scaler.get_scale() if scaler is not None else 1.0)
        return loss

    def evaluate(self, *args, **kwargs):
        """As the Trainer's, of the averaged weights if there are; training goes on with its own, and with the random
        numbers that it would have had without it."""
        self.clock.pause()
        with same_random(self.args.device.type), self._kept_weights():
            metrics = super().evaluate(*args, **kwargs)
        if self.is_in_train:
            self.clock.run()
        return metrics

    def get_eval_dataloader(self, eval_dataset=None):
        """`dataloader_drop_last` is meant for training; validation sees every image."""
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
        if self.config.layer_decay == 1 or self.optimizer is not None:
            super().create_optimizer(model)
        else:
            kind, options = self.optimizer_cls_and_kwargs
            self.optimizer = kind(optimizer_groups(self.model.network, self.config), **options)
        if self.gradients:
            self.gradients.restore(self.optimizer, self.model)
        return self.optimizer

    def _get_output_dir(self, trial) -> str:
        return os.path.join(self.args.output_dir, PARTIAL)

    def _save_checkpoint(self, model, trial) -> None:
        self.clock.pause()
        folder = Path(self.args.output_dir)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        super()._save_checkpoint(model, trial)
        name = f"checkpoint-{self.state.global_step}"
        (folder / PARTIAL / name / "clock.json").write_text(json.dumps({"seconds": self.clock.seconds}))
        if self.average:
            self.average.save(folder / PARTIAL / name)
        if self.gradients:
            self.gradients.save(folder / PARTIAL / name)
        save_carried(self.model.task, folder / PARTIAL / name)
        commit(folder, name)
        self.clock.run()

    def _save(self, output_dir=None, state_dict=None) -> None:
        os.makedirs(output_dir, exist_ok=True)
        _save_weights(self.model, Path(output_dir) / "model.safetensors")

    def _determine_best_metric(self, metrics, trial) -> bool:
        """A new best epoch also leaves its weights in `best.safetensors`. Of equal ones the lower loss is better."""
        name, best = f"eval_{self.args.metric_for_best_model}", self.state.best_metric
        tie = best is not None and metrics.get(name) == best
        better = super()._determine_best_metric(metrics, trial)
        if tie and not better and metrics["eval_loss"] < self._best_loss():
            self.state.best_global_step, better = self.state.global_step, True
        if better:
            temporary = Path(self.args.output_dir) / "best.partial"
            with self._kept_weights():
                _save_weights(self.model, temporary)
            os.replace(temporary, Path(self.args.output_dir) / "best.safetensors")
        return better

    def _best_loss(self) -> float:
        """The validation loss of the best epoch so far."""
        rows = [row for row in self.state.log_history if row["step"] == self.state.best_global_step]
        return next((row["eval_loss"] for row in rows if "eval_loss" in row), math.inf)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves besides the weights: the seconds it took, the Trainer's log, and what freezing saved."""

    seconds: float
    steps: int
    epoch: float  # of the weights that were kept
    log: list[dict]
    records: list[Record] = field(default_factory=list)


def train(
    network: nn.Module,
    task: Task,
    config: Optimisation,
    train_part: torch.utils.data.Dataset,
    val_part: torch.utils.data.Dataset,
    *,
    folder: Path,
    label: str,
    seed: int,
    placement: Placement,
    logs: Path | None = None,
    progress: Progress | None = None,
    resume: bool = False,
    gradients: Path | None = None,
) -> Trained:
    """Train `network` in place; with `resume` from the newest complete checkpoint in `folder`, bit-equal on the CPU.

    Args:
        train_part, val_part: serve batches by lists of indices; with `begin_epoch` the training part may change between
            epochs, and where it has `lanes`, it is read in its order, so many rows at a time.
        folder: for checkpoints (one is kept) and the best epoch's weights.
        label: how messages call the model.
        logs: a folder for TensorBoard, or None.
        gradients: the folder of gradients.npz, where `config.watch_gradients` or `freeze_by_gradient` asks for it.
    Raises:
        UserError: the loss is not finite, or memory does not suffice.
        KeyboardInterrupt: after a checkpoint of the step that was under way.
    """
    module = TaskModule(network, task)
    if placement.channels_last:
        network.to(memory_format=torch.channels_last)
    arguments = _arguments(config, task, train_part, folder, seed, placement)
    watch = Gradients(network, config, label, progress or Progress()) if Gradients.wanted(config) else None
    trainer = SsmTrainer(
        module,
        arguments,
        label=label,
        config=config,
        gradients=watch,
        data_collator=lambda batch: batch,
        train_dataset=train_part,
        eval_dataset=val_part,
        compute_metrics=lambda found: task.validation(found.predictions, found.label_ids),
        optimizer_cls_and_kwargs=_optimizer(config, placement),
    )
    trainer.remove_callback(ProgressCallback)
    checkpoints = Checkpoints(trainer, config.checkpoint_steps)
    watchers = _watchers(trainer, logs, progress or Progress())
    for callback in (*watchers, Epochs(train_part), *([watch] if watch else []), checkpoints):
        trainer.add_callback(callback)
    checkpoint = newest_complete(folder) if resume else None
    if checkpoint is not None:
        if progress:
            done, (_, steps) = int(checkpoint.name.split("-")[1]), length(config, len(train_part))
            progress.say(f"{label}: goes on after step {done:,} of {steps:,}")
        _load(trainer, watch, checkpoint)
        load_carried(task, network.to(placement.device), checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        checkpoints.restore()
    if checkpoints.interrupted:  # in the last step
        raise KeyboardInterrupt
    trainer.clock.pause()
    epoch = _keep(module, trainer, folder if config.keep == "best" else None)
    kept = _kept(trainer, config, epoch)
    if kept and progress:
        what = kept[0].metric.removeprefix("kept_")
        progress.say(f"{label}: the weights of {what} {kept[0].value:g} of {kept[0].n} are kept")
    network.to(memory_format=torch.contiguous_format)
    if watch and gradients is not None:
        watch.write(gradients)
    return Trained(
        seconds=trainer.clock.seconds,
        steps=trainer.state.global_step,
        epoch=epoch,
        log=trainer.state.log_history,
        records=[*kept, *(watch.records if watch else [])],
    )


def _kept(trainer: SsmTrainer, config: Optimisation, epoch: float) -> list[Record]:
    """Whose weights were kept, where that was chosen: an epoch, or an iteration where these are counted."""
    if config.keep != "best":
        return []
    steps, epochs = trainer.state.max_steps, trainer.state.num_train_epochs
    if hasattr(config, "iterations"):
        return [Record(metric="kept_iteration", value=round(epoch / epochs * steps), unit="count", n=steps)]
    return [Record(metric="kept_epoch", value=round(epoch, 6), unit="count", n=round(epochs))]


def _load(trainer: SsmTrainer, watch: Gradients | None, checkpoint: Path) -> None:
    """What transformers' trainer does not load by itself."""
    trainer.clock.seconds = json.loads((checkpoint / "clock.json").read_text())["seconds"]
    if trainer.average:
        trainer.average.load(checkpoint)
    if watch:
        watch.load(checkpoint)


def _keep(module: nn.Module, trainer: SsmTrainer, folder: Path | None) -> float:
    """The weights of the best epoch, if `folder` has them, else the running averages, if any; whose epoch it is."""
    state = trainer.state
    if folder is not None and (folder / "best.safetensors").exists():
        module.load_state_dict(load_file(folder / "best.safetensors"))
        return state.best_global_step / state.max_steps * state.num_train_epochs
    if trainer.average:
        trainer.average.apply()
    return state.epoch or 0.0


def optimizer_groups(network: nn.Module, config: Optimisation) -> list[dict]:
    """The groups of an optimizer whose learning rate depends on the layer; the first one has the rate of the log."""
    groups = layer_groups(network, config.learning_rate, config.weight_decay, config.layer_decay)
    return sorted(groups, key=lambda group: -group["lr"])


def length(config: Optimisation, images: int) -> tuple[int, int]:
    """Epochs, and all optimisation steps, for so many training images or rows.

    Whole batches only, so that no batch of one image meets a batch norm; a part smaller than a batch is one batch.
    """
    per_epoch = max(images // config.batch_size, 1)
    epochs = max(config.epochs, math.ceil(config.min_steps / per_epoch))
    return epochs, epochs * per_epoch


def _arguments(config: Optimisation, task: Task, part, folder: Path, seed: int, placement: Placement):
    images, lanes = len(part), getattr(part, "lanes", 0)
    epochs, steps = length(config, images)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=lanes or max(config.batch_size, 64),
        train_sampling_strategy="sequential" if lanes else "random",
        dataloader_drop_last=images >= config.batch_size,
        dataloader_pin_memory=placement.device == "cuda",
        max_grad_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule
        if config.warmup == 0 or config.schedule != "constant"
        else "constant_with_warmup",
        lr_scheduler_kwargs={"power": 0.9, "lr_end": 0.0} if config.schedule == "polynomial" else {},
        warmup_steps=math.ceil(config.warmup * steps),
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model=task.decides if config.keep == "best" else None,
        greater_is_better=task.higher if config.keep == "best" else None,
        logging_strategy="steps",
        logging_steps=max(1, steps // 200),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=placement.device == "cpu",
        bf16=placement.precision == "bf16",
        fp16=placement.precision == "fp16",
        report_to=[],
        disable_tqdm=False,  # the ProgressCallback is taken out by name; True would bring a printing one instead
        log_level="error",
    )
    if placement.device == "cuda":
        arguments._n_gpu = 1  # several GPUs in one process would mean DataParallel
    return arguments


def _optimizer(config: Optimisation, placement: Placement):
    if config.optimizer == "sgd":  # as nnU-Net has it
        return torch.optim.SGD, {"lr": config.learning_rate, "momentum": 0.99, "nesterov": True}
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind, {"lr": config.learning_rate, "fused": placement.device in ("cpu", "cuda")}


def _watchers(trainer, logs, progress):
    callbacks = [Watch(trainer, progress)]
    if logs is not None:
        from torch.utils.tensorboard import SummaryWriter

        callbacks.append(TensorBoardCallback(SummaryWriter(str(logs))))
    return callbacks


def _save_weights(module: nn.Module, path: Path) -> None:
    save_file(contiguous(module.state_dict()), path, {"format": "pt"})
