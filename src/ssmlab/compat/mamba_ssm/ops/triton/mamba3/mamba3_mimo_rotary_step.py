"""Kernels of one token of Mamba-3."""

from ssmlab.compat._absent import absent

__getattr__ = absent(
    __name__,
    "rotary_qk_inference_kernel apply_rotary_qk_inference_fwd apply_rotary_qk_inference_reference "
    "test_correctness_qk_inference",
    "call the step of mamba_ssm.Mamba3 or ssmlab.ops.mamba3 instead",
)  # fmt: skip
