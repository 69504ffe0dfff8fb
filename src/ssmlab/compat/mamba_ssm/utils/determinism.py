"""Whether sums are added up in a fixed order. Ours always are, so a choice is remembered and changes nothing."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ssmlab.compat._absent import absent

__all__ = [
    "alloc_tile_workspace", "autotune_configs", "finalize_tile_workspace", "set_deterministic_mode",
    "use_deterministic_mode",
]  # fmt: skip
__getattr__ = absent(
    __name__, "_estimate_config_cost _filter_configs_by_block_sizes", "there are no kernels to tune, leave it out"
)
_chosen: bool | None = None


def use_deterministic_mode() -> bool:
    """What `set_deterministic_mode` chose, else MAMBA_DETERMINISTIC of the environment, else torch's setting."""
    if _chosen is not None:
        return _chosen
    environment = os.environ.get("MAMBA_DETERMINISTIC")
    return environment[0] == "1" if environment else torch.are_deterministic_algorithms_enabled()


def set_deterministic_mode(value: bool | None) -> None:
    """Choose; None follows the environment and torch again."""
    global _chosen
    _chosen = value


def autotune_configs(configs: Sequence) -> Sequence:
    """Configurations of a Triton kernel to try: all of them."""
    return configs


def alloc_tile_workspace(base_shape, tile_dim, dtype, device, deterministic, *, zero_init=True):
    """A tensor for partial sums, with an axis of `tile_dim` for every program where `deterministic`, and its stride."""
    if base_shape is None:
        return None, 0
    if not deterministic:
        return torch.empty(*base_shape, device=device, dtype=dtype), 0
    make = torch.zeros if zero_init else torch.empty
    tensor = make(*base_shape, tile_dim, device=device, dtype=dtype)
    return tensor, tensor.stride(-1)


def finalize_tile_workspace(tensor: Tensor | None, deterministic: bool) -> Tensor | None:
    """The sums."""
    return tensor.sum(-1) if tensor is not None and deterministic else tensor
