"""The singular values of a model's linear layers, which say how much a lower rank would lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.errors import UserError
from ssmlab.profiling.flops import evaluation


@dataclass(frozen=True)
class Spectrum:
    """W = U diag(values) V of a layer with n inputs and m outputs, in float64 on the CPU; k = min(m, n).

    name: of the layer in the model.
    U, values, V: (m, k), (k,) in descending order, (k, n).
    positions: rows that the layer multiplies in one forward pass, 1 where no inputs were given.
    eps: the relative rounding error of the layer's own dtype.
    """

    name: str
    U: Tensor
    values: Tensor
    V: Tensor
    positions: int
    eps: float

    @property
    def full(self) -> int:
        """The largest rank there is, k."""
        return len(self.values)

    @property
    def cost(self) -> int:
        """Multiply-accumulates of one more direction: positions (m + n)."""
        return self.positions * (self.U.shape[0] + self.V.shape[1])

    @property
    def dense_cost(self) -> int:
        """Multiply-accumulates of the dense layer: positions m n."""
        return self.positions * self.U.shape[0] * self.V.shape[1]

    @property
    def shares(self) -> Tensor:
        """The share of ||W||_F^2 that each direction holds, (k,)."""
        energies = self.values.square()
        total = energies.sum()
        return energies / total if total > 0 else torch.full_like(energies, 1 / len(energies))

    def energy(self, rank: int) -> float:
        """The share of ||W||_F^2 that the first `rank` directions hold."""
        return min(1.0, float(self.shares[:rank].sum()))


def spectra(model: nn.Module, targets: str | Sequence[str] = "in_proj", inputs: Any = None) -> list[Spectrum]:
    """Decompose the weights of linear layers.

    Args:
        targets: which layers, by their whole name or its last part, with the wildcards * and ?.
        inputs: one example of the model's argument, or a tuple of them, by which positions are counted.
    Raises:
        UserError: a target names no linear layer.
    """
    layers = linear_layers(model, targets)
    positions = _positions(model, layers, inputs) if inputs is not None else dict.fromkeys(layers, 1)
    found = []
    for name, layer in layers.items():
        weight = layer.weight.detach()
        U, values, V = torch.linalg.svd(weight.double().cpu(), full_matrices=False)
        found.append(Spectrum(name, U, values, V, positions[name], torch.finfo(weight.dtype).eps))
    return found


def linear_layers(model: nn.Module, targets: str | Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers that some patterns name, by name. A head that shares its weight with the embedding is none.

    Raises:
        UserError: a pattern names none.
    """
    # MultiheadAttention reads the weights of its projection past the layer's forward: another layer would break it
    closed = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    shared = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    closed |= {id(m) for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) in shared}
    known = {
        name: child for name, child in model.named_modules() if isinstance(child, nn.Linear) and id(child) not in closed
    }
    found: dict[str, nn.Linear] = {}
    for pattern in [targets] if isinstance(targets, str) else targets:
        names = [n for n in known if fnmatchcase(n, pattern) or fnmatchcase(n.rpartition(".")[2], pattern)]
        if not names:
            last = sorted({name.rpartition(".")[2] for name in known})
            raise UserError(
                f"{type(model).__name__} has no linear layer {pattern!r}; its linear layers are {', '.join(last)}"
            )
        found |= {name: known[name] for name in names}
    return {name: layer for name, layer in known.items() if name in found}


def _positions(model: nn.Module, layers: dict[str, nn.Linear], inputs: Any) -> dict[str, int]:
    """What one forward pass hands to each layer, counted by its output."""
    counted = dict.fromkeys(layers, 0)

    def watch(name: str):
        def hook(module, arguments, output):
            counted[name] += output.numel() // module.out_features

        return hook

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        with evaluation(model), torch.no_grad():
            model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: max(count, 1) for name, count in counted.items()}
