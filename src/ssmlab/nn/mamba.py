"""The Mamba block: a gated, input-dependent state space model after a short causal convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.checks import check_shapes, check_state
from ssmlab.core.errors import ModelError
from ssmlab.nn.conv import CausalConv1d, convolved, is_one_token
from ssmlab.nn.dt import check_sizes, checked_rank, init_dt
from ssmlab.nn.eigenvalues import initial_parts, kept_states
from ssmlab.nn.linear import Linear
from ssmlab.nn.padding import NO_STEP, packed
from ssmlab.ops import selective_scan
from ssmlab.ops.steps import scan_token


class MambaState(NamedTuple):
    """What a Mamba block remembers between two calls.

    conv: the last inputs of the convolution, newest last, (b, d_inner, d_conv - 1).
    ssm: the state of the scan, (b, d_inner, d_state), float32; (b, d_inner, d_state / 2), complex64, with complex A.
    """

    conv: Tensor
    ssm: Tensor


class Mamba(nn.Module):
    """Mamba, the selective state space block.

        x, z = in_proj(u)            x = silu(conv1d(x))          dt, B, C = x_proj(x)
        dt = softplus(dt_proj(dt))   h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t    y_t = C_t h_t + D x_t
        out = out_proj(y * silu(z))

    Source: Gu & Dao 2023 (arXiv:2312.00752), section 3.4 and figure 3; initial values from sections 3.6 and E.
    Parameter names and layouts are those of the original code, so that its weights load unchanged.

    Args:
        d_model: channels of input and output.
        d_state: n, states of every inner channel; complex ones come in conjugate pairs, so that half of them are kept.
        d_conv: width of the causal convolution.
        expand: d_inner = expand * d_model.
        dt_rank: rank of the step size's projection; "auto" is ceil(d_model / 16).
        dt_min, dt_max: the initial step sizes are log-uniform between them.
        dt_init_floor: no initial step size is smaller.
        conv_bias: bias of the convolution.
        bias: bias of in_proj and out_proj.
        dropout: probability of dropout on the block's output, the residual branch.
        inner_dropout: the same on the gated inner stream, before out_proj.
        init: the initial A as in `nn.S4D`: "real" -(n + 1); complex, which suits signals such as sound (section 3.6),
            "lin" -1/2 + i pi n or "inv". The imaginary part is a parameter of its own, `A_imag` (d_inner, d_state / 2).
    Raises:
        ModelError: a size is not positive, the range of dt is empty, or there is no such `init`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        dropout: float = 0.0,
        init: str = "real",
        inner_dropout: float = 0.0,
    ):
        super().__init__()
        rank = checked_rank("Mamba", dt_rank, d_model)
        self.d_model, self.d_state, self.d_conv, self.dt_rank = d_model, d_state, d_conv, rank
        self.d_inner = d_inner = int(expand * d_model)
        check_sizes("Mamba", d_model=d_model, d_state=d_state, d_conv=d_conv, d_inner=d_inner)
        if not 0 < dt_min <= dt_max:
            raise ModelError(f"Mamba: 0 < dt_min <= dt_max must hold, got dt_min={dt_min}, dt_max={dt_max}")
        self.kept = kept_states("Mamba", init, d_state)
        self.in_proj = Linear(d_model, 2 * d_inner, bias=bias)
        self.conv1d = CausalConv1d(d_inner, d_conv, bias=conv_bias)
        self.x_proj = Linear(d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(rank, d_inner)
        self.A_log, self.A_imag = initial_parts(d_inner, self.kept, init)
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = Linear(d_inner, d_model, bias=bias)
        self.dropout, self.inner_dropout = nn.Dropout(dropout), inner_dropout
        init_dt(self.dt_proj, dt_min, dt_max, dt_init_floor)

    def forward(
        self,
        u: Tensor,
        state: MambaState | None = None,
        *,
        mask: Tensor | None = None,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, MambaState]:
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
        token = is_one_token(u, state, mask, seq_idx, self.A_log)
        inputs, z = (half.mT for half in self.in_proj(u).chunk(2, dim=-1))
        x, last = convolved(self.conv1d, inputs, conv_state, seq_idx, token=token)
        dt, B, C = self.x_proj(x.mT).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = self.dt_proj(dt)
        if padding is not None:
            dt = dt.masked_fill(~padding.token[..., None], NO_STEP)
            last = padding.last_inputs(inputs, self.d_conv - 1, conv_state, seq_idx)
        y, ssm = self._scan(x, dt, self._A(), B, C, z, ssm_state, seq_idx, token)
        y = self.dropout(self.out_proj(F.dropout(y.mT, self.inner_dropout, self.training)))
        if padding is not None:
            y = padding.unpack(y)
        return y, MambaState(last, ssm)

    def _scan(self, x, dt, A, B, C, z, state, seq_idx, token: bool) -> tuple[Tensor, Tensor]:
        """y (b, d, l), gated, and the state; `token`: one, without a gradient, whose kernel is tried first."""
        if token and self.A_imag is None:
            one = scan_token(state, x.squeeze(2), dt.squeeze(1), A, B.squeeze(1), C.squeeze(1), self.D, z.squeeze(2))
            if one is not None:
                return one[0].unsqueeze(2), one[1]
        B, C = self._per_token(B), self._per_token(C)
        return selective_scan(x, dt.mT, A, B, C, self.D, z=z, dt_softplus=True, initial_state=state, seq_idx=seq_idx)

    def empty_state(self, like: Tensor) -> MambaState:
        """The state before the first token, for as many rows as features (b, l, d) have, in their dtype."""
        A = self._A()
        return MambaState(like.new_zeros(len(like), self.d_inner, self.d_conv - 1), A.new_zeros(len(like), *A.shape))

    def _per_token(self, map_: Tensor) -> Tensor:
        """B or C (b, l, n) as the operator takes it, (b, n, l); with complex A (b, n / 2, 2 l), parts interleaved."""
        if self.A_imag is None:
            return map_.mT
        return map_.unflatten(-1, (self.kept, 2)).transpose(1, 2).flatten(2)

    def _A(self) -> Tensor:
        # in float32 (float64 stays) even if the module was cast: exp of a rounded logarithm moves the slow modes
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        A = -torch.exp(self.A_log.to(wide))
        return A if self.A_imag is None else torch.complex(A, self.A_imag.to(wide))

    def _check(self, u, state, mask, seq_idx):
        conv, ssm = check_state("Mamba", state, MambaState)
        check_shapes(
            "Mamba",
            u=(u, f"b l {self.d_model}"),
            conv_state=(conv, f"?: b {self.d_inner} {self.d_conv - 1}"),
            ssm_state=(ssm, f"complex?: b {self.d_inner} {self.kept}"),
            mask=(mask, "bool?: b l"),
            seq_idx=(seq_idx, "integer?: b l"),
        )

    def extra_repr(self) -> str:
        sizes = "d_model d_inner d_state d_conv dt_rank"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())
