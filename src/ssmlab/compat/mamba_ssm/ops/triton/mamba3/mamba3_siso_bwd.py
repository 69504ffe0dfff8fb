"""Kernels of Mamba-3's backward pass."""

from ssmlab.compat._absent import AUTOGRAD, absent

__getattr__ = absent(
    __name__,
    "mamba3_siso_bwd_kernel_dzdo compute_dzdo mamba3_siso_bwd_kernel_dqkv compute_dqkv "
    "mamba3_siso_bwd_kernel_rotary_bias_angles mamba3_siso_bwd_kernel_dk_state_post compute_dqktheta "
    "apply_dk_state_post mamba3_siso_bwd_kernel_ddt_dtrap_dinput_states compute_ddt_dtrap_dinput_states "
    "_alloc_fn",
    f"call mamba3_siso_combined, {AUTOGRAD}",
)  # fmt: skip
