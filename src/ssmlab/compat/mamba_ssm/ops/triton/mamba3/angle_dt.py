"""Kernels of Mamba-3's rotation."""

from ssmlab.compat._absent import absent

__getattr__ = absent(
    __name__,
    "angle_dt_fwd_kernel angle_dt_fwd angle_dt_bwd_kernel angle_dt_bwd",
    "call mamba3_siso_combined or ssmlab.ops.mamba3 instead",
)  # fmt: skip
