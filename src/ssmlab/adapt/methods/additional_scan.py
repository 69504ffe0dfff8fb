"""Additional-scan: further states in every channel of a frozen scan.

Source: Yoshimura et al. 2024 (MambaPEFT, arXiv:2411.03855), section 3.2. The new columns of A continue S4D-real's, the
new rows that make B are random and those that make C zero, so that training starts at the base's outputs.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssmlab.adapt.methods.low_rank import Inserted, attach
from ssmlab.adapt.parts import head_sizes, scans
from ssmlab.core.errors import ModelError
from ssmlab.nn import Factorized

_SIZES = ("d_state", "ssm_state_size")


def build(model: Any, spec: Any) -> list[str]:
    """Give every scan `spec.states` further states, in place.

    Raises:
        ModelError: no block of the model has one.
    """
    names: list[str] = []
    for name, block in scans(model):
        if getattr(block, "A_imag", None) is not None:
            raise ModelError(f"method 'additional_scan': the states of {name} are complex; it is for real ones")
        states = spec.states
        if hasattr(block, "x_proj_weight"):
            n = _more_states(block, states)
            _insert_rows(block, "x_proj_weight", *_B_and_C(block.dt_rank, n, states), block.x_proj_weight)
            _insert_columns(block, "A_logs", n, states)
            names += [f"{name}.x_proj_weight", f"{name}.A_logs"]
        elif hasattr(block, "x_proj"):
            n = _more_states(block, states)
            for layer, dt, A in (("x_proj", "dt_proj", "A_log"), ("x_proj_b", "dt_proj_b", "A_b_log")):
                if hasattr(block, layer):
                    module = getattr(block, layer)
                    _insert_rows(module, "weight", *_B_and_C(getattr(block, dt).in_features, n, states), module.weight)
                    module.out_features += 2 * states
                    names.append(f"{name}.{layer}.weight")
                if hasattr(block, A):
                    _insert_columns(block, A, n, states)
                    names.append(f"{name}.{A}")
        elif hasattr(block, "A_log") and hasattr(block, "conv1d"):
            names += _heads(name, block, states)
    if not names:
        raise ModelError("method 'additional_scan': no block of the model has a selective scan")
    return names


def _heads(name: str, block: Any, states: int) -> list[str]:
    """Mamba-2: in_proj makes B and C of every group, and the convolution passes them on."""
    d_mlp, d_ssm, width = head_sizes(block)
    groups = getattr(block, "ngroups", None) or getattr(block, "n_groups", 1)
    n = _more_states(block, states)
    before = 2 * d_mlp + d_ssm  # rows of in_proj before those that are convolved
    B = _every_group(d_ssm, n, states, groups)
    C = _every_group(d_ssm + width + groups * states, n, states, groups)
    _insert_rows(block.in_proj, "weight", [before + i for i in B], [before + i for i in C], block.in_proj.weight)
    block.in_proj.out_features += 2 * groups * states
    names = [f"{name}.in_proj.weight", f"{name}.conv1d.weight"]
    if block.in_proj.bias is not None:
        _insert_zeros(block.in_proj, "bias", [before + i for i in B + C])
        names.append(f"{name}.in_proj.bias")
    weight = block.conv1d.weight.detach()
    extra = torch.zeros_like(weight[:1]).expand(len(B + C), -1, -1).clone()
    extra[..., -1] = 1.0  # what comes in goes on
    attach(block.conv1d, "weight", Inserted(weight, extra, B + C, 0))
    if block.conv1d.bias is not None:
        _insert_zeros(block.conv1d, "bias", B + C)
        names.append(f"{name}.conv1d.bias")
    return names


def _every_group(first: int, n: int, states: int, groups: int) -> list[int]:
    """Places of the new rows in the widened tensor, after those of each group."""
    return [first + g * (n + states) + n + i for g in range(groups) for i in range(states)]


def _B_and_C(rank: int, n: int, states: int) -> tuple[list[int], list[int]]:
    B = [rank + n + i for i in range(states)]
    return B, [rank + 2 * n + states + i for i in range(states)]


def _insert_rows(module: Any, tensor: str, B: list[int], C: list[int], weight: Tensor) -> None:
    if isinstance(module, Factorized):
        raise ModelError("method 'additional_scan': a layer that makes B and C is factorised; give it a dense model")
    weight = weight.detach()
    width = weight.shape[-1]
    extra = weight.new_zeros(*weight.shape[:-2], len(B) + len(C), width)
    extra[..., : len(B), :].uniform_(-(width**-0.5), width**-0.5)
    attach(module, tensor, Inserted(weight, extra, B + C, -2))


def _insert_columns(block: Any, tensor: str, n: int, states: int) -> None:
    weight = getattr(block, tensor).detach()
    column = torch.arange(n + 1, n + states + 1, device=weight.device).log()
    attach(block, tensor, Inserted(weight, column.expand(len(weight), -1).clone(), list(range(n, n + states)), 1))


def _insert_zeros(module: Any, tensor: str, places: list[int]) -> None:
    bias = getattr(module, tensor).detach()
    attach(module, tensor, Inserted(bias, bias.new_zeros(len(places)), places, 0))


def _more_states(block: Any, states: int) -> int:
    """The states that a channel had; the block's own number follows."""
    for size in _SIZES:
        if hasattr(block, size):
            n = getattr(block, size)
            setattr(block, size, n + states)
            if hasattr(block, "kept"):
                block.kept += states
            if hasattr(block, "conv_dim"):
                block.conv_dim += 2 * getattr(block, "n_groups", 1) * states
            return n
    raise ModelError(f"additional_scan: {type(block).__name__} does not say how many states it has")


def merged(model: Any, spec: Any) -> None:
    """The config says how many states there are now."""
    config = getattr(model, "config", None)
    for size in (*_SIZES, "state_size"):
        if is_dataclass(config) and size in {field.name for field in fields(config)}:
            model.config = replace(config, **{size: getattr(config, size) + spec.states})  # type: ignore[type-var]
        elif not is_dataclass(config) and hasattr(config, size) and size != "ssm_state_size":
            setattr(config, size, getattr(config, size) + spec.states)
