"""The inputs of every scan of a model that runs as usual, caught where the operators are called."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ssmlab.core.errors import ModelError
from ssmlab.interpret.attention import Path, ScanCall
from ssmlab.interpret.places import Frame, find_place, whole
from ssmlab.nn import S4D, Bidirectional, BiMamba
from ssmlab.ops import discretize, lti
from ssmlab.ops.directional_scan import DIRECTIONS
from ssmlab.ops.directional_scan.reference import flatten
from ssmlab.ops.selective_scan.reference import per_channel, step_size, widened
from ssmlab.ops.ssd import reference as heads
from ssmlab.profiling.flops import evaluation


def scans_of(model: nn.Module, *inputs: Any, layers: str = "*", **named: Any) -> list[ScanCall]:
    """Run a model once, in evaluation mode and without gradients, and catch its scans in the order of execution.

        calls = scans_of(model, images)
        calls[-1].mean_attention([0])

    Selective scans (Mamba, Vim, MambaVision), directional scans (VMamba, MedMamba), the state space dual (Mamba-2) and
    S4D blocks are seen, those of a model made with `ssmlab.compat` too. Padding that a mask marks comes after the
    tokens, as the operators see it.

    Args:
        layers: names of modules, with * and ?; what the scans of others read is not kept.
    Raises:
        ModelError: no scan ran in such a module.
    """
    catcher = _Catcher(layers)
    handles = [handle for name, module in model.named_modules() for handle in catcher.watch(name, module)]
    try:
        with evaluation(model), torch.no_grad(), catcher:
            model(*inputs, **named)
    finally:
        for handle in handles:
            handle.remove()
    if not catcher.calls:
        where = "" if layers == "*" else f" in layers {layers!r}"
        raise ModelError(
            f"{type(model).__name__} ran no scan{where}; models with Mamba, Mamba-2, S4D or SS2D blocks do"
        )
    return catcher.calls


class _Catcher(TorchDispatchMode):
    """Sees every operator below autograd, and knows from hooks in which module it runs."""

    def __init__(self, layers: str):
        super().__init__()
        self.layers = layers
        self.seen: dict[str, Callable[..., ScanCall]] = {
            "selective_scan": self._selective,
            "directional_scan": self._directional,
            "ssd": self._heads,
        }
        self.calls: list[ScanCall] = []
        self.stack: list[Frame] = []
        self.gave: dict[nn.Module, Any] = {}
        self.count: dict[nn.Module, int] = {}  # scans that ran within a module

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Hooks that keep the stack, and the outputs that say where tokens are and what an S4D block reads."""

        def enter(module: nn.Module, inputs: tuple) -> None:
            shape = next((tuple(t.shape) for t in inputs if isinstance(t, Tensor)), ())
            self.stack.append(Frame(name, module, shape))

        def leave(module: nn.Module, inputs: tuple, named: dict[str, Any], output: Any) -> None:
            self.gave[module] = output
            if isinstance(module, S4D) and fnmatch(name, self.layers):
                self.calls.append(self._s4d(name, module, inputs, named))
            self.stack.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, with_kwargs=True)]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket.__name__
        if func.namespace == "ssmlab" and op in self.seen:
            name = self.stack[-1].name if self.stack else ""
            if fnmatch(name, self.layers):
                self.calls.append(self.seen[op](name, *_detached(args), y=out[0]))
            if self.stack:
                module = self.stack[-1].module
                self.count[module] = self.count.get(module, 0) + 1
        return out

    def _selective(
        self, name, x, dt, A, B, C, D, z, dt_bias, initial_state, seq_idx, dt_softplus, *rest, y
    ) -> ScanCall:
        x = widened(x)
        A = A.to(torch.promote_types(A.dtype, x.dtype))
        dt = step_size(dt.to(x.dtype), dt_bias, dt_softplus)
        B, C = (per_channel(map_, x, A) for map_ in (B, C))
        backward = self._backward()
        order, length = torch.arange(x.shape[2], device=x.device), x.shape[2]
        if backward:
            order = order.flip(0)
        path = Path(
            direction="backward" if backward else "forward", dt=dt, write=dt, A=A, B=B, C=C, order=order,
            real=not A.is_complex(), first=None if initial_state is None else initial_state[:, :, None],
            run=_runs(seq_idx),
        )  # fmt: skip
        gate = None if z is None else F.silu(z.to(x.dtype))
        x, y, gate = (None if t is None else t[:, :, None, order] for t in (x, widened(y), gate))
        D = None if D is None else D.to(x.dtype)[:, None]
        place = find_place(self.stack, self.gave, length, x.device)
        return ScanCall(name=name, op="selective_scan", paths=(path,), x=x, y=y, D=D, gate=gate, place=place)

    def _directional(self, name, x, dt, A, B, C, D, dt_bias, dt_softplus, *rest, y) -> ScanCall:
        h, w = x.shape[-2:]
        x, pixels = widened(x), torch.arange(h * w, device=x.device).view(1, 1, h, w)
        paths = []
        for k in range(A.shape[0]):
            bias = None if dt_bias is None else dt_bias[k]
            steps = step_size(flatten(dt[:, k], k).to(x.dtype), bias, dt_softplus)
            own = A[k].to(x.dtype)
            maps = (per_channel(flatten(map_[:, k], k), flatten(x, k), own) for map_ in (B, C))
            paths.append(Path(
                direction=DIRECTIONS[k], dt=steps, write=steps, A=own, B=next(maps), C=next(maps),
                order=flatten(pixels, k)[0, 0],
            ))  # fmt: skip
        D = None if D is None else D.to(x.dtype).sum(0)[:, None]
        place = whole((h, w), len(x), x.device)
        x, y = (t.flatten(2)[:, :, None] for t in (x, widened(y)))
        return ScanCall(name=name, op="directional_scan", paths=tuple(paths), x=x, y=y, D=D, place=place)

    def _heads(self, name, x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, seq_idx, *rest, y) -> ScanCall:
        u = heads.widened(x)
        steps = heads.step_size(dt, dt_bias, dt_softplus, x).movedim(1, -1)
        B, C = (heads.per_head(map_, u).permute(0, 2, 3, 1) for map_ in (B, C))
        order = torch.arange(x.shape[1], device=x.device)
        backward = self._backward()
        if backward:
            order = order.flip(0)
        path = Path(
            direction="backward" if backward else "forward", dt=steps, write=steps, A=A.to(u.dtype)[:, None], B=B, C=C,
            order=order, first=None if initial_state is None else initial_state, run=_runs(seq_idx),
        )  # fmt: skip
        place = find_place(self.stack, self.gave, x.shape[1], x.device)
        gate = None if z is None else F.silu(z.to(u.dtype))
        u, y = (t.permute(0, 2, 3, 1)[..., order] for t in (u, widened(y)))
        gate = None if gate is None else gate.permute(0, 2, 3, 1)[..., order]
        D = None if D is None else D.to(u.dtype).view(len(D), -1)
        return ScanCall(name=name, op="ssd", paths=(path,), x=u, y=y, D=D, gate=gate, place=place)

    def _s4d(self, name: str, block: S4D, inputs: tuple, named: dict[str, Any]) -> ScanCall:
        """The time-invariant operator is no operator of torch, so its inputs are those that the layers before gave."""
        if named.get("mask") is not None or named.get("seq_idx") is not None:
            raise ModelError(f"{name}: the matrix of an S4D block is shown for whole rows; leave out mask and seq_idx")
        state = inputs[1] if len(inputs) > 1 else named.get("state")
        if block.conv1d is not None:
            x = self.gave[block.conv1d][0]
        else:
            x = self.gave[block.in_proj].split(block.d_inner, -1)[0].mT
        first = None if state is None else state.ssm
        x, first, D, dt, A, B, C = _detached((x, first, block.D, *block._coefficients()))
        y, _ = lti(x, dt, A, B, C, D, discretization=block.discretization, initial_state=first)
        a, b = discretize(dt.double(), A, B, block.discretization)
        # a = exp(dt rate); the logarithm of a negative a (bilinear, dt |A| > 2) is complex
        rate = a.log() if a.is_complex() or not bool((a < 0).any()) else a.to(torch.complex128).log()
        x, rows, length = widened(x), len(x), x.shape[2]
        kind = torch.promote_types(x.dtype, torch.complex64) if rate.is_complex() else x.dtype
        ones = x.new_ones(1, 1, 1).expand(rows, x.shape[1], length)
        order = torch.arange(length, device=x.device)
        path = Path(
            direction="forward", dt=ones, write=ones, A=rate.to(kind), B=b.to(kind)[None, ..., None],
            C=C.to(kind)[None, ..., None], real=not A.is_complex(), order=order,
            first=None if first is None else first[:, :, None],
        )  # fmt: skip
        D, place = D.to(x.dtype)[:, None], find_place(self.stack, self.gave, length, x.device)
        x, y = x[:, :, None], widened(y)[:, :, None]
        return ScanCall(name=name, op="lti", paths=(path,), x=x, y=y, D=D, place=place)

    def _backward(self) -> bool:
        """Whether the innermost module reads the sequence from its end."""
        if not self.stack:
            return False
        block = self.stack[-1].module
        before = self.count.get(block, 0)
        if isinstance(block, BiMamba):
            return before % 2 == 1  # it scans forward first
        for frame in self.stack[:-1]:
            pair = frame.module
            if isinstance(pair, Bidirectional):
                if pair.forward_block is pair.backward_block:
                    return before % 2 == 1
                return self.stack[self.stack.index(frame) + 1].module is pair.backward_block
        return False


def _detached(values: tuple) -> list[Any]:
    return [value.detach() if isinstance(value, Tensor) else value for value in values]


def _runs(seq_idx: Tensor | None) -> Tensor | None:
    """The number of the sequence that a step belongs to, from 0 in every row."""
    if seq_idx is None:
        return None
    changes = seq_idx[:, 1:] != seq_idx[:, :-1]
    return F.pad(changes.long().cumsum(1), (1, 0))
