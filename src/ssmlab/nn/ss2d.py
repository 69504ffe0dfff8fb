"""The selective scan over feature maps: every position sees the map from four directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError
from ssmlab.nn.dt import check_sizes, checked_rank, fill_dt_bias
from ssmlab.nn.layers2d import LayerNorm2d, Linear2d
from ssmlab.ops import directional_scan
from ssmlab.ops.linear import linear

DIRECTIONS = 4
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class SS2D(nn.Module):
    """SS2D, the 2-D selective scan block.

        x, z = in_proj(u)        x = silu(conv2d(x))        dt_k, B_k, C_k = x_proj_k(x)      k = 1 .. 4 directions
        y = sum_k scan_k(x, softplus(dt_proj_k(dt_k)), B_k, C_k)
        out = out_proj(out_norm(y) * silu(z))

    Source: VMamba (arXiv:2401.10166), section 4.2 and figure 3; MedMamba (arXiv:2403.03849) uses the gated form.
    Parameter names and layouts are those of the original code: what belongs to a direction is stacked in the order
    rows, columns, rows reversed, columns reversed, `A_logs` (4 d_inner, d_state) and `Ds` (4 d_inner) flattened.

    Args:
        d_model: channels of input and output.
        d_state: n, states of every inner channel.
        d_conv: side of the depthwise convolution, odd.
        expand: d_inner = expand * d_model.
        dt_rank: rank of the step size's projection; "auto" is ceil(d_model / 16).
        conv_bias: bias of the convolution.
        gate: whether the output is multiplied by silu(z); without it in_proj has half the outputs.
        channel_first: take and return (b, c, h, w) instead of (b, h, w, c).
    Raises:
        ModelError: a size is not positive, or d_conv is even.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 3,
        expand: float = 2,
        dt_rank: int | str = "auto",
        *,
        conv_bias: bool = True,
        gate: bool = True,
        channel_first: bool = False,
    ):
        super().__init__()
        self.d_inner = d_inner = int(expand * d_model)
        self.dt_rank = checked_rank("SS2D", dt_rank, d_model)
        check_sizes("SS2D", d_model=d_model, d_state=d_state, d_conv=d_conv, d_inner=d_inner)
        if d_conv % 2 == 0:
            raise ModelError(f"SS2D: d_conv must be odd, so that the map keeps its size, got {d_conv}")
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.gate, self.channel_first = gate, channel_first
        linear = Linear2d if channel_first else nn.Linear
        self.in_proj = linear(d_model, d_inner * (2 if gate else 1), bias=False)
        self.conv2d = nn.Conv2d(d_inner, d_inner, d_conv, padding=d_conv // 2, groups=d_inner, bias=conv_bias)
        self.act = nn.SiLU()
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, self.dt_rank + 2 * d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, d_inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, d_inner))
        self.A_logs = nn.Parameter(torch.empty(DIRECTIONS * d_inner, d_state))
        self.Ds = nn.Parameter(torch.empty(DIRECTIONS * d_inner))
        self.out_norm = (LayerNorm2d if channel_first else nn.LayerNorm)(d_inner)
        self.out_proj = linear(d_inner, d_model, bias=False)
        self.reset_scan()

    @torch.no_grad()
    def reset_scan(self) -> None:
        """Initial values of what belongs to the scan: A = -1 .. -n, D = 1, step sizes log-uniform in [0.001, 0.1]."""
        nn.init.uniform_(self.x_proj_weight, -(self.d_inner**-0.5), self.d_inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        fill_dt_bias(self.dt_projs_bias, DT_MIN, DT_MAX, DT_FLOOR)
        self.A_logs.copy_(torch.arange(1, self.d_state + 1).log())
        nn.init.ones_(self.Ds)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, h, w, d_model), or with `channel_first` (b, d_model, h, w) -> the same shape.

        Raises:
            ShapeError: the channels are not d_model.
        """
        axes = f"b {self.d_model} h w" if self.channel_first else f"b h w {self.d_model}"
        check_shapes("SS2D", x=(x, axes))
        x, z = self._halves(self.in_proj(x))
        y = self.scan(self.act(self.conv2d(x)))
        y = self.out_norm(y if self.channel_first else y.permute(0, 2, 3, 1))
        return self.out_proj(y if z is None else y * self.act(z))

    def scan(self, x: Tensor) -> Tensor:
        """x (b, d_inner, h, w) -> what the four directions find, summed, (b, d_inner, h, w).

        A position's step sizes, B and C depend on that position alone, so all directions share one projection of the
        map, and no direction needs the map in its own order.
        """
        rank, n = self.dt_rank, self.d_state
        found = linear(x.permute(0, 2, 3, 1), self.x_proj_weight.flatten(0, 1))
        dt, B, C = found.unflatten(-1, (DIRECTIONS, -1)).split([rank, n, n], dim=-1)  # (b, h, w, 4, .)
        b, h, w = found.shape[:3]
        dt = torch.matmul(dt.reshape(b * h * w, DIRECTIONS, rank).transpose(0, 1), self.dt_projs_weight.mT)
        return directional_scan(
            x,
            dt.unflatten(1, (b, h, w)).permute(1, 0, 4, 2, 3),  # channels stay side by side in memory
            self._A(),
            B.permute(0, 3, 4, 1, 2),
            C.permute(0, 3, 4, 1, 2),
            self.Ds.unflatten(0, (DIRECTIONS, -1)),
            dt_bias=self.dt_projs_bias,
            dt_softplus=True,
            directions=DIRECTIONS,
        )

    def _A(self) -> Tensor:
        # in float32 (float64 stays) even if the module was cast: exp of a rounded logarithm moves the slow modes
        wide = self.A_logs.to(torch.promote_types(self.A_logs.dtype, torch.float32))
        return -torch.exp(wide).unflatten(0, (DIRECTIONS, -1))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The input of the convolution as (b, d_inner, h, w), and the gate in the layout of the block."""
        if not self.gate:
            return (x if self.channel_first else x.permute(0, 3, 1, 2)), None
        x, z = x.chunk(2, dim=1 if self.channel_first else -1)
        return (x if self.channel_first else x.permute(0, 3, 1, 2)), z

    def extra_repr(self) -> str:
        sizes = "d_model d_inner d_state d_conv dt_rank gate channel_first"
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes.split())
