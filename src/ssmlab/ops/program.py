"""One token of a whole model in one native call: a program of steps, built once and run for every token.

From Python every operator costs 10 to 20 microseconds beside its arithmetic, which for a token is a tenth of the time
or more. A `Program` holds the filled structs of all steps and the buffers between them; a run hands over the states.
"""

from __future__ import annotations

import struct
from array import array
from threading import Lock

import torch
from torch import Tensor

from ssmlab.ops import _native
from ssmlab.ops._native import Call, address
from ssmlab.ops.steps import INT8

NORM, MATVEC, CONV, SCAN, HEADS = range(5)  # the kinds of ssm_step
NONE = -1  # no state


class Program:
    """Steps on float32 buffers (rows, channels), each in the order in which it was added.

    Weights may have any dtype where that is said; everything else a step takes is float32. What is handed over is held,
    so that its memory stays. A step's results are there for the next one.

    Args:
        rows: sequences that take a token at once.
    """

    def __init__(self, rows: int):
        self.rows, self.slots = rows, 0
        self.running = Lock()  # buffers are one run's at a time; a native call lets other Python threads go on
        self._steps = array("q")
        self._held: list[object] = []
        self._copies: tuple[list[Tensor], list[Tensor]] = ([], [])  # of weights that are not float32, and those weights
        self._rates: tuple[list[Tensor], list[Tensor]] = ([], [])  # A, and the weights that it is made of

    def buffer(self, channels: int) -> Tensor:
        """Room for (rows, channels)."""
        return torch.zeros(self.rows, channels, dtype=torch.float32)

    def norm(
        self, weight: Tensor, eps: float, *, x: Tensor | None = None, residual: Tensor | None = None,
        gate: Tensor | None = None, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        """Root mean square norm of `residual` + x, which `residual` becomes, or of x silu(gate); (rows, d)."""
        d, weight = weight.shape[0], self._vector(weight)
        y = self.buffer(d)
        strides = [0 if t is None else t.stride(0) for t in (x, gate)]
        members = [self.rows, d, groups, address(residual), address(x), address(gate), *strides, weight.data_ptr()]
        self._add(
            NORM, NONE, [*members, *struct.unpack("q", struct.pack("d", eps)), y.data_ptr()], x, residual, gate, y
        )
        return y

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """x weight^T + bias, (rows, outputs); weight (outputs, inputs) of any dtype, int8 with a scale (outputs,)."""
        kind = _native.DTYPES[weight.dtype] if scale is None else INT8
        y, bias, scale = self.buffer(weight.shape[0]), self._optional(bias), self._optional(scale)
        members = [self.rows, weight.shape[1], weight.shape[0], kind, 1, x.data_ptr(), x.stride(0), weight.data_ptr()]
        members += [weight.stride(0), address(bias), y.data_ptr(), address(scale)]
        self._add(MATVEC, NONE, members, x, weight, y)
        return y

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, dtype: torch.dtype) -> Tensor:
        """One token of the convolution; weight (d, width), a state (rows, d, width - 1) of a dtype; (rows, d)."""
        weight, bias = self._vector(weight), self._optional(bias)
        (d, width), y = weight.shape, self.buffer(weight.shape[0])
        members = [self.rows, d, width, silu, _native.DTYPES[dtype], x.data_ptr(), x.stride(0), weight.data_ptr()]
        self._add(CONV, self._slot(), [*members, address(bias), y.data_ptr()], x, y)
        return y

    def rates(self, A_log: Tensor) -> Tensor:
        """-exp(A_log), made anew for every token."""
        A = torch.empty(A_log.shape, dtype=torch.float32)
        self._rates[0].append(A)
        self._rates[1].append(A_log)
        return A

    def scan(self, x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor) -> Tensor:
        """One token of the selective scan with softplus; A = -exp(A_log) (d, n), B, C (rows, n), state (rows, d, n);
        (rows, d)."""
        A_log, D, y = self._vector(A_log), self._vector(D), self.buffer(A_log.shape[0])
        members = [self.rows, *A_log.shape, x.data_ptr(), dt.data_ptr(), z.data_ptr()]
        members += [t.stride(0) for t in (x, dt, z)] + [B.data_ptr(), C.data_ptr(), B.stride(0), C.stride(0)]
        self._add(SCAN, self._slot(), [*members, A_log.data_ptr(), D.data_ptr(), y.data_ptr()], x, dt, B, C, z, y)
        return y

    def heads(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
        groups: int, states: int,
    ) -> Tensor:  # fmt: skip
        """One token of a scan with one decay a head, with softplus; A, D, dt_bias (h,), x (rows, h p), dt (rows, h),
        B, C (rows, g n), state (rows, h, p, n); (rows, h p)."""
        A, D, dt_bias = self._vector(A), self._vector(D), self._vector(dt_bias)
        h, d = len(A), x.shape[1]
        y = self.buffer(d)
        members = [self.rows, h, d // h, states, groups, True, 1, x.data_ptr(), 0, dt.data_ptr(), x.stride(0), 0]
        members += [*dt.stride(), A.data_ptr(), D.data_ptr(), dt_bias.data_ptr(), 1, 1, 1]
        members += [B.data_ptr(), C.data_ptr(), B.stride(0), C.stride(0), 0, y.data_ptr()]
        self._add(HEADS, self._slot(), members, x, dt, B, C, y)
        return y

    def run(self, before: list[int], after: list[int]) -> None:
        """Run all steps. Where the states lie by slot, contiguous; `after` is written, `before` stays as it is.

        What is derived from weights is made first: writing through `.data` changes them without a trace.
        Mamba 130M in bfloat16 on two threads: 0.2 ms of a token's 11.
        """
        if self._rates[0]:
            torch._foreach_copy_(*self._rates)
            torch._foreach_exp_(self._rates[0])
            torch._foreach_neg_(self._rates[0])
        if self._copies[0]:
            torch._foreach_copy_(*self._copies)
        tables = [self._steps, array("q", before), array("q", after)]
        addresses = [table.buffer_info()[0] for table in tables]
        program = Call([len(self._steps) // 3, _native.threads(), *addresses], 0)
        _native.library().ssm_program_(program.pointer())

    def _slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    def _vector(self, tensor: Tensor) -> Tensor:
        small = tensor.detach().float().contiguous()
        self._held.append(small)
        if small.data_ptr() != tensor.data_ptr():
            self._copies[0].append(small)
            self._copies[1].append(tensor)
        return small

    def _optional(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self._vector(tensor)

    def _add(self, kind: int, slot: int, members: list[int], *held: Tensor | None) -> None:
        call = Call(members, 0)
        self._held += [call, *held]
        self._steps.extend([kind, slot, call.pointer()])
