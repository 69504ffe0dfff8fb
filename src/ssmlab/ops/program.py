"""One token of a whole model in one native call: a program of steps, built once and run for every token.

From Python every operator costs 10 to 20 microseconds besides its arithmetic, which for a token is a tenth of the time
or more. A `Program` holds the filled structs of all steps and the buffers between them; a run hands over the states.
"""

from __future__ import annotations

from array import array
from ctypes import addressof, sizeof
from threading import Lock

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssmlab.ops import _native
from ssmlab.ops._layout import STRUCTS
from ssmlab.ops._native import address
from ssmlab.ops.steps import INT8

NORM, MATVEC, CONV, SCAN, HEADS, PRODUCT = range(6)  # the kinds of ssm_step
NONE = -1  # no state
PANEL = 32  # SSM_PANEL, outputs whose weights lie together
_PROGRAM, _STEP = STRUCTS["ssm_program"], STRUCTS["ssm_step"]


class Program:
    """Steps on float32 buffers (rows, channels), each in the order in which it was added.

    Weights may have any dtype where that is said; everything else a step takes is float32. What is handed over is held,
    so that its memory stays. A step's results are there for the next one.

    Args:
        rows: sequences that take a token at once.
        by_rows: threads share out any number of rows up to that, and each goes on from the state of another. What is
            made of the weights is made once, when steps are added: they may not change. The convolution's states are
            (rows, width - 1, d) then, and float32.
    """

    def __init__(self, rows: int, *, by_rows: bool = False):
        self.rows, self.slots, self.by_rows = rows, 0, by_rows
        self._inputs = 0  # of the widest product
        self.running = Lock()  # buffers are one run's at a time; a native call lets other Python threads go on
        self._steps = array("q")  # of ssm_step
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
        self._add(
            NORM, NONE, "ssm_norm", (x, residual, gate, y), rows=self.rows, dim=d, groups=groups,
            residual=address(residual), x=address(x), gate=address(gate), x_stride=0 if x is None else x.stride(0),
            gate_stride=0 if gate is None else gate.stride(0), weight=address(weight), eps=eps, y=address(y),
        )  # fmt: skip
        return y

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """x weight^T + bias, (rows, outputs); weight (outputs, inputs) of any dtype, int8 with a scale (outputs,)."""
        if self.by_rows:
            return self._product(x, weight, bias, scale)
        kind = _native.DTYPES[weight.dtype] if scale is None else INT8
        y, bias, scale = self.buffer(weight.shape[0]), self._optional(bias), self._optional(scale)
        self._add(
            MATVEC, NONE, "ssm_linear", (x, weight, y), rows=self.rows, inputs=weight.shape[1], outputs=weight.shape[0],
            dtype=kind, threads=1, x=address(x), x_stride=x.stride(0), weight=address(weight),
            weight_stride=weight.stride(0), bias=address(bias), y=address(y), scale=address(scale),
        )  # fmt: skip
        return y

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None) -> Tensor:
        """`linear` for many rows, from a copy of the weights in panels. Where that is faster, int8 stays int8, and x is
        rounded to 16 bits."""
        (outputs, inputs), panels = weight.shape, -(-weight.shape[0] // PANEL)
        if scale is not None and not _native.integers():
            weight, scale = weight * scale[:, None], None
        together = 1 if scale is None else 2  # inputs side by side
        more = panels * PANEL - outputs
        packed = pad(weight.float() if scale is None else weight, (0, -inputs % together, 0, more))
        packed = packed.view(panels, PANEL, -1, together).transpose(1, 2).contiguous()
        bias, scale = (None if part is None else pad(part.float(), (0, more)) for part in (bias, scale))
        y = self.buffer(panels * PANEL)
        self._inputs = max(self._inputs, inputs)
        self._add(
            PRODUCT, NONE, "ssm_product", (x, packed, bias, y, scale), inputs=inputs, panels=panels, x=address(x),
            x_stride=x.stride(0), weight=address(packed), bias=address(bias), y=address(y), scale=address(scale),
        )  # fmt: skip
        return y[:, :outputs]

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, dtype: torch.dtype) -> Tensor:
        """One token of the convolution; weight (d, width), a state (rows, d, width - 1) of a dtype; (rows, d)."""
        (d, width), y = weight.shape, self.buffer(weight.shape[0])
        weight, bias = self._vector(weight.mT if self.by_rows else weight), self._optional(bias)
        self._add(
            CONV, self._slot(), "ssm_conv_token", (x, y), rows=self.rows, dim=d, width=width, silu=silu,
            dtype=_native.DTYPES[dtype], x=address(x), x_stride=x.stride(0), weight=address(weight), bias=address(bias),
            y=address(y),
        )  # fmt: skip
        return y

    def rates(self, A_log: Tensor) -> Tensor:
        """-exp(A_log), made anew for every token; of a program by rows once."""
        if self.by_rows:
            return -A_log.float().exp()
        A = torch.empty(A_log.shape, dtype=torch.float32)
        self._rates[0].append(A)
        self._rates[1].append(A_log)
        return A

    def scan(self, x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor) -> Tensor:
        """One token of the selective scan with softplus; A = -exp(A_log) (d, n), B, C (rows, n), state (rows, d, n);
        (rows, d)."""
        A_log, D, y = self._vector(A_log), self._vector(D), self.buffer(A_log.shape[0])
        rate = A_log.exp() if self.by_rows else None
        self._add(
            SCAN, self._slot(), "ssm_scan_token", (x, dt, B, C, z, y, rate), rows=self.rows, dim=A_log.shape[0],
            states=A_log.shape[1], x=address(x), dt=address(dt), z=address(z), x_stride=x.stride(0),
            dt_stride=dt.stride(0), z_stride=z.stride(0), B=address(B), C=address(C), B_stride=B.stride(0),
            C_stride=C.stride(0), A_log=address(A_log), D=address(D), y=address(y), rate=address(rate),
        )  # fmt: skip
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
        self._add(
            HEADS, self._slot(), "ssm_head_step", (x, dt, B, C, y), batch=self.rows, heads=h, headdim=d // h,
            states=states, groups=groups, softplus=True, threads=1, x=address(x), dt=address(dt), x_stride=x.stride(0),
            dt_stride=dt.stride(0), dt_head_stride=dt.stride(1), A=address(A), D=address(D), dt_bias=address(dt_bias),
            A_stride=1, D_stride=1, dt_bias_stride=1, B=address(B), C=address(C), B_stride=B.stride(0),
            C_stride=C.stride(0), y=address(y),
        )  # fmt: skip
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
        self._call(before, after)

    def run_rows(self, states: list[int], parent: Tensor, own: Tensor, order: Tensor, group: int) -> None:
        """Run a program by rows, up to as many as it has.

        Args:
            states: where they lie by slot; read and written.
            parent, own: int64 (r,), of every row the place of the state that it goes on from, and of its own.
            order: int64 (r,), the rows in the order in which states are read and written, group by group.
            group: rows in a row whose states no other rows read.
        """
        size = (self._inputs + 1) * -(-len(parent) // 16) * 16
        scratch = torch.empty(_native.threads(), size, dtype=torch.float32)
        self._call(
            states, states, rows=len(parent), group=group, parent=address(parent), own=address(own),
            order=address(order), scratch=address(scratch), scratch_size=size,
        )  # fmt: skip

    def _call(self, before: list[int], after: list[int], **by_rows: int) -> None:
        ins, outs = array("q", before), array("q", after)
        program = _PROGRAM(
            steps=len(self._steps) * 8 // sizeof(_STEP), threads=_native.threads(), step=self._steps.buffer_info()[0],
            before=ins.buffer_info()[0], after=outs.buffer_info()[0], **by_rows,
        )  # fmt: skip
        _native.library().ssm_program_(addressof(program))

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

    def _add(self, kind: int, slot: int, struct: str, held: tuple[Tensor | None, ...], **fields: int | float) -> None:
        call = STRUCTS[struct](**fields)
        self._held += [call, *held]
        self._steps.frombytes(bytes(_STEP(kind=kind, slot=slot, call=addressof(call))))
