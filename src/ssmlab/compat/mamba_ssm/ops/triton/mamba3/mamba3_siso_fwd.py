"""Kernels of Mamba-3's forward pass."""

from ssmlab.compat._absent import absent

__getattr__ = absent(
    __name__,
    "_prune_mamba3_siso_fwd_configs mamba3_siso_fwd_kernel _alloc_fn mamba3_siso_fwd",
    "call mamba3_siso_combined instead",
)  # fmt: skip
