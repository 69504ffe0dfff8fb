"""Gradients during training: their norms in a file, and the parameters frozen that hardly have any."""

import json
import statistics
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.training.config import FitConfig, FreezeByGradient
from ssmlab.training.gradient_norms import GradientNorms, freeze_parameters, norms, units_of
from ssmlab.training.parameters import frozen_modules

FILE, STATE = "gradients.npz", "freezing.json"  # the first one in a model's folder, both in a checkpoint
SKIPPED, KEPT = 3, 500  # the first steps of a phase prepare memory; of longer phases the last timings are kept
BEFORE, AFTER = "before freezing", "after freezing"


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


class Freezing:
    """Watches, freezes once, and measures the steps before and after. Inactive with `config.steps = 0`.

    frozen: names of parameters, in the model's order.
    """

    def __init__(self, network: nn.Module, config: FreezeByGradient, label: str, progress: Progress):
        self.network, self.config, self.label, self.progress = network, config, label, progress
        self.active = config.steps > 0
        self.norms = GradientNorms(units_of(network, config.unit) if self.active else {})
        self.frozen: list[str] = []
        self.seconds: dict[str, list[float]] = {BEFORE: [], AFTER: []}
        self.seen = {BEFORE: 0, AFTER: 0}
        self.memory: dict[str, int] = {}
        self._since, self._paused, self._probed = 0.0, 0.0, False

    @property
    def last(self) -> int:
        """The last step that is watched; the freezing follows it."""
        return self.config.start + self.config.steps

    def watches(self, number: int) -> bool:
        """Whether the gradients of this step count."""
        return self.active and self.config.start < number <= self.last

    def due(self, number: int) -> bool:
        """Whether it is time to freeze, after this step."""
        return self.active and number == self.last

    def begin(self, number: int) -> None:
        """A step begins: the clock runs."""
        if self.active:
            self._wait()
            self._since, self._paused, self._probed = time.perf_counter(), 0.0, False

    def end(self, number: int) -> None:
        """A step is over, the update included."""
        if not self.active:
            return
        self._wait()
        phase = BEFORE if number <= self.last else AFTER
        self.seen[phase] += 1
        if self.seen[phase] > SKIPPED and not self._probed:
            taken = time.perf_counter() - self._since - self._paused
            self.seconds[phase] = [*self.seconds[phase][-KEPT + 1 :], taken]

    def _wait(self) -> None:
        if next(self.network.parameters()).is_cuda:
            torch.cuda.synchronize()

    @contextmanager
    def pause(self):
        """What only watching costs is not part of a step's time."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    def measured(self, number: int) -> Any:
        """In one step of each phase the bytes are counted that the backward pass keeps."""
        phase = BEFORE if number <= self.last else AFTER
        if number == 1 or phase in self.memory:  # in the first step there are no moments yet
            return nullcontext()
        return self._counted(phase)

    @contextmanager
    def _counted(self, phase: str):
        self._probed = True
        own = {p.untyped_storage().data_ptr() for p in self.network.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        trained = sum(p.numel() * p.element_size() for p in self.network.parameters() if p.requires_grad)
        self.memory[phase] = sum(kept.values()) + 3 * trained  # a gradient and two moments

    def freeze(self, optimizer: torch.optim.Optimizer, module: Any) -> None:
        """Choose by what was watched, and go on without the chosen."""
        config, found = self.config, self.norms.units()
        sizes = {name: p.numel() for name, p in self.network.named_parameters()}
        trained = [name for name, p in self.network.named_parameters() if p.requires_grad]
        if config.where == "front":
            units = self.norms.front(config.threshold, config.depth)
        else:
            units = self.norms.quietest(sizes, config.threshold, config.share)
        chosen = {name for unit in units for name in self.norms.members[unit]}
        self.frozen = [name for name in trained if name in chosen]
        self.apply(optimizer, module)
        share = sum(sizes[name] for name in self.frozen) / max(sum(sizes[name] for name in trained), 1)
        listed = ", ".join(f"{unit} ({found[unit]:.2g})" for unit in units) or "nothing"
        self.progress.say(f"{self.label}: frozen after step {self.last}, {share:.0%} of what was trained: {listed}")

    def apply(self, optimizer: torch.optim.Optimizer, module: Any) -> None:
        """Freeze `frozen`; modules of which nothing is trained stay in evaluation mode from now on."""
        freeze_parameters(self.network, self.frozen, optimizer)
        module.frozen = frozen_modules(self.network)

    def state(self) -> dict:
        """What a resumed training needs."""
        return {
            "frozen": self.frozen,
            "steps": self.norms.steps,
            "gradients": self.norms.gradients,
            "weights": self.norms.weights,
            "seconds": self.seconds,
            "seen": self.seen,
            "memory": self.memory,
        }

    def load(self, state: dict) -> None:
        self.frozen, self.seconds, self.memory, self.seen = (
            state[key] for key in ("frozen", "seconds", "memory", "seen")
        )
        self.norms.steps, self.norms.gradients, self.norms.weights = (
            state[key] for key in ("steps", "gradients", "weights")
        )

    @property
    def records(self) -> list[Record]:
        """Frozen parameters by name with their mean relative gradient norm; seconds and bytes of a step."""
        if not self.active:
            return []
        values = dict(self.network.named_parameters())
        found = [
            Record(metric="frozen", value=self.norms.relative([name]), class_=name, n=self.norms.steps, step=self.last)
            for name in self.frozen
        ]
        found.append(Record(metric="frozen_values", value=sum(values[n].numel() for n in self.frozen), unit="count"))
        for phase, seconds in self.seconds.items():
            if seconds:
                spread = (min(seconds), max(seconds))
                middle = statistics.median(seconds)
                found.append(
                    Record(
                        metric="seconds_per_step",
                        value=middle,
                        unit="seconds",
                        class_=phase,
                        n=len(seconds),
                        spread=spread,
                    )
                )
        return found + [
            Record(metric="training_memory", value=count, unit="bytes", class_=phase)
            for phase, count in self.memory.items()
        ]
