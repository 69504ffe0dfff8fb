"""State-offset tuning: a learned constant added to every state, or to every output of the scan.

    h-offset  y_t += C_t h'        y-offset  y_t += y'

Source: Kang et al. 2025 (arXiv:2503.03499), section 4. Unlike an initial state, which decays, the offset acts at every
position. It needs what the block computes inside (C_t, and the gate after y), which is taken from its layers' calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.adapt.parts import head_sizes, scans
from ssmlab.core.errors import ModelError

H, Y = "state_offset_h", "state_offset_y"


class Offset(nn.Module):
    """The constant of a block, and what its hooks have seen in the call that is under way.

    Args:
        shape: (d,) for y', (d, n) for h', or (k, d, n) with several scans.
    """

    def __init__(self, shape: tuple[int, ...], like: Tensor):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(shape, device=like.device))
        self.beside_active = True
        self.seen: dict[str, Tensor] = {}

    def added(self, C: Tensor | None) -> Tensor:
        """What y gets, (..., d), of C (..., n) or with several scans (..., k, n)."""
        if C is None:
            return self.value
        return torch.einsum("...kn,kdn->...d" if self.value.ndim == 3 else "...n,dn->...d", C, self.value.to(C.dtype))

    def take(self, name: str) -> Tensor | None:
        """What a hook has left, once."""
        return self.seen.pop(name, None)


class SelectiveOffset(Offset):
    """Of Mamba, BiMamba (its forward scan) and MambaVision's mixer: x_proj makes C, the gate is a half of in_proj.

    Args:
        states: n; 0 for a y-offset.
        gate: whether the scan's output is gated, and not next to another half.
        half: the forward scan is one of two that are averaged.
    """

    def __init__(self, block: Any, states: int, gate: bool, half: bool):
        inner = block.out_proj.in_features
        inner = inner if gate else inner // 2
        super().__init__((inner, states) if states else (inner,), block.D)
        self.states, self.gate, self.inner, self.half = states, gate, inner, half
        if states:
            block.x_proj.register_forward_hook(self.see_C)
        if gate:
            block.in_proj.register_forward_hook(self.see_z)
        block.out_proj.register_forward_pre_hook(self.add)

    def see_C(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.seen["C"] = output[..., -self.states :]

    def see_z(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.seen["z"] = output[..., self.inner :]

    def add(self, layer: nn.Module, inputs: tuple) -> tuple | None:
        C, z = self.take("C"), self.take("z")
        if not self.beside_active or (self.states and C is None) or (self.gate and z is None):
            return None
        y = self.added(C) / (2 if self.half else 1)
        if z is not None:
            y = y * F.silu(z)
        elif y.shape[-1] < inputs[0].shape[-1]:
            y = F.pad(y, (0, inputs[0].shape[-1] - y.shape[-1]))
        return (inputs[0] + y.to(inputs[0].dtype), *inputs[1:])


class MapOffset(Offset):
    """Of SS2D: a C of four directions from the convolved map; the sum of the scans goes through out_norm."""

    def __init__(self, block: Any, states: int):
        directions, _, inner = block.x_proj_weight.shape
        super().__init__((directions, inner, states) if states else (inner,), block.x_proj_weight)
        self.states, self.first = states, block.channel_first
        if states:
            block.conv2d.register_forward_hook(self.see_map)
            block.register_forward_pre_hook(self.see_weight)
        block.out_norm.register_forward_pre_hook(self.add)

    def see_weight(self, block: Any, inputs: tuple) -> None:
        self.seen["weight"] = block.x_proj_weight

    def see_map(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.seen["x"] = output

    def add(self, layer: nn.Module, inputs: tuple) -> tuple | None:
        weight, x = self.take("weight"), self.take("x")
        if not self.beside_active or (self.states and x is None):
            return None
        C = None
        if x is not None and weight is not None:
            rows = weight[:, -self.states :]
            C = F.linear(F.silu(x).permute(0, 2, 3, 1), rows.flatten(0, 1)).unflatten(-1, (len(rows), self.states))
        y = self.added(C).to(inputs[0].dtype)
        if self.first:
            y = y[:, None, None] if C is None else y.permute(0, 3, 1, 2)
        return (inputs[0] + y, *inputs[1:])


class HeadOffset(Offset):
    """Of Mamba-2: the convolution makes C of every group; y goes through the gated norm, or gated into out_proj."""

    def __init__(self, block: Any, states: int):
        self.d_mlp, d_ssm, width = head_sizes(block)
        super().__init__((block.ngroups, d_ssm // block.ngroups, states) if states else (d_ssm,), block.D)
        self.states, self.width, self.z = states, width, (2 * self.d_mlp, 2 * self.d_mlp + d_ssm)
        if states:
            block.conv1d.register_forward_hook(self.see_C)
        if block.norm is not None:
            block.norm.register_forward_pre_hook(self.add_before_norm)
        else:
            block.in_proj.register_forward_hook(self.see_z)
            block.out_proj.register_forward_pre_hook(self.add)

    def see_C(self, layer: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        self.seen["C"] = output[0].mT[..., -self.width :].unflatten(-1, (-1, self.states))

    def see_z(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.seen["z"] = output[..., slice(*self.z)]

    def added(self, C: Tensor | None) -> Tensor:
        if C is None:
            return self.value
        return torch.einsum("...gn,gdn->...gd", C, self.value.to(C.dtype)).flatten(-2)

    def add_before_norm(self, norm: nn.Module, inputs: tuple) -> tuple | None:
        C = self.take("C")
        if not self.beside_active or (self.states and C is None):
            return None
        return (inputs[0] + self.added(C).to(inputs[0].dtype), *inputs[1:])

    def add(self, layer: nn.Module, inputs: tuple) -> tuple | None:
        C, z = self.take("C"), self.take("z")
        if not self.beside_active or z is None or (self.states and C is None):
            return None
        y = self.added(C) * F.silu(z)
        return (inputs[0] + F.pad(y, (self.d_mlp, 0)).to(inputs[0].dtype), *inputs[1:])


def build(model: Any, spec: Any, kind: str) -> list[str]:
    """Give every block with a selective scan an offset, in place.

    Raises:
        ModelError: the model has no block whose layers show what is needed.
    """
    names = []
    for name, block in list(scans(model)):
        offset: Offset
        if hasattr(block, "x_proj_weight"):
            offset = MapOffset(block, block.d_state if kind == H else 0)
        elif hasattr(block, "x_proj"):
            states = (block.x_proj.out_features - block.dt_proj.in_features) // 2
            gate = not hasattr(block, "conv1d_z")
            offset = SelectiveOffset(block, states if kind == H else 0, gate, getattr(block, "divide", False))
        elif hasattr(block, "ngroups") and hasattr(block, "conv1d"):
            offset = HeadOffset(block, block.d_state if kind == H else 0)
        else:
            continue
        block.add_module(kind, offset)
        names.append(f"{name}.{kind}.value")
    if not names:
        raise ModelError(
            f"method {kind!r}: no block of the model shows its C and its gate; it needs one of this package"
        )
    return names
