"""Which parts of a network hardly learn: gradients watched for some steps, relative to what they would change."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssmlab.core.errors import UserError

UNITS = ("layer", "parameter")
TINY = 1e-12  # a parameter of zeros has no norm to compare with: whatever gradient it has is large


def units_of(model: nn.Module, unit: str = "layer") -> dict[str, list[str]]:
    """What is frozen as one: names of parameters by the name of their unit, in the model's order.

    "parameter": each is its own. "layer": those of a block, which is the innermost numbered module that has modules
    inside ("layers.1.blocks.0", "backbone.layers.3"), else of the outermost module ("patch_embed", "classifier").
    A block learns as one, and only where nothing is left to train in it and before it, the backward pass ends early.
    """
    if unit not in UNITS:
        raise UserError(f"unit must be {' or '.join(UNITS)}, got {unit!r}")
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        found.setdefault(name if unit == "parameter" else _block(model, name), []).append(name)
    return found


def _block(model: nn.Module, name: str) -> str:
    parts = name.split(".")[:-1]
    for end in range(len(parts), 1, -1):
        if parts[end - 1].isdigit() and any(True for _ in model.get_submodule(".".join(parts[:end])).children()):
            return ".".join(parts[:end])
    return parts[0] if parts else name


@dataclass
class GradientNorms:
    """Means over steps of the relative gradient norm, ||g|| / ||p|| in the 2-norm, of parameters and of units.

    Of several parameters together both norms go over all of them: sqrt(sum ||g_i||^2) / sqrt(sum ||p_i||^2), with the
    means over the steps of ||g_i||^2 and ||p_i||^2.

    members: names of parameters by unit, in the order of depth.
    steps: how many were added.
    gradients, weights: sums over the steps of the squared norms, by name of a parameter that was trained.
    """

    members: dict[str, list[str]]
    steps: int = 0
    gradients: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, gradients: dict[str, float], weights: dict[str, float]) -> None:
        """One step: norms of the gradients and of the parameters that were trained in it, by name."""
        self.steps += 1
        for name, norm in gradients.items():
            self.gradients[name] = self.gradients.get(name, 0.0) + norm**2
            self.weights[name] = self.weights.get(name, 0.0) + weights[name] ** 2

    def relative(self, names: Iterable[str]) -> float:
        """The relative gradient norm of some parameters together."""
        trained = [name for name in names if name in self.gradients]
        up, down = (sum(sums[name] for name in trained) ** 0.5 for sums in (self.gradients, self.weights))
        return up / max(down, TINY)

    def units(self) -> dict[str, float]:
        """The relative gradient norm of every unit with something to train, in the order of depth."""
        trained = {unit: [name for name in names if name in self.gradients] for unit, names in self.members.items()}
        return {unit: self.relative(names) for unit, names in trained.items() if names}

    def front(self, threshold: float, depth: float) -> list[str]:
        """The longest row of units from the input on that stay below `threshold` times the median unit together.

        It is no longer than the share `depth` of all units, rounded up. Where it is frozen, the backward pass ends
        after it.
        """
        found, best = self.units(), 0
        names, middle = list(found), statistics.median(found.values()) if found else 0.0
        for end in range(1, min(math.ceil(depth * len(names)), len(names) - 1) + 1):
            if self.relative(n for unit in names[:end] for n in self.members[unit]) < threshold * middle:
                best = end
        return names[:best]

    def quietest(self, sizes: dict[str, int], threshold: float, share: float) -> list[str]:
        """Units wherever they are, from the least relative norm on: those below `threshold` times the median of all
        units, as long as they hold at most `share` of the values that are trained.

        Args:
            sizes: numbers of values of the parameters, by name.
        """
        found, counts = self.units(), self._counts(sizes)
        middle = statistics.median(found.values()) if found else 0.0
        room, chosen = share * sum(counts.values()), set()
        for unit in sorted(found, key=lambda unit: found[unit]):
            room -= counts[unit]
            if room < 0 or found[unit] >= threshold * middle:
                break
            chosen.add(unit)
        return [unit for unit in found if unit in chosen]

    def _counts(self, sizes: dict[str, int]) -> dict[str, int]:
        return {unit: sum(sizes[n] for n in self.members[unit] if n in self.gradients) for unit in self.units()}


def norms(tensors: Iterable[Tensor]) -> list[float]:
    """2-norms, computed together."""
    found = [tensor.detach() for tensor in tensors]
    return torch.stack(torch._foreach_norm(found)).double().tolist() if found else []


def freeze_parameters(model: nn.Module, names: Iterable[str], optimizer: torch.optim.Optimizer | None = None) -> None:
    """Take parameters out of the training: no gradient, and no moments in the optimizer.

    The optimizer keeps its groups, so that a schedule goes on; those of frozen parameters may become empty.
    """
    parameters = dict(model.named_parameters())
    frozen = {id(parameters[name]) for name in names}
    for parameter in parameters.values():
        if id(parameter) in frozen:
            parameter.requires_grad, parameter.grad = False, None
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in frozen:
                optimizer.state.pop(parameter, None)
        group["params"] = [p for p in group["params"] if id(p) not in frozen]
