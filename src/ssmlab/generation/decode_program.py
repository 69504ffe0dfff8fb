"""One token of a language model as one native call, where nothing is between the model and its numbers.

`step` answers for a model of Mamba or Mamba-2 layers that nobody has changed: no adapter, no hook, no attention, no
MLP. Everything else gets None, and the modules are called one by one. What a program was built from is compared before
every token: modules, parameters and their memory. Of the values nothing is kept: what is derived from them is derived
anew for every token.
"""

from __future__ import annotations

from itertools import repeat
from operator import contains, is_
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ssmlab.nn import CausalConv1d, GatedRMSNorm, Linear, Mamba, Mamba2, QuantizedLinear
from ssmlab.nn.mamba import MambaState
from ssmlab.nn.mamba2 import Mamba2State
from ssmlab.ops import _native
from ssmlab.ops.program import Program
from ssmlab.ops.steps import FEW, available, is_plain_inference

_programs: WeakKeyDictionary[nn.Module, DecodeProgram | None] = WeakKeyDictionary()


def step(model: Any, input_ids: Tensor, state: tuple | None, classes: tuple[type, type]) -> tuple[Tensor, tuple] | None:
    """Logits (b, 1, vocabulary) and the states after one token without a gradient, or None.

    Args:
        model: a `LanguageModel`.
        input_ids: (b, l).
        state: what an earlier call returned.
        classes: of an unchanged model's backbone and of its layers.
    """
    if torch.compiler.is_compiling():
        return None
    rows, length = input_ids.shape
    if length != 1:
        _programs.pop(model, None)
        return None
    known = _programs.get(model, ...)
    if known is None or state is None or not 0 < rows <= FEW or not available():
        return None
    if not is_plain_inference(input_ids, model.backbone.embedding.weight):
        return None
    if known is ... or known.program.rows != rows or not known.holds():
        known = _programs[model] = DecodeProgram.of(model, rows, classes)
    return None if known is None else known(input_ids, state)


class DecodeProgram:
    """The program of a model, and what it was built from."""

    def __init__(self, model: Any, rows: int, classes: tuple[type, type]):
        self.program = program = Program(rows)
        self.places: list[tuple[dict, str]] = []  # where modules and tensors were found, and which
        self.found: list[object] = []
        self.tensors: list[Tensor] = []
        self.pointers: list[int] = []
        self.returned: tuple = ()  # the states after the last token, which need no check
        self.kinds: list[tuple[Any, tuple[int, ...], tuple[int, ...]]] = []
        backbone = self._seen(model, "backbone", classes[0])
        if _drops(backbone):
            raise _NoProgramError
        embedding = self._seen(backbone, "embedding", nn.Embedding)
        self.embedding = self._weight(embedding, "weight")
        self.dtype = self.embedding.dtype
        self.residual, branch = program.buffer(self.embedding.shape[1]), None
        layers = self._seen(backbone, "layers", nn.ModuleList)
        for i in range(len(layers)):
            layer = self._seen(layers, str(i), classes[1])
            if "mlp" in layer._modules or layer._modules.get("mixer") is None or _drops(layer):
                raise _NoProgramError
            u = self._norm(layer, "norm", x=branch, residual=self.residual)
            branch = self._mamba(layer, u) if type(layer.mixer) is Mamba else self._mamba2(layer, u)
        u = self._norm(backbone, "norm_f", x=branch, residual=self.residual)
        self.logits = self._linear(model, "lm_head", u)
        parts = list(model.modules())
        self.hooks = [hooks for m in parts for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self.own = [m.__dict__ for m in parts]

    @classmethod
    def of(cls, model: Any, rows: int, classes: tuple[type, type]) -> DecodeProgram | None:
        """The program of a model, or None where there cannot be one."""
        try:
            made = cls(model, rows, classes)
        except _NoProgramError:
            return None
        return made if made.holds() else None

    def holds(self) -> bool:
        """Whether the model still is what this was built from."""
        return (
            all(map(is_, [children.get(name) for children, name in self.places], self.found))
            and [tensor.data_ptr() for tensor in self.tensors] == self.pointers
            and not any(map(contains, self.own, repeat("forward")))
            and not any(self.hooks)
            and not torch_module._has_any_global_hook()
        )

    def __call__(self, input_ids: Tensor, state: tuple) -> tuple[Tensor, tuple] | None:
        rows, dtype = self.program.rows, self.dtype
        if not self.program.running.acquire(blocking=False):
            return None
        try:
            before = [t for own in state for t in own] if state is self.returned else self._usable(state)
            if before is None:
                return None
            kind, conv_shape, ssm_shape = self.kinds[0]
            conv = torch.empty(len(state), *conv_shape, dtype=dtype)
            ssm = torch.empty(len(state), *ssm_shape, dtype=torch.float32)
            after = [address for pair in zip(_slices(conv), _slices(ssm), strict=True) for address in pair]
            self.residual.copy_(torch.nn.functional.embedding(input_ids.reshape(rows), self.embedding))
            self.program.run([t.data_ptr() for t in before], after)
            self.returned = tuple(map(kind, conv.unbind(), ssm.unbind()))
            return self.logits.to(dtype, copy=True)[:, None], self.returned
        finally:
            self.program.running.release()

    def _usable(self, state: tuple) -> list[Tensor] | None:
        """The tensors of states, contiguous; None where they are not the model's."""
        tensors = []
        if len(state) != len(self.kinds):
            return None
        for (kind, conv_shape, ssm_shape), own in zip(self.kinds, state, strict=True):
            if type(own) is not kind or own.conv.shape != conv_shape or own.ssm.shape != ssm_shape:
                return None
            if own.conv.dtype is not self.dtype or own.ssm.dtype is not torch.float32:
                return None
            if not (own.conv.is_cpu and own.ssm.is_cpu):
                return None
            tensors += [own.conv.contiguous(), own.ssm.contiguous()]
        return tensors

    def _mamba(self, layer: Any, u: Tensor) -> Tensor:
        block = self._seen(layer, "mixer", Mamba)
        if block.A_imag is not None or _drops(block):
            raise _NoProgramError
        d, n, r = block.d_inner, block.d_state, block.dt_rank
        inner = self._linear(block, "in_proj", u)
        x = self._conv(block, inner[:, :d])
        selected = self._linear(block, "x_proj", x)
        dt, B, C = selected[:, :r], selected[:, r : r + n], selected[:, r + n :]
        A_log = self._weight(block, "A_log")
        D = self._weight(block, "D")
        dt = self._linear(block, "dt_proj", dt)
        y = self.program.scan(x, dt, A_log, B, C, D, inner[:, d:])
        self._kind(MambaState, (d, block.d_conv - 1), (d, n))
        return self._linear(block, "out_proj", y)

    def _mamba2(self, layer: Any, u: Tensor) -> Tensor:
        block = self._seen(layer, "mixer", Mamba2)
        plain = block.dt_limit is None and not block.d_mlp and len(block.D) == block.nheads and not _drops(block)
        if not plain or block.norm is None or block.norm.norm_before_gate:
            raise _NoProgramError
        d, n, g = block.d_ssm, block.d_state, block.ngroups
        inner = self._linear(block, "in_proj", u)
        convolved = self._conv(block, inner[:, d : 2 * d + 2 * g * n])
        A_log, D, dt_bias = (self._weight(block, name) for name in ("A_log", "D", "dt_bias"))
        x, B, C = convolved[:, :d], convolved[:, d : d + g * n], convolved[:, d + g * n :]
        dt = inner[:, 2 * d + 2 * g * n :]
        y = self.program.heads(x, dt, self.program.rates(A_log), B, C, D, dt_bias, g, n)
        norm = self._seen(block, "norm", GatedRMSNorm)
        weight = self._weight(norm, "weight")
        y = self.program.norm(weight, norm.eps, x=y, gate=inner[:, :d], groups=norm.groups)
        self._kind(Mamba2State, (d + 2 * g * n, block.d_conv - 1), (block.nheads, block.headdim, n))
        return self._linear(block, "out_proj", y)

    def _kind(self, kind: type, conv: tuple[int, ...], ssm: tuple[int, ...]) -> None:
        rows = self.program.rows
        self.kinds.append((kind, (rows, *conv), (rows, *ssm)))
        if self.kinds[-1] != self.kinds[0]:
            raise _NoProgramError

    def _norm(self, parent: Any, name: str, **inputs: Any) -> Tensor:
        norm = self._seen(parent, name, nn.RMSNorm)
        return self.program.norm(self._weight(norm, "weight"), norm.eps, **inputs)

    def _linear(self, parent: Any, name: str, x: Tensor) -> Tensor:
        kind = type(parent._modules.get(name))
        layer = self._seen(parent, name, QuantizedLinear if kind is QuantizedLinear else Linear)
        bias = None if layer.bias is None else self._weight(layer, "bias")
        scale = self._weight(layer, "scale") if kind is QuantizedLinear else None
        return self.program.linear(x, self._weight(layer, "weight"), bias, scale)

    def _conv(self, block: Any, x: Tensor) -> Tensor:
        conv = self._seen(block, "conv1d", CausalConv1d)
        bias = None if conv.bias is None else self._weight(conv, "bias")
        weight = self._weight(conv, "weight")
        return self.program.conv(x, weight.squeeze(1), bias, conv.activation == "silu", self.dtype)

    def _seen(self, parent: Any, name: str, kind: type) -> Any:
        """A sub-module, of exactly this type: what wraps one computes something else."""
        child = parent._modules.get(name)
        if type(child) is not kind:
            raise _NoProgramError
        self.places.append((parent._modules, name))
        self.found.append(child)
        return child

    def _weight(self, module: Any, name: str) -> Tensor:
        """A parameter or buffer."""
        held = module._parameters if name in module._parameters else module._buffers
        tensor = held.get(name)
        plain = tensor is not None and type(tensor) in (nn.Parameter, Tensor) and tensor.is_cpu
        if not plain or tensor.is_inference() or tensor.stride(-1) != 1:
            raise _NoProgramError
        if tensor.dtype not in (*_native.DTYPES, torch.int8):
            raise _NoProgramError
        self.places.append((held, name))
        self.found.append(tensor)
        self.tensors.append(tensor)
        self.pointers.append(tensor.data_ptr())
        return tensor.detach()


def _slices(tensor: Tensor) -> range:
    """Where the slices of a contiguous tensor's first axis lie."""
    size = tensor.element_size() * tensor.stride(0)
    return range(tensor.data_ptr(), tensor.data_ptr() + size * len(tensor), size)


class _NoProgramError(Exception):
    """There is no program for such a model."""


def _drops(module: Any) -> bool:
    """Whether a place of dropout in a backbone, a layer or a block acts."""
    own = [getattr(module, name, 0.0) for name in ("embedding_dropout", "skip_dropout", "inner_dropout")]
    return module.training and any([*own, module.dropout.p] if "dropout" in module._modules else own)
