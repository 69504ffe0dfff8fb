"""The Mamba-2 block: a state space model with one decay a head, its parts projected side by side from the input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.checks import check_shapes, check_state
from ssmlab.core.errors import ModelError
from ssmlab.nn.conv import CausalConv1d, convolved, is_one_token
from ssmlab.nn.dt import check_sizes, fill_dt_bias
from ssmlab.nn.linear import Linear
from ssmlab.nn.norm import GatedRMSNorm
from ssmlab.nn.padding import NO_STEP, Padding, packed
from ssmlab.ops import ssd
from ssmlab.ops.ssd import CHUNK_SIZE
from ssmlab.ops.steps import head_token


class Mamba2State(NamedTuple):
    """What a Mamba-2 block remembers between two calls.

    conv: the last inputs of the convolution, newest last, (b, d_ssm + 2 ngroups d_state, d_conv - 1).
    ssm: the state of the heads, (b, nheads, headdim, d_state), float32.
    """

    conv: Tensor
    ssm: Tensor


class Mamba2(nn.Module):
    """Mamba-2, the block of the state space dual.

        z, x, B, C, dt = in_proj(u)      x, B, C = silu(conv1d(x, B, C))      dt = softplus(dt + dt_bias)
        H_t = exp(dt_t A) H_{t-1} + dt_t x_t B_t^T                            y_t = H_t C_t + D x_t
        out = out_proj(norm(y * silu(z)))

    Source: Dao & Gu 2024 (arXiv:2405.21060), section 7.1 and figure 6. Parameter names and layouts are those of the
    original code, so that its weights load unchanged.

    Args:
        d_model: channels of input and output.
        d_state: n, states of every channel.
        d_conv: width of the causal convolution.
        expand: d_inner = expand * d_model.
        headdim: p, channels of a head.
        d_ssm: channels that the heads share, a multiple of headdim; the remaining d_inner - d_ssm are a gated layer
            next to them. None takes all.
        ngroups: g, groups of heads with a B and C of their own; the norm has the same groups.
        D_has_hdim: whether D has a value for every channel instead of every head.
        rmsnorm: whether y is normalised; without it the gate acts alone.
        norm_before_gate: whether the gate acts after the norm.
        norm_eps: added to the norm's mean square.
        A_min, A_max: the initial decay rates -A are uniform between them.
        dt_min, dt_max: the initial step sizes are log-uniform between them.
        dt_init_floor: no initial step size is smaller.
        dt_limit: the least and the largest step size, which softplus is clamped to; None leaves it alone.
        conv_bias: bias of the convolution.
        bias: bias of in_proj and out_proj.
        chunk_size: of `ops.ssd`; a matter of speed alone.
        dropout: probability of dropout on the block's output, the residual branch.
        inner_dropout: the same on the gated inner stream, before out_proj.
    Raises:
        ModelError: a size is not positive or does not divide another, or a range is empty.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: float = 2,
        headdim: int = 64,
        *,
        d_ssm: int | None = None,
        ngroups: int = 1,
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        norm_eps: float = 1e-5,
        A_min: float = 1,
        A_max: float = 16,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] | None = None,
        conv_bias: bool = True,
        bias: bool = False,
        chunk_size: int = CHUNK_SIZE,
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
    ):
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.headdim = d_model, d_state, d_conv, headdim
        self.d_inner = int(expand * d_model)
        self.d_ssm = d_ssm = self.d_inner if d_ssm is None else d_ssm
        self.ngroups, self.dt_limit, self.chunk_size = ngroups, dt_limit, chunk_size
        _check_sizes(self)
        for name, low, high in (("A", A_min, A_max), ("dt", dt_min, dt_max)):
            if not 0 < low <= high:
                raise ModelError(f"Mamba2: 0 < {name}_min <= {name}_max must hold, got {low} and {high}")
        self.nheads = d_ssm // headdim
        self.d_mlp = self.d_inner - d_ssm
        d_conv_in = d_ssm + 2 * ngroups * d_state
        self.in_proj = Linear(d_model, 2 * self.d_mlp + d_ssm + d_conv_in + self.nheads, bias=bias)
        self.conv1d = CausalConv1d(d_conv_in, d_conv, bias=conv_bias)
        self.dt_bias = nn.Parameter(fill_dt_bias(torch.empty(self.nheads), dt_min, dt_max, dt_init_floor))
        self.A_log = nn.Parameter(torch.empty(self.nheads))
        if not self.A_log.is_meta:
            self.A_log.data.uniform_(A_min, A_max).log_()
        self.D = nn.Parameter(torch.ones(d_ssm if D_has_hdim else self.nheads))
        self.norm = (
            GatedRMSNorm(d_ssm, groups=ngroups, eps=norm_eps, norm_before_gate=norm_before_gate) if rmsnorm else None
        )
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)
        self.dropout, self.inner_dropout = nn.Dropout(dropout), inner_dropout

    def forward(
        self,
        u: Tensor,
        state: Mamba2State | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, Mamba2State]:
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
        self._check(u, state, mask, seq_idx)
        conv_state, ssm_state = (None, None) if state is None else state
        padding, u, seq_idx = packed(u, mask, seq_idx)
        d_conv_in = self.d_ssm + 2 * self.ngroups * self.d_state
        z0, x0, z, xBC, dt = self.in_proj(u).split([self.d_mlp, self.d_mlp, self.d_ssm, d_conv_in, self.nheads], dim=-1)
        inputs = xBC.mT
        token = is_one_token(u, state, mask, seq_idx, self.A_log)
        xBC, last = convolved(self.conv1d, inputs, conv_state, seq_idx, token=token)
        if padding is not None:
            last = padding.last_inputs(inputs, self.d_conv - 1, conv_state, seq_idx)
        y, ssm = self._ssd(xBC.mT, z, dt, padding, ssm_state, seq_idx, token)
        if self.norm is not None:
            y = self.norm(y, z)
        if self.d_mlp:
            y = torch.cat([F.silu(z0) * x0, y], dim=-1)
        y = self.dropout(self.out_proj(F.dropout(y, self.inner_dropout, self.training)))
        if padding is not None:
            y = padding.unpack(y)
        return y, Mamba2State(last, ssm)

    def _ssd(
        self, xBC: Tensor, z: Tensor, dt: Tensor, padding: Padding | None, state, seq_idx, token: bool
    ) -> tuple[Tensor, Tensor]:
        """y (b, l, d_ssm), gated where no norm will do it, and the heads' state; `token`: one, without a gradient."""
        width = self.ngroups * self.d_state
        x, B, C = xBC.split([self.d_ssm, width, width], dim=-1)
        clamped = self.dt_limit is not None
        if self.dt_limit is not None:
            wide = torch.promote_types(dt.dtype, torch.float32)
            dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide)).clamp(*self.dt_limit)
        if padding is not None:
            dt = dt.masked_fill(~padding.token[..., None], 0.0 if clamped else NO_STEP)
        x = x.unflatten(-1, (self.nheads, self.headdim))
        B, C = (t.unflatten(-1, (self.ngroups, self.d_state)) for t in (B, C))
        gate = None if self.norm is not None else z.unflatten(-1, (self.nheads, self.headdim))
        D = self.D if len(self.D) == self.nheads else self.D.unflatten(0, (self.nheads, self.headdim))
        dt_bias = None if clamped else self.dt_bias
        if token:
            first = None if gate is None else gate[:, 0]
            one = head_token(
                state, x[:, 0], dt[:, 0], self._A(), B[:, 0], C[:, 0], D, first, dt_bias, dt_softplus=not clamped
            )
            if one is not None:
                return one[0].flatten(1)[:, None], one[1]
        y, ssm = ssd(
            x,
            dt,
            self._A(),
            B,
            C,
            D,
            z=gate,
            dt_bias=dt_bias,
            dt_softplus=not clamped,
            chunk_size=self.chunk_size,
            initial_state=state,
            seq_idx=seq_idx,
        )
        return y.flatten(2), ssm

    def _A(self) -> Tensor:
        # in float32 (float64 stays) even if the module was cast: exp of a rounded logarithm moves the slow heads
        return -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))

    def _check(self, u, state, mask, seq_idx):
        conv, ssm = check_state("Mamba2", state, Mamba2State)
        check_shapes(
            "Mamba2",
            u=(u, f"b l {self.d_model}"),
            conv_state=(conv, f"?: b {self.d_ssm + 2 * self.ngroups * self.d_state} {self.d_conv - 1}"),
            ssm_state=(ssm, f"?: b {self.nheads} {self.headdim} {self.d_state}"),
            mask=(mask, "bool?: b l"),
            seq_idx=(seq_idx, "integer?: b l"),
        )

    def extra_repr(self) -> str:
        sizes = "d_model d_inner d_ssm d_state d_conv nheads headdim ngroups"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())


def _check_sizes(block: Mamba2):
    names = ("d_model", "d_state", "d_conv", "headdim", "d_inner", "d_ssm", "ngroups", "chunk_size")
    check_sizes("Mamba2", **{name: getattr(block, name) for name in names})
    if block.d_ssm > block.d_inner:
        raise ModelError(f"Mamba2: d_ssm must not exceed d_inner={block.d_inner}, got {block.d_ssm}")
    if block.d_ssm % block.headdim:
        divisors = [p for p in range(1, block.d_ssm + 1) if block.d_ssm % p == 0]
        near = sorted(divisors, key=lambda p: abs(p - block.headdim))[:3]
        raise ModelError(
            f"Mamba2: headdim must divide the {block.d_ssm} channels of the heads, got {block.headdim}; "
            f"the nearest that do are {', '.join(map(str, sorted(near)))}"
        )
    heads = block.d_ssm // block.headdim
    if heads % block.ngroups:
        raise ModelError(f"Mamba2: ngroups must divide the {heads} heads, got {block.ngroups}")
    if block.dt_limit is not None and not 0 <= block.dt_limit[0] < block.dt_limit[1]:
        raise ModelError(f"Mamba2: dt_limit must be two step sizes, the lesser first, got {block.dt_limit}")
