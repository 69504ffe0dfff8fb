"""Mamba in several directions, as the forks Vim and SegMamba have it: parameters by their names, and the directions."""

from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ShapeError, UserError
from ssmlab.nn.conv import CausalConv1d
from ssmlab.nn.linear import Linear
from ssmlab.ops import selective_scan

# endings of the names of the directions that have everything of their own
OWN = {"none": (), "v1": (), "v2": ("_b",), "v3": ("_b", "_s")}


def add_parameters(block: Any, kind: str, conv_bias: bool) -> None:
    """What the directions after the first need. The step size's projection starts as any linear layer, as in the forks.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in OWN:
        raise UserError(
            f"Mamba: bimamba_type must be one of {', '.join(OWN)}, got {kind!r}; other kinds are of a fork of "
            "mamba_ssm: install it or put it on PYTHONPATH, and `ssmlab exec` runs the program with the fork's blocks"
        )
    if kind == "v1":
        block.A_b_log = nn.Parameter(block.A_log.detach().clone())
    for end in OWN[kind]:
        rank, n = block.dt_rank, block.d_state
        parts = {
            f"A{end}_log": nn.Parameter(block.A_log.detach().clone()),
            f"conv1d{end}": CausalConv1d(block.d_inner, block.d_conv, bias=conv_bias),
            f"x_proj{end}": Linear(block.d_inner, rank + 2 * n, bias=False),
            f"dt_proj{end}": Linear(rank, block.d_inner),
            f"D{end}": nn.Parameter(torch.ones(block.d_inner)),
        }
        for name, part in parts.items():
            setattr(block, name, part)


def forward(block: Any, u: Tensor) -> Tensor:
    """u (b, l, d_model) -> (b, l, d_model): the directions between one in_proj and one out_proj."""
    xz = block.in_proj(u)
    ahead = _selected(block, xz, "")
    y = _scan(block, ahead, "", "")
    if block.bimamba_type == "v1":
        return block.out_proj(y + _scan(block, [t.flip(1) for t in ahead], "_b", "").flip(1))
    y = y + _scan(block, _selected(block, xz.flip(1), "_b"), "_b", "_b").flip(1)
    if block.bimamba_type == "v2":
        return block.out_proj(y / 2 if block.if_divide_out else y)
    slices = block.nslices
    if u.shape[1] % slices:
        raise ShapeError(f"Mamba: nslices must divide the length {u.shape[1]}, got {slices}; give nslices=")
    in_turn = xz.unflatten(1, (slices, -1)).transpose(1, 2).flatten(1, 2)
    across = _scan(block, _selected(block, in_turn, "_s"), "_s", "_s")
    return block.out_proj(y + across.unflatten(1, (-1, slices)).transpose(1, 2).flatten(1, 2))


def _selected(block: Any, xz: Tensor, end: str) -> list[Tensor]:
    """x, z, dt, B and C of a direction, each (b, l, .), from the projection of its inputs in its order."""
    x, z = xz.chunk(2, dim=-1)
    x = getattr(block, f"conv1d{end}")(x.mT)[0].mT
    dt, B, C = getattr(block, f"x_proj{end}")(x).split([block.dt_rank, block.d_state, block.d_state], dim=-1)
    return [x, z, getattr(block, f"dt_proj{end}")(dt), B, C]


def _scan(block: Any, selected: list[Tensor], A_end: str, D_end: str) -> Tensor:
    x, z, dt, B, C = (tensor.mT for tensor in selected)
    A_log = getattr(block, f"A{A_end}_log")
    A = -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))
    return selective_scan(x, dt, A, B, C, getattr(block, f"D{D_end}"), z=z, dt_softplus=True)[0].mT
