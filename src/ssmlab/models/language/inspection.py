"""Seeing inside: step sizes, inputs, B, C and states of every layer of a model that runs as usual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError
from ssmlab.nn import S4D, Mamba, Mamba2, Mamba3
from ssmlab.nn.padding import Padding
from ssmlab.ops import discretize
from ssmlab.ops.mamba3.parts import per_head, ranks, rates, turn
from ssmlab.ops.ssd.reference import restarts


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one block did in one call, in float32 at least and as the columns were given; padding has dt = 0.

    c are the (d,) channels of a Mamba or S4D block and the (h, p) heads and channels of a Mamba-2 or Mamba-3 block;
    k are none, or the (r,) inputs and outputs of a head in Mamba-3 with several.

    name: the block's, among the model's modules.
    x: what the state takes up, (b, l, *c); in Mamba-3 (b, l, *k, h, p).
    dt: step sizes after softplus, (b, l, d) or (b, l, h); S4D's are the same at every token.
    A: (d, n), complex where S4D's or Mamba's is, (h,) or, in Mamba-3, (b, l, h); with a negative real part.
    B, C: (b, l, n), (b, l, h, n), in Mamba-3 (b, l, *k, h, n), normalised, biased and turned; in S4D the same (d, n)
        at every token, B after the discretisation.
    first: the state before the first column, (b, *c, n).
    taken: what the state takes up at a column is the sum over these pairs of v (b, l, k, *c) times K (b, l, k, n),
        (b, l, k, h, n) or (d, n), summed over k.
    begins: (b, l), True where a sequence begins anew, None where none does.
    """

    name: str
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    first: Tensor
    taken: tuple[tuple[Tensor, Tensor], ...]
    begins: Tensor | None

    def states(self) -> Tensor:
        """The state after every column, (b, l, *c, n): n times as large as all else together.

            h_t = exp(dt_t A_t) h_(t-1) + taken_t

        Source: Gu & Dao 2023 (arXiv:2312.00752), equation 2a, with B by Euler's rule as in their code; for S4D and
        Mamba-3 the rules of `ops.lti` and `ops.mamba3`.
        """
        state, states = self.first, []
        for t in range(self.x.shape[1]):
            if self.begins is not None:
                state = state.masked_fill(self.begins[:, t].view(-1, *[1] * (state.dim() - 1)), 0)
            # v (b, k, *c) and K (b, k, [h,] n), or (d, n) for all, as (b, *c, n), summed over k
            pairs = ((v[:, t, ..., None], K if K.dim() == 2 else K[:, t].unsqueeze(-2)) for v, K in self.taken)
            state = self._decay(t) * state + sum((v * K).sum(1) for v, K in pairs)
            states.append(state)
        return torch.stack(states, 1)

    def _decay(self, t: int) -> Tensor:
        if self.A.dim() == 2:
            return torch.exp(self.dt[:, t, :, None] * self.A)
        return torch.exp(self.dt[:, t] * (self.A if self.A.dim() == 1 else self.A[:, t]))[..., None, None]


@contextmanager
def inspect(model: nn.Module) -> Iterator[list[Seen]]:
    """Note what the Mamba, Mamba-2, Mamba-3 and S4D blocks of a model do; other blocks run unseen.

        with inspect(model) as seen:
            model(input_ids)
        seen[0].dt, seen[0].states()

    One entry a block and call, in the order of execution. Gradients flow through all that is seen.

    Raises:
        ModelError: there is no such block.
    """
    seen: list[Seen] = []
    blocks = {name: module for name, module in model.named_modules() if type(module) in _READ}
    if not blocks:
        raise ModelError(f"{type(model).__name__} has no block of a state space model to look into")
    handles = []
    for name, block in blocks.items():
        parts: dict[str, Tensor] = {}
        for part in ("in_proj", "conv1d", "x_proj", "dt_proj"):
            if getattr(block, part, None) is not None:
                handles.append(getattr(block, part).register_forward_hook(_keep(parts, part)))
        handles.append(block.register_forward_hook(_note(seen, name, parts), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(parts: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        parts[name] = _wide(output[0].mT if isinstance(output, tuple) else output)

    return hook


def _note(seen: list[Seen], name: str, parts: dict[str, Tensor]) -> Callable[..., None]:
    def hook(block: Any, inputs: tuple, named: dict[str, Any], output: Any) -> None:
        state = inputs[1] if len(inputs) > 1 else named.get("state")
        mask, seq_idx = named.get("mask"), named.get("seq_idx")
        padding = None if mask is None else Padding.from_mask(mask)  # inside, a row's tokens are in front
        if padding is not None and seq_idx is not None:
            seq_idx = padding.pack_index(seq_idx)
        begins = restarts(seq_idx, parts["in_proj"])
        own = _READ[type(block)](block, parts, state, begins)
        own["begins"] = begins
        if padding is not None:
            own = {key: _unpacked(value, padding) for key, value in own.items()}
        first = torch.zeros_like(output[1].ssm) if state is None else state.ssm
        seen.append(Seen(name=name, first=first, **own))

    return hook


def _unpacked(value: Any, padding: Padding) -> Any:
    """Tensors of columns as the columns were given; what is the same at every token stays as it is."""
    if isinstance(value, tuple):
        return tuple(_unpacked(part, padding) for part in value)
    if value is None or value.shape[:2] != padding.token.shape:
        return value
    return padding.unpack(value.reshape(*value.shape[:2], -1)).view_as(value)


def _mamba(block: Mamba, parts: dict[str, Tensor], state: Any, begins: Tensor | None) -> dict[str, Any]:
    x, dt = parts["conv1d"], F.softplus(parts["dt_proj"])
    _, B, C = parts["x_proj"].split([block.dt_rank, block.d_state, block.d_state], -1)
    if block.A_imag is not None:
        B, C = (torch.view_as_complex(map_.unflatten(-1, (block.kept, 2)).contiguous()) for map_ in (B, C))
    return {"x": x, "dt": dt, "A": block._A(), "B": B, "C": C, "taken": (((dt * x).unsqueeze(2), B.unsqueeze(2)),)}


def _mamba2(block: Mamba2, parts: dict[str, Tensor], state: Any, begins: Tensor | None) -> dict[str, Any]:
    width = block.ngroups * block.d_state
    x, B, C = parts["conv1d"].split([block.d_ssm, width, width], -1)
    x = x.unflatten(-1, (block.nheads, block.headdim))
    dt = F.softplus(parts["in_proj"][..., -block.nheads :] + _wide(block.dt_bias))
    if block.dt_limit is not None:
        dt = dt.clamp(*block.dt_limit)
    own = (own.unflatten(-1, (block.ngroups, block.d_state)) for own in (B, C))
    B, C = (group.repeat_interleave(block.nheads // block.ngroups, -2) for group in own)
    taken = (((dt[..., None] * x).unsqueeze(2), B.unsqueeze(2)),)
    return {"x": x, "dt": dt, "A": block._A(), "B": B, "C": C, "taken": taken}


def _mamba3(block: Mamba3, parts: dict[str, Tensor], state: Any, begins: Tensor | None) -> dict[str, Any]:
    _, x, B, C, dt, A, trap, angle = parts["in_proj"].split(block.parts, -1)
    dt, log_decay = block._steps(dt, A)
    x = x.unflatten(-1, (block.nheads, block.headdim))
    B, C = (t.unflatten(-1, (block.mimo_rank, block.ngroups, block.d_state)) for t in (B, C))
    v = ranks(x, block.mimo_x if block.mimo else None, x.dtype)
    theta = _angles(rates(angle, x.dtype) * dt[..., None], None if state is None else state.angle, begins)
    maps = ((block.B_norm, B, block.B_bias), (block.C_norm, C, block.C_bias))
    pairs = "halves" if block.mimo else "interleaved"
    k, q = (
        turn(per_head(norm(map_), bias, block.nheads, x.dtype), theta.unsqueeze(2), pairs) for norm, map_, bias in maps
    )
    last = (None, None) if state is None else (state.v, state.k)
    before = [_shifted(t, own, begins) for t, own in zip((v, k), last, strict=True)]
    now = torch.sigmoid(trap) * dt
    then = (dt - now) * log_decay.exp()
    taken = ((now[:, :, None, :, None] * v, k), (then[:, :, None, :, None] * before[0], before[1]))
    if not block.mimo:
        v, k, q = v.squeeze(2), k.squeeze(2), q.squeeze(2)
    return {"x": v, "dt": dt, "A": log_decay / dt, "B": k, "C": q, "taken": taken}


def _angles(steps: Tensor, first: Tensor | None, begins: Tensor | None) -> Tensor:
    """How far the pairs have turned at every column, (b, l, h, s): the sum of the steps since the sequence began."""
    angles = steps.cumsum(1)
    whole = angles if first is None else angles + first.to(steps.dtype).unsqueeze(1)
    if begins is None:
        return whole
    column = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    begin = torch.where(begins, column, 0).cummax(1).values
    own = angles - (angles - steps).take_along_dim(begin[..., None, None], 1)
    return torch.where((begin > 0)[..., None, None], own, whole)


def _shifted(t: Tensor, first: Tensor | None, begins: Tensor | None) -> Tensor:
    """t (b, l, r, h, m) one column later; `first` (b, h, r, m) before all, zeros before every other sequence."""
    head = torch.zeros_like(t[:, :1]) if first is None else first.to(t.dtype).transpose(1, 2).unsqueeze(1)
    t = torch.cat([head, t[:, :-1]], 1)
    return t if begins is None else t.masked_fill(begins[:, :, None, None, None], 0)


def _s4d(block: S4D, parts: dict[str, Tensor], state: Any, begins: Tensor | None) -> dict[str, Any]:
    x = parts["in_proj"][..., : block.d_inner] if block.conv1d is None else parts["conv1d"]
    dt, A, B, C = block._coefficients()
    decay, B = discretize(dt, A, B, block.discretization)
    if block.discretization == "bilinear":  # the A that the exponential would need
        A = decay.log() / dt[:, None]
    return {"x": x, "dt": dt.expand(x.shape), "A": A, "B": B, "C": C, "taken": ((x.unsqueeze(2), B),)}


_READ: dict[type, Callable[..., dict[str, Any]]] = {Mamba: _mamba, Mamba2: _mamba2, Mamba3: _mamba3, S4D: _s4d}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
