"""CuTe kernels of one token of Mamba-3."""

from ssmlab.compat._absent import absent

__getattr__ = absent(
    __name__,
    "transpose_view select get_gmem_tiled_copy Mamba3Step mamba3_step_fn selective_state_update_fused_ref_v2 "
    "_bytes_of",
    "call the step of mamba_ssm.Mamba3 or ssmlab.ops.mamba3 instead",
)  # fmt: skip
