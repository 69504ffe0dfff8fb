"""Seeing inside: step sizes, inputs, B, C and states of every layer of a model that runs as usual."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.errors import ModelError
from ssmlab.nn import Mamba, Mamba2
from ssmlab.nn.padding import Padding


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one block did in one call, in float32 at least and as the columns were given; padding has dt = 0.

    In a Mamba block c are its (d,) channels, in a Mamba-2 block its (h, p) heads and channels.

    name: the block's, among the model's modules.
    x: what the state takes up, (b, l, *c).
    dt: step sizes behind softplus, (b, l, d) or (b, l, h).
    A: (d, n) or (h,), negative.
    B, C: (b, l, n) or (b, l, h, n).
    first: the state before the first column, (b, *c, n).
    """

    name: str
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    first: Tensor

    def states(self) -> Tensor:
        """The state after every column, (b, l, *c, n): n times as large as all else together.

        Source: Gu & Dao 2023 (arXiv:2312.00752), equation 2a, with B by Euler's rule as in their code.
        """
        heads = self.A.dim() == 1
        dt = self.dt[..., None] if heads else self.dt  # beside x
        decay = torch.exp(dt[..., None] * (self.A[:, None, None] if heads else self.A))
        taken = (dt * self.x)[..., None] * self.B.unsqueeze(-2)
        state, states = self.first, []
        for t in range(self.x.shape[1]):
            state = decay[:, t] * state + taken[:, t]
            states.append(state)
        return torch.stack(states, 1)


@contextmanager
def inspect(model: nn.Module) -> Iterator[list[Seen]]:
    """Note what the Mamba and Mamba-2 blocks of a model do; other blocks run unseen.

        with inspect(model) as seen:
            model(input_ids)
        seen[0].dt, seen[0].states()

    One entry a block and call, in the order of execution. Gradients flow through all that is seen.

    Raises:
        ModelError: there is no such block.
    """
    seen: list[Seen] = []
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, Mamba | Mamba2)}
    if not blocks:
        raise ModelError(f"{type(model).__name__} has no Mamba or Mamba-2 block to look into")
    handles = []
    for name, block in blocks.items():
        parts: dict[str, Tensor] = {}
        for part in ("in_proj", "conv1d", "x_proj", "dt_proj"):
            if hasattr(block, part):
                handles.append(getattr(block, part).register_forward_hook(_keep(parts, part)))
        handles.append(block.register_forward_hook(_note(seen, name, parts), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(parts: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        parts[name] = output[0].mT if isinstance(output, tuple) else output

    return hook


def _note(seen: list[Seen], name: str, parts: dict[str, Tensor]) -> Any:
    def hook(block: Any, inputs: tuple, named: dict[str, Any], output: Any) -> None:
        state = inputs[1] if len(inputs) > 1 else named.get("state")
        mask = named.get("mask")
        read = _mamba if isinstance(block, Mamba) else _mamba2
        x, dt, B, C = (_wide(tensor) for tensor in read(block, parts))
        if mask is not None:
            padding = Padding.from_mask(mask)  # inside, a row's tokens stand in front
            x, dt, B, C = (padding.unpack(tensor.flatten(2)).view_as(tensor) for tensor in (x, dt, B, C))
        first = torch.zeros_like(output[1].ssm) if state is None else state.ssm
        seen.append(Seen(name=name, x=x, dt=dt, A=block._A(), B=B, C=C, first=first))

    return hook


def _mamba(block: Mamba, parts: dict[str, Tensor]) -> tuple[Tensor, ...]:
    _, B, C = parts["x_proj"].split([block.dt_rank, block.d_state, block.d_state], -1)
    return parts["conv1d"], F.softplus(_wide(parts["dt_proj"])), B, C


def _mamba2(block: Mamba2, parts: dict[str, Tensor]) -> tuple[Tensor, ...]:
    width = block.ngroups * block.d_state
    x, B, C = parts["conv1d"].split([block.d_ssm, width, width], -1)
    dt = F.softplus(_wide(parts["in_proj"][..., -block.nheads :]) + _wide(block.dt_bias))
    if block.dt_limit is not None:
        dt = dt.clamp(*block.dt_limit)
    own = (own.unflatten(-1, (block.ngroups, block.d_state)) for own in (B, C))
    B, C = (group.repeat_interleave(block.nheads // block.ngroups, -2) for group in own)
    return x.unflatten(-1, (block.nheads, block.headdim)), dt, B, C


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
