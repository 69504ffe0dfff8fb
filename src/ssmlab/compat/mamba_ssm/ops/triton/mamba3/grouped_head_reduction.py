"""Kernels of Mamba-3's backward pass."""

from ssmlab.compat._absent import AUTOGRAD, absent

__getattr__ = absent(
    __name__,
    "reduce_grouped_qk_grads _reduce_grouped_qk_grads_and_bias_partial_kernel _finalize_qk_bias_kernel "
    "_next_power_of_2 reduce_grouped_qk_grads_and_bias_triton",
    f"call mamba3_mimo, {AUTOGRAD}",
)  # fmt: skip
