"""What transformers' trainer is configured by."""

from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ssmlab.core.device import ComputeConfig
from ssmlab.training.config import FitConfig
from ssmlab.training.task import Task


def arguments_of(config: FitConfig, task: Task, train: Any, val: Any, folder: Path, seed: int, device: ComputeConfig):
    """The arguments of a training; its batches are those of all processes together."""
    items, streams = len(train), getattr(train, "streams", 0)
    epochs, steps = config.length(items)
    best = config.keep == "best"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=streams or max(config.batch_size, 64),
        train_sampling_strategy="sequential" if streams else "random",
        dataloader_drop_last=items >= config.batch_size,
        dataloader_pin_memory=device.device == "cuda",
        max_grad_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule
        if config.warmup == 0 or config.schedule != "constant"
        else "constant_with_warmup",
        lr_scheduler_kwargs={"power": 0.9, "lr_end": 0.0} if config.schedule == "polynomial" else {},
        warmup_steps=config.warmup_steps(steps),
        seed=seed,
        data_seed=seed,
        eval_strategy="no" if val is None else "epoch",
        save_strategy="epoch",
        metric_for_best_model=task.primary_metric if best else None,
        greater_is_better=task.higher_is_better if best else None,
        logging_strategy="steps",
        logging_steps=max(1, steps // 200),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=device.device == "cpu",
        bf16=device.precision == "bf16",
        fp16=device.precision == "fp16",
        report_to=[],
        disable_tqdm=False,  # the ProgressCallback is taken out by name; True would bring a printing one instead
        log_level="error",
    )
    if device.device == "cuda":
        arguments._n_gpu = 1  # several GPUs in one process would mean DataParallel
    return arguments
