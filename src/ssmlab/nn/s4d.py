"""The S4D block: a diagonal state space model that is the same at every token, as a convolution and as a recurrence."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.checks import check_shapes, check_state
from ssmlab.core.errors import ModelError
from ssmlab.nn.conv import CausalConv1d
from ssmlab.nn.dt import check_sizes
from ssmlab.nn.eigenvalues import initial_parts, kept_states
from ssmlab.nn.linear import Linear
from ssmlab.nn.padding import packed, places, runs
from ssmlab.ops import discretize, lti


class S4DState(NamedTuple):
    """What an S4D block remembers between two calls.

    conv: the last inputs of the convolution, newest last, (b, d_inner, d_conv - 1); empty without one.
    ssm: the state of the channels, (b, d_inner, n): complex64 with n = d_state / 2, or float32 with n = d_state.
    """

    conv: Tensor
    ssm: Tensor


class S4D(nn.Module):
    """Diagonal S4 between two projections, with the gate of Mamba or without.

        x, z = in_proj(u)          h' = A h + x,  y = C h + D x          out = out_proj(y * silu(z))
        x = in_proj(u)                                                   out = out_proj(gelu(y))       without a gate

    Source: Gu, Gupta, Goel & Ré 2022 (arXiv:2206.11893), sections 3 and 4; B is 1, since C takes it up. With `gate`
    and `d_conv` it is Gu & Dao 2023 (arXiv:2312.00752), figure 3, without the selection: what their table 6 compares.

    Args:
        d_model: channels of input and output.
        d_state: real states of every channel; complex ones come in conjugate pairs, so that half of them are kept.
        expand: d_inner = expand * d_model.
        d_conv: width of the causal convolution before the system; 0 leaves it out.
        gate: whether the input gates the output.
        init: the initial A: "lin" -1/2 + i pi n, "inv" its inverse law, both complex, or "real" -(n + 1).
        discretization: "zoh" or "bilinear".
        dt_min, dt_max: the initial step sizes are log-uniform between them.
        bias: bias of in_proj and out_proj.
        dropout: probability of dropout on the block's output, the residual branch.
    Raises:
        ModelError: a size is not positive, a name is unknown, or the range of dt is empty.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        expand: float = 2,
        *,
        d_conv: int = 0,
        gate: bool = True,
        init: str = "lin",
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        bias: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.d_inner = d_model, d_state, d_conv, int(expand * d_model)
        check_sizes("S4D", d_model=self.d_model, d_state=self.d_state, d_inner=self.d_inner)
        if d_conv < 0:
            raise ModelError(f"S4D: d_conv must not be negative, got {d_conv}")
        if discretization not in ("zoh", "bilinear"):
            raise ModelError(f"S4D: discretization must be zoh or bilinear, got {discretization!r}")
        if not 0 < dt_min <= dt_max:
            raise ModelError(f"S4D: 0 < dt_min <= dt_max must hold, got dt_min={dt_min}, dt_max={dt_max}")
        self.gate, self.init, self.discretization = gate, init, discretization
        d, n = self.d_inner, kept_states("S4D", init, d_state)
        self.in_proj = Linear(d_model, 2 * d if gate else d, bias=bias)
        self.conv1d = CausalConv1d(d, d_conv) if d_conv else None
        self.log_dt = nn.Parameter(torch.empty(d).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_A_real, self.A_imag = initial_parts(d, n, init)
        size, deviation = ((d, n), 1.0) if self.A_imag is None else ((d, n, 2), 0.5**0.5)
        self.C = nn.Parameter(torch.empty(size))
        if not self.C.is_meta:
            nn.init.normal_(self.C, std=deviation)
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = Linear(d, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        u: Tensor,
        state: S4DState | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, S4DState]:
        """Run the block over a sequence, over a part of it, or over one token; it is the same call.

        A system that is the same at every token can neither wait at padding nor start anew within a row, so with
        `mask` or `seq_idx` every sequence is laid out as a row of its own; the longest decides what that costs.

        Args:
            u: inputs, (b, l, d_model).
            state: what an earlier call returned; None stands for the start of the sequence.
            mask: bool (b, l), True = token. Padding may be left, right or between tokens; it changes neither the
                outputs at the tokens nor the state nor any gradient, and its own outputs are zero.
            seq_idx: int (b, l), the number of the sequence that a position belongs to, for several packed in a row.
        Returns:
            y (b, l, d_model), and the state after each row's last token.
        Raises:
            ShapeError: sizes disagree, or the mask is not bool.
        """
        self._check(u, state, mask, seq_idx)
        conv_state, ssm_state = (None, None) if state is None else state
        padding, u, seq_idx = packed(u, mask, seq_idx)
        x, z = self.in_proj(u).chunk(2, dim=-1) if self.gate else (self.in_proj(u), None)
        x, last = self._convolve(x.mT, conv_state, padding, seq_idx)
        if padding is None and seq_idx is None:
            y, ssm = self._system(x, ssm_state)
        else:
            y, ssm = self._rows_apart(x, ssm_state, None if padding is None else padding.token, seq_idx)
        y = y.mT
        y = self.dropout(self.out_proj(F.gelu(y) if z is None else y * F.silu(z)))
        if padding is not None:
            y = padding.unpack(y)
        return y, S4DState(last, ssm)

    def _convolve(self, x: Tensor, conv_state, padding, seq_idx) -> tuple[Tensor, Tensor]:
        if self.conv1d is None:
            return x, x[..., :0]
        y, last = self.conv1d(x, conv_state, seq_idx=seq_idx)
        if padding is not None:
            last = padding.last_inputs(x, self.d_conv - 1, conv_state, seq_idx)
        return y, last

    def _coefficients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """dt, A, B, C in float32 at least, whatever the module was cast to: a rounded A moves the slow states."""
        wide = torch.promote_types(self.log_A_real.dtype, torch.float32)
        A, C = -torch.exp(self.log_A_real.to(wide)), self.C.to(wide)
        if self.A_imag is not None:
            A, C = torch.complex(A, self.A_imag.to(wide)), torch.view_as_complex(C)
        return self.log_dt.to(wide).exp(), A, torch.ones_like(A), C

    def _system(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (b, d, l) -> y (b, d, l) and the state after the last column."""
        return lti(x, *self._coefficients(), self.D, discretization=self.discretization, initial_state=state)

    def _rows_apart(self, x: Tensor, state, token, seq_idx) -> tuple[Tensor, Tensor]:
        """The same for packed rows: each sequence becomes a row, its last token in the last column.

        Nothing is before its first token then but zeros, which leave a state of zero where it is; what the
        initial state adds is computed apart.
        """
        b, d, l = x.shape
        token = x.new_ones((b, l), dtype=torch.bool) if token is None else token
        run = x.new_zeros((b, l), dtype=torch.int64) if seq_idx is None else runs(seq_idx)
        count = int(run.max()) + 1
        row = (torch.arange(b, device=x.device)[:, None] * count + run)[token]
        lengths = torch.bincount(row, minlength=b * count)
        column = places(run)[token] + (l - lengths)[row]
        rows = x.new_zeros(b * count, l, d).index_put((row, column), x.mT[token])
        rows = rows[:, l - max(1, int(lengths.max())) :]
        column = column - (l - rows.shape[1])
        out, last = self._system(rows.mT, None)
        y = x.new_zeros(b, l, d).masked_scatter(token[..., None], out.mT[row, column])
        last = last.unflatten(0, (b, count)).take_along_dim(run[:, -1:, None, None], 1).squeeze(1)
        if state is not None:
            y, last = self._continued(y, last, state, token & (run == 0), run[:, -1] == 0)
        return y.mT, last

    def _continued(self, y: Tensor, last: Tensor, state: Tensor, first: Tensor, open_: Tensor) -> tuple[Tensor, Tensor]:
        """Add what the initial state gives to the first sequence, and to the last state where that is the first."""
        b, l, d = y.shape
        from_state, _ = self._system(y.new_zeros(b, d, l), state)
        y = y + from_state.mT * first[..., None]
        dt, A, B, _ = self._coefficients()
        double = A.to(torch.complex128 if A.is_complex() else torch.float64)
        decay, _ = discretize(dt, double, B, self.discretization)
        kept = (decay ** first.sum(1)[:, None, None] * state).to(last.dtype)
        return y, last + kept * open_[:, None, None]

    def _check(self, u, state, mask, seq_idx):
        conv, ssm = check_state("S4D", state, S4DState)
        check_shapes(
            "S4D",
            u=(u, f"b l {self.d_model}"),
            conv_state=(conv, f"?: b {self.d_inner} {max(self.d_conv - 1, 0)}"),
            ssm_state=(ssm, f"complex?: b {self.d_inner} {self.log_A_real.shape[1]}"),
            mask=(mask, "bool?: b l"),
            seq_idx=(seq_idx, "integer?: b l"),
        )

    def extra_repr(self) -> str:
        options = "d_model d_inner d_state d_conv gate init discretization"
        return ", ".join(f"{name}={getattr(self, name)}" for name in options.split())
