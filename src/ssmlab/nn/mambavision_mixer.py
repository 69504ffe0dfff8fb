"""The mixer of MambaVision: a selective scan next to a branch without one, both after short symmetric convolutions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError
from ssmlab.nn.dt import init_dt
from ssmlab.nn.linear import Linear
from ssmlab.ops import selective_scan


class SameConv1d(nn.Module):
    """Depthwise convolution that sees as far ahead as back ("same" padding with zeros), and silu.

    The parameter has the name, shape and initial distribution of `nn.Conv1d(d, d, width, groups=d, bias=False)`.

    Args:
        channels: d.
        width: how many positions one output sees, itself included; odd.
    Raises:
        ModelError: the width is even.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        if width % 2 == 0:
            raise ModelError(f"SameConv1d: width must be odd to see as far ahead as back, got {width}")
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """x (b, d, l) -> y (b, d, l), channel-contiguous."""
        # (b, l, d) memory is that of a channels-last image of height 1, for which torch has a kernel; the shifted
        # ops.causal_conv1d takes as long and 1.2 times as long with the backward pass, F.conv1d 1.5 to 2 times
        image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        channels, _, width = self.weight.shape
        y = F.conv2d(image, self.weight.unsqueeze(2), padding=(0, width // 2), groups=channels)
        return F.silu(y.squeeze(2))

    def extra_repr(self) -> str:
        channels, _, width = self.weight.shape
        return f"{channels}, width={width}"


class MambaVisionMixer(nn.Module):
    """MambaVision's replacement for the Mamba block, for the tokens of a window.

        x, z = in_proj(u)      x = silu(conv1d_x(x))      z = silu(conv1d_z(z))      dt, B, C = x_proj(x)
        dt = softplus(dt_proj(dt) + bias of dt_proj)      h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t
        y_t = C_t h_t + D x_t                             out = out_proj([y, z])

    Source: Hatamizadeh & Kautz 2024 (arXiv:2407.08083), section 3.2, eq. 6-7 and figure 3. The published weights were
    trained with the bias of dt_proj added twice, in the linear layer and again in the scan, and so it is here. The
    convolutions are symmetric, so the mixer reads whole sequences: it has no state.

    Args:
        d_model: channels of input and output.
        d_state: n, states of every scanned channel.
        d_conv: width of the convolutions, odd.
        expand: d_inner = expand * d_model, of which one half is scanned.
        dt_rank: rank of the step size's projection; "auto" is ceil(d_model / 16).
        dt_min, dt_max: what softplus of the bias of dt_proj, taken once, is log-uniform between initially.
        dt_init_floor: no such value is smaller.
    Raises:
        ModelError: a size is not positive, d_inner is odd, d_conv is even, or the range of dt is empty.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 8,
        d_conv: int = 3,
        expand: float = 1,
        dt_rank: int | str = "auto",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_init_floor: float = 1e-4,
    ):
        super().__init__()
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner = d_inner = int(expand * d_model)
        _check_sizes(d_model=d_model, d_state=d_state, d_conv=d_conv, d_inner=d_inner, dt_rank=rank)
        if d_inner % 2 or not 0 < dt_min <= dt_max:
            raise ModelError(
                f"MambaVisionMixer: expand * d_model must be even and 0 < dt_min <= dt_max, got {d_inner}, "
                f"dt_min={dt_min}, dt_max={dt_max}"
            )
        self.dt_rank, half = int(rank), d_inner // 2
        self.in_proj = Linear(d_model, d_inner, bias=False)
        self.conv1d_x = SameConv1d(half, d_conv)
        self.conv1d_z = SameConv1d(half, d_conv)
        self.x_proj = Linear(half, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(self.dt_rank, half)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(half, 1))
        self.D = nn.Parameter(torch.ones(half))
        self.out_proj = Linear(d_inner, d_model, bias=False)
        init_dt(self.dt_proj, dt_min, dt_max, dt_init_floor)

    def forward(self, u: Tensor) -> Tensor:
        """u (b, l, d_model) -> (b, l, d_model).

        Raises:
            ShapeError: u has other axes or channels.
        """
        check_shapes("MambaVisionMixer", u=(u, f"b l {self.d_model}"))
        x, z = (half.mT for half in self.in_proj(u).chunk(2, dim=-1))
        x, z = self.conv1d_x(x), self.conv1d_z(z)
        dt, B, C = self.x_proj(x.mT).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = self.dt_proj(dt).mT
        # in float32 (float64 stays) even if the module was cast: exp of a rounded logarithm moves the slow modes
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        y, _ = selective_scan(x, dt, A, B.mT, C.mT, self.D, dt_bias=self.dt_proj.bias, dt_softplus=True)
        return self.out_proj(torch.cat([y.mT, z.mT], dim=-1))

    def extra_repr(self) -> str:
        sizes = "d_model d_inner d_state d_conv dt_rank"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())


def _check_sizes(**sizes: int | str):
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"MambaVisionMixer: {name} must be a whole number of at least 1, got {value!r}")
