"""The Mamba-3 block: a state that turns as well as decays, a trapezoid for the input, and no convolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError
from ssmlab.nn.dt import check_sizes, fill_dt_bias
from ssmlab.nn.linear import Linear
from ssmlab.nn.norm import GatedRMSNorm
from ssmlab.nn.padding import packed
from ssmlab.ops import Mamba3State, mamba3
from ssmlab.ops.ssd import CHUNK_SIZE


def heavy_tail(x: Tensor) -> Tensor:
    """1 + x where x >= 0, 1 / (1 - x) below: positive, with a slope of one at 0, and falling slower than softplus."""
    return x.clamp(min=0) + (1 - x.clamp(max=0)).reciprocal()


A_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"heavy_tail": heavy_tail, "softplus": F.softplus}


class Mamba3(nn.Module):
    """Mamba-3, with one input and output a head (SISO) or `mimo_rank` of them (MIMO).

        z, x, B, C, dt, A, trap, angle = in_proj(u)      dt = softplus(dt + dt_bias)      A = -activation(A) <= -A_floor
        B, C = B_norm(B) + B_bias, C_norm(C) + C_bias    y = mamba3(x, dt, A dt, trap, B, C, angle, D)
        out = out_proj(y * silu(z))

    With `outproj_norm` y is normalised per head before its gate. MIMO multiplies x, z and y by mimo_x, mimo_z and
    mimo_o, one weight a channel and rank; its y is the sum over the ranks. See `ops.mamba3` for the recurrence.

    Source: Mamba-3 (arXiv:2603.15569). Parameter names and layouts are those of the original code, so that its weights
    load unchanged.

    Args:
        d_model: channels of input and output.
        d_state: n, states of every channel.
        expand: d_inner = expand * d_model.
        headdim: p, channels of a head.
        ngroups: g, groups of heads with a B and C of their own.
        rope_fraction: share of the states that turn, in pairs: 0.5 or 1.
        mimo_rank: r, inputs and outputs of a head; None makes SISO, which has no weights for them.
        outproj_norm: whether y is normalised before its gate.
        A_activation: what makes the decay rate positive: "heavy_tail" as published since June 2026, "softplus" as
            before. Weights that were trained with one do not fit the other.
        A_floor: no decay rate is smaller.
        dt_min, dt_max: the initial step sizes are log-uniform between them.
        dt_init_floor: no initial step size is smaller.
        chunk_size: of `ops.ssd`; a matter of speed alone.
        dropout: probability of dropout on the block's output, the residual branch.
    Raises:
        ModelError: a size is not positive or does not divide another, a range is empty, or a choice is unknown.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        expand: float = 2,
        headdim: int = 64,
        *,
        ngroups: int = 1,
        rope_fraction: float = 0.5,
        mimo_rank: int | None = None,
        outproj_norm: bool = False,
        A_activation: str = "heavy_tail",
        A_floor: float = 1e-4,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_init_floor: float = 1e-4,
        chunk_size: int = CHUNK_SIZE,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.d_model, self.d_state, self.headdim, self.ngroups = d_model, d_state, headdim, ngroups
        self.d_inner = int(expand * d_model)
        self.mimo, self.mimo_rank = mimo_rank is not None, 1 if mimo_rank is None else mimo_rank
        self.A_activation, self.A_floor, self.chunk_size = A_activation, A_floor, chunk_size
        _check(self, rope_fraction, dt_min, dt_max)
        self.nheads = heads = self.d_inner // headdim
        self.num_angles = int(d_state * rope_fraction) // 2
        width = self.mimo_rank * ngroups * d_state
        self.parts = [self.d_inner, self.d_inner, width, width, heads, heads, heads, self.num_angles]
        self.in_proj = Linear(d_model, sum(self.parts), bias=False)
        self.dt_bias = nn.Parameter(fill_dt_bias(torch.empty(heads), dt_min, dt_max, dt_init_floor))
        self.B_bias = nn.Parameter(torch.ones(heads, self.mimo_rank, d_state))
        self.C_bias = nn.Parameter(torch.ones(heads, self.mimo_rank, d_state))
        self.B_norm, self.C_norm = nn.RMSNorm(d_state, eps=1e-5), nn.RMSNorm(d_state, eps=1e-5)
        if self.mimo:
            self.mimo_x = nn.Parameter(torch.full((heads, self.mimo_rank, headdim), 1 / self.mimo_rank))
            self.mimo_z = nn.Parameter(torch.ones(heads, self.mimo_rank, headdim))
            self.mimo_o = nn.Parameter(torch.full((heads, self.mimo_rank, headdim), 1 / self.mimo_rank))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(self.d_inner, groups=heads, norm_before_gate=True) if outproj_norm else None
        self.out_proj = Linear(self.d_inner, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        u: Tensor,
        state: Mamba3State | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, Mamba3State]:
        """Run the block over a sequence, over a part of it, or over one token; it is the same call.

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
        shape = f"b l {self.d_model}"
        check_shapes("Mamba3", u=(u, shape), mask=(mask, "bool?: b l"), seq_idx=(seq_idx, "integer?: b l"))
        padding, u, seq_idx = packed(u, mask, seq_idx)
        z, x, B, C, dt, A, trap, angle = self.in_proj(u).split(self.parts, dim=-1)
        z, x = (t.unflatten(-1, (self.nheads, self.headdim)) for t in (z, x))
        B, C = (t.unflatten(-1, (self.mimo_rank, self.ngroups, self.d_state)) for t in (B, C))
        dt, log_decay = self._steps(dt, A)
        gated = self.norm is None
        y, state = mamba3(
            x, dt, log_decay, trap, _normed(self.B_norm, B), _normed(self.C_norm, C), angle, self.D,
            z=z if gated else None,
            B_bias=self.B_bias, C_bias=self.C_bias,
            mimo_x=self.mimo_x if self.mimo else None,
            mimo_z=self.mimo_z if self.mimo and gated else None,
            mimo_o=self.mimo_o if self.mimo and gated else None,
            pairs="halves" if self.mimo else "interleaved",
            chunk_size=self.chunk_size,
            initial_state=state,
            seq_idx=seq_idx,
            lengths=None if padding is None else padding.lengths,
        )  # fmt: skip
        if self.mimo:  # the operator keeps the whole sum, in which a long text would lose its digits
            angle, *others = state  # _replace is refused by the compiler of torch 2.11
            state = Mamba3State(angle.remainder(2 * torch.pi), *others)
        if self.norm is not None:
            y = self._gated(y, z, self.norm)
        y = self.dropout(self.out_proj(y.flatten(2).to(u.dtype)))
        if padding is not None:
            y = padding.unpack(y)
        return y, state

    def _steps(self, dt: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        """The step sizes and the logarithms of the decays, in float32 even if the module was cast."""
        wide = torch.promote_types(dt.dtype, torch.float32)
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide))
        return dt, -A_ACTIVATIONS[self.A_activation](A.to(wide)).clamp(min=self.A_floor) * dt

    def _gated(self, y: Tensor, z: Tensor, norm: nn.Module) -> Tensor:
        """y (b, l, h, p), MIMO's (b, l, r, h, p), after norm and gate; (b, l, h, p)."""
        if not self.mimo:
            return norm(y.flatten(-2), z.flatten(-2))
        gate = (z.unsqueeze(2) * self.mimo_z.transpose(0, 1)).flatten(-2)
        return (norm(y.flatten(-2), gate).unflatten(-1, y.shape[-2:]) * self.mimo_o.transpose(0, 1)).sum(2)

    def extra_repr(self) -> str:
        sizes = "d_model d_inner d_state nheads headdim ngroups num_angles mimo_rank A_activation"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())


def _normed(norm: nn.RMSNorm, map_: Tensor) -> Tensor:
    """The norm in the dtype of its weight, which autocast leaves wide."""
    return norm(map_.to(norm.weight.dtype))


def _check(block: Mamba3, rope_fraction: float, dt_min: float, dt_max: float):
    names = ("d_model", "d_state", "headdim", "d_inner", "ngroups", "mimo_rank", "chunk_size")
    check_sizes("Mamba3", **{name: getattr(block, name) for name in names})
    if block.d_inner % block.headdim:
        divisors = [p for p in range(1, block.d_inner + 1) if block.d_inner % p == 0]
        near = sorted(divisors, key=lambda p: abs(p - block.headdim))[:3]
        raise ModelError(
            f"Mamba3: headdim must divide the {block.d_inner} inner channels, got {block.headdim}; "
            f"the nearest that do are {', '.join(map(str, sorted(near)))}"
        )
    heads = block.d_inner // block.headdim
    if heads % block.ngroups:
        raise ModelError(f"Mamba3: ngroups must divide the {heads} heads, got {block.ngroups}")
    if rope_fraction not in (0.5, 1):
        raise ModelError(f"Mamba3: rope_fraction must be 0.5 or 1, got {rope_fraction}")
    if int(block.d_state * rope_fraction) < 2 or (block.mimo and block.d_state % 2):
        raise ModelError(f"Mamba3: d_state={block.d_state} has no pairs to turn; give an even number, 4 or more")
    if block.A_activation not in A_ACTIVATIONS:
        raise ModelError(f"Mamba3: A_activation must be {' or '.join(A_ACTIVATIONS)}, got {block.A_activation!r}")
    if block.A_floor < 0:
        raise ModelError(f"Mamba3: A_floor must not be negative, got {block.A_floor}")
    if not 0 < dt_min <= dt_max:
        raise ModelError(f"Mamba3: 0 < dt_min <= dt_max must hold, got {dt_min} and {dt_max}")
