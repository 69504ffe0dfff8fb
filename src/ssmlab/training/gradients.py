"""Gradients during training: their norms in a file, and the parameters frozen that hardly have any."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.training.config import FitConfig
from ssmlab.training.freezing import Freezing
from ssmlab.training.gradient_norms import norms

FILE, STATE = "gradients.npz", "freezing.json"  # the first one in a model's folder, both in a checkpoint


class Gradients(TrainerCallback):
    """Writes down the norms of gradients and parameters every so many steps, and hands them to what freezes.

    Independent of the task: it sees a network, its parameters and the steps.

    Args:
        network: on the device where it is trained.
        config: `watch_gradients` and `freeze_by_gradient` are read.
        label: how messages call the model.
    """

    def __init__(self, network: nn.Module, config: FitConfig, label: str, progress: Progress):
        self.network, self.every = network, config.watch_gradients
        self.names = [name for name, p in network.named_parameters() if p.requires_grad]
        self.steps: list[int] = []
        self.rows: list[np.ndarray] = []  # (2, parameters): of the gradients, of the parameters; NaN without one
        self.freezing = Freezing(network, config.freeze_by_gradient, label, progress)
        self._loaded: list[str] = []

    @staticmethod
    def wanted(config: FitConfig) -> bool:
        """Whether a recipe asks for anything of it."""
        return bool(config.watch_gradients or config.freeze_by_gradient.steps)

    def step(self, number: int) -> Any:
        """A context around the passes of step `number`, counted from 1."""
        return self.freezing.measured(number) if self.freezing.active else nullcontext()

    def after_backward(self, number: int, scale: float = 1.0) -> None:
        """Look at the gradients of step `number`, before they are clipped; they are `scale` times too large."""
        watched = self.freezing.watches(number)
        if not watched and not (self.every and number % self.every == 0):
            return
        with self.freezing.pause():
            parameters = dict(self.network.named_parameters())
            found = [name for name in self.names if parameters[name].grad is not None]
            grads = (parameters[name].grad for name in found)
            up = [norm / scale for norm in norms(grad for grad in grads if grad is not None)]
            down = norms(parameters[name] for name in found)
            row = np.full((2, len(self.names)), np.nan)
            row[:, [self.names.index(name) for name in found]] = up, down
            self.steps.append(number)
            self.rows.append(row)
            if watched:
                self.freezing.norms.add(dict(zip(found, up, strict=True)), dict(zip(found, down, strict=True)))

    def on_step_begin(self, args, state, control, **kwargs):
        self.freezing.begin(state.global_step + 1)

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.freezing.end(state.global_step)
        if self.freezing.due(state.global_step):
            self.freezing.freeze(optimizer, model)

    def write(self, folder: Path) -> None:
        """`gradients.npz`: names (p,), steps (s,), gradients and weights (s, p) with their norms, frozen (names)."""
        if not self.rows:
            return
        rows = np.stack(self.rows, 1).astype(np.float32)
        arrays = {"names": np.array(self.names), "steps": np.array(self.steps), "gradients": rows[0]}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{FILE}.partial.npz"
        np.savez_compressed(temporary, **arrays, weights=rows[1], frozen=np.array(self.freezing.frozen, dtype=str))
        temporary.replace(folder / FILE)

    def save(self, folder: Path) -> None:
        """Everything that a resumed training needs, in a checkpoint."""
        self.write(folder)
        (folder / STATE).write_text(json.dumps(self.freezing.state()), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """What `save` wrote; `restore` then freezes."""
        if (folder / FILE).is_file():
            with np.load(folder / FILE) as found:
                self.names, self.steps = found["names"].tolist(), found["steps"].tolist()
                self.rows = list(np.stack([found["gradients"], found["weights"]], 1).astype(float))
        if (folder / STATE).is_file():
            self.freezing.load(json.loads((folder / STATE).read_text(encoding="utf-8")))

    def restore(self, optimizer: torch.optim.Optimizer, module: Any) -> None:
        """Freeze again what was frozen when a checkpoint was written, before the optimizer's state is loaded."""
        if self.freezing.frozen:
            self.freezing.apply(optimizer, module)

    @property
    def records(self) -> list[Record]:
        """What was frozen, and the time and memory of a step before and after."""
        return self.freezing.records
