"""The bidirectional Mamba block of Vision Mamba: two directions between one pair of projections."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn.conv import CausalConv1d
from ssmlab.nn.dt import check_sizes, checked_rank, init_dt
from ssmlab.nn.linear import Linear
from ssmlab.nn.padding import Padding, packed
from ssmlab.ops import selective_scan

KINDS = ("v1", "v2")


class BiMamba(nn.Module):
    """Mamba that reads a sequence forward and backward, with one in_proj and one out_proj for both directions.

        x, z = in_proj(u)
        out = out_proj(mean or sum of scan(x) * silu(z) and reverse(scan_b(reverse(x)) * silu(reverse(z))))

    Source: Zhu et al. 2024 (arXiv:2401.09417), algorithm 1. With "v2", the one that they publish, the backward
    direction has a convolution, projections, A and D of its own, whose names end in `_b`; it convolves the reversed
    sequence. With "v1" it has only A of its own and scans in reverse what the forward convolution gave. (The original
    code's third kind, "none", is `Mamba`.)

    Args:
        d_model: channels of input and output.
        d_state: n, states of every inner channel.
        d_conv: width of the convolution.
        expand: d_inner = expand * d_model.
        dt_rank: rank of the step size's projection; "auto" is ceil(d_model / 16).
        dt_min, dt_max: the initial step sizes are log-uniform between them.
        dt_init_floor: no initial step size is smaller.
        conv_bias: bias of the convolution.
        bias: bias of in_proj and out_proj.
        kind: "v2" or "v1".
        divide: the mean of the two directions instead of their sum.
        inner_dropout: probability of dropout on the gated inner stream, before out_proj.
    Raises:
        ModelError: a size is not positive, the range of dt is empty, or the kind is unknown.
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
        kind: str = "v2",
        divide: bool = False,
        inner_dropout: float = 0.0,
    ):
        super().__init__()
        if kind not in KINDS:
            raise ModelError(f"BiMamba: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        rank = checked_rank("Mamba", dt_rank, d_model)
        self.d_model, self.d_state, self.d_conv, self.dt_rank = d_model, d_state, d_conv, rank
        self.d_inner = d_inner = int(expand * d_model)
        check_sizes("BiMamba", d_model=d_model, d_state=d_state, d_conv=d_conv, d_inner=d_inner)
        if not 0 < dt_min <= dt_max:
            raise ModelError(f"BiMamba: 0 < dt_min <= dt_max must hold, got dt_min={dt_min}, dt_max={dt_max}")
        self.kind, self.divide = kind, divide
        self.in_proj = Linear(d_model, 2 * d_inner, bias=bias)
        self.conv1d = CausalConv1d(d_inner, d_conv, bias=conv_bias)
        self.x_proj = Linear(d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.A_b_log = nn.Parameter(self.A_log.detach().clone())
        self.inner_dropout = inner_dropout
        self.out_proj = Linear(d_inner, d_model, bias=bias)
        init_dt(self.dt_proj, dt_min, dt_max, dt_init_floor)
        if kind == "v2":
            self.conv1d_b = CausalConv1d(d_inner, d_conv, bias=conv_bias)
            self.x_proj_b = Linear(d_inner, rank + 2 * d_state, bias=False)
            self.dt_proj_b = Linear(rank, d_inner)
            self.D_b = nn.Parameter(torch.ones(d_inner))
            init_dt(self.dt_proj_b, dt_min, dt_max, dt_init_floor)

    def forward(
        self, u: Tensor, state: None = None, *, mask: Tensor | None = None, seq_idx: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """u (b, l, d_model) -> y (b, l, d_model); there is no state to return.

        Args:
            mask: bool (b, l), True = token; padding changes nothing at the tokens, and its own outputs are zero.
            seq_idx: int (b, l), the number of the sequence that a position belongs to, for several packed in a row.
        Raises:
            ShapeError: sizes disagree, the mask is not bool, or a state is given. The backward direction starts at
                the sequence's end, so the block cannot continue one.
        """
        if state is not None:
            raise ShapeError(
                "BiMamba: a bidirectional block reads whole sequences and cannot continue from a state; "
                "pass state=None and the whole sequence"
            )
        check_shapes(
            "BiMamba", u=(u, f"b l {self.d_model}"), mask=(mask, "bool?: b l"), seq_idx=(seq_idx, "integer?: b l")
        )
        padding, u, seq_idx = packed(u, mask, seq_idx)
        reverse = _Reversal(padding)
        back_idx = None if seq_idx is None else reverse(seq_idx[..., None]).squeeze(-1)
        xz = self.in_proj(u)
        ahead = self._select(xz, seq_idx, self.conv1d, self.x_proj, self.dt_proj)
        y = _scan(ahead, self.A_log, self.D, seq_idx)
        if self.kind == "v2":
            back = self._select(reverse(xz), back_idx, self.conv1d_b, self.x_proj_b, self.dt_proj_b)
            y = y + reverse(_scan(back, self.A_b_log, self.D_b, back_idx))
        else:
            back = [reverse(tensor) for tensor in ahead]
            y = y + reverse(_scan(back, self.A_b_log, self.D, back_idx))
        y = self.out_proj(F.dropout(y / 2 if self.divide else y, self.inner_dropout, self.training))
        return (y if padding is None else padding.unpack(y)), None

    def _select(self, xz: Tensor, seq_idx: Tensor | None, conv1d: nn.Module, x_proj: nn.Module, dt_proj: nn.Module):
        """x, z, dt, B and C of one direction, each (b, l, .), from the projection of its inputs."""
        x, z = xz.chunk(2, dim=-1)
        x = conv1d(x.mT, seq_idx=seq_idx)[0].mT
        dt, B, C = x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return [x, z, dt_proj(dt), B, C]

    def extra_repr(self) -> str:
        sizes = "d_model d_inner d_state d_conv dt_rank kind divide"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())


class _Reversal:
    """The tokens of every row in the opposite order; padding, which is after them, stays there. Its own inverse."""

    def __init__(self, padding: Padding | None):
        self.order: Tensor | None = None
        if padding is not None:
            length = padding.order.shape[1]
            place = torch.arange(length, device=padding.order.device)
            self.order = ((padding.lengths[:, None] - 1 - place) % length)[..., None]

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.flip(1) if self.order is None else tensor.take_along_dim(self.order, 1)


def _scan(selected: list[Tensor], A_log: Tensor, D: Tensor, seq_idx: Tensor | None) -> Tensor:
    x, z, dt, B, C = (tensor.mT for tensor in selected)
    # in float32 (float64 stays) even if the module was cast: exp of a rounded logarithm moves the slow modes
    A = -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))
    return selective_scan(x, dt, A, B, C, D, z=z, dt_softplus=True, seq_idx=seq_idx)[0].mT
