"""NaN and infinity in training: the step stops before the weights change, and repeating it says where they begin.

The repeated step has the same batch, random numbers and carried state. Every operator's results are looked at, forward
and backward; the first one that makes what its arguments did not have is named, with its layer.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssmlab.core.errors import UserError

# Operators whose results are memory that nobody has written yet, or may be infinite on purpose, as masks are
_ANYTHING = ("empty", "resize", "new_empty")
_MASKS = ("full", "fill", "where", "scalar_tensor", "log", "lift")


class LastStep:
    """What the step under way began with, and the check of its numbers.

    Args:
        trainer: whose step it is.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._began: tuple[Any, ...] = ()

    def begin(self, inputs: dict[str, Any]) -> None:
        """Remember what a step begins with."""
        cuda = torch.cuda.get_rng_state() if self.trainer.args.device.type == "cuda" else None
        self._began = inputs, torch.get_rng_state(), cuda, dict(getattr(self.trainer.model.task, "states", {}))

    def check(self, value: Any, what: str) -> Any:
        """The value, if it is finite.

        Raises:
            UserError: it is not; names step, layer and operator.
        """
        trainer = self.trainer
        if torch.isfinite(torch.as_tensor(value)).all():
            return value
        config, step, epoch = trainer.config, trainer.state.global_step + 1, trainer.state.epoch or 0
        raise UserError(
            f"{trainer.label}: {what} is {float(value)} at step {step} (epoch {epoch:.1f}): {self._where()}; "
            f"the last checkpoint is kept; try a lower training.learning_rate (now {config.learning_rate:g}) or "
            "training.precision=float32"
        )

    def _where(self) -> str:
        """In words, where the step that is repeated has its first NaN or infinity."""
        if self.trainer.parallel.sharded:
            return "where it begins is not looked for in a model of shards"
        module, (inputs, random, cuda, states) = self.trainer.model, self._began
        weights = next((name for name, tensor in module.network.named_parameters() if _bad(tensor)), "")
        batch = self.trainer._prepare_inputs(inputs)
        for name, tensor in batch.items():
            if _bad(tensor):
                return f"the batch's {name} are not finite"
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        if states:
            module.task.states.update(states)
        with _layers(module.network) as now, _Finder(now, spreads=bool(weights)) as finder:
            with self.trainer.compute_loss_context_manager():
                loss, _ = module.task.loss(module.network, batch)
            now["pass"] = "backward"
            if not finder.found:
                loss.backward()
        if weights:
            return f"the weights {weights} are not finite, {finder.found or 'and were not used'}"
        # after the step, which may itself have brought what it met into the averages of a batch norm
        buffers = (f"the buffer {name} is not finite" for name, held in module.network.named_buffers() if _bad(held))
        return finder.found or next(buffers, "not seen again when the step was repeated")


class _Finder(TorchDispatchMode):
    """Looks at what operators return; `found` names the first that makes a NaN or an infinity.

    Args:
        now: what `_layers` gives.
        spreads: the first one is named that hands on what an argument already has, views apart.
    """

    def __init__(self, now: dict[str, Any], *, spreads: bool = False):
        super().__init__()
        self.now, self.spreads, self.found = now, spreads, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        watched = not self.found and not any(word in name for word in _ANYTHING)
        if self.spreads:
            watched, before = watched and not func.is_view, False
        else:
            before = watched and any(_bad(leaf) for leaf in tree_leaves((args, kwargs)))
        out = func(*args, **kwargs)
        if watched and not before:
            masks = any(word in name for word in _MASKS)
            if any(torch.isnan(leaf).any() if masks and _number(leaf) else _bad(leaf) for leaf in tree_leaves(out)):
                layer = self.now["layers"][-1] or "the loss"
                self.found = f"first in layer {layer}, operator {func._schema.name}, {self.now['pass']} pass"
        return out


@contextmanager
def _layers(network: nn.Module) -> Iterator[dict[str, Any]]:
    """Which layer computes: "layers", a stack of names, and "pass"; in the backward pass the layer whose output's
    gradient came last."""
    now: dict[str, Any] = {"layers": [""], "pass": "forward"}
    marked: set[int] = set()

    def begins(name: str):
        return lambda module, inputs: now["layers"].append(name)

    def ends(name: str):
        def hook(module, inputs, outputs):
            now["layers"].pop()
            for leaf in tree_leaves(outputs):
                if isinstance(leaf, Tensor) and leaf.requires_grad and id(leaf) not in marked:
                    marked.add(id(leaf))  # the innermost layer comes first, those around it return the same tensor
                    kept.append(leaf)
                    leaf.register_hook(lambda gradient: now["layers"].__setitem__(-1, name))

        return hook

    kept: list[Tensor] = []  # so that no other tensor gets the number of one of them
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if name:
                hooks.callback(module.register_forward_pre_hook(begins(name)).remove)
                hooks.callback(module.register_forward_hook(ends(name), always_call=True).remove)
        yield now


def _number(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and leaf.device.type != "meta"


def _bad(leaf: Any) -> bool:
    """Whether it is a tensor with a NaN or an infinity."""
    return _number(leaf) and not bool(torch.isfinite(leaf).all())
