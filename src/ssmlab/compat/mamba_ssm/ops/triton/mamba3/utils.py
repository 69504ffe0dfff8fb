"""Functions that Mamba-3's Triton kernels call."""

from ssmlab.compat._absent import absent

__getattr__ = absent(
    __name__,
    "cos_approx sin_approx tanh_approx sech2_approx sigmoid_approx silu",
    "call those of torch, or of triton in a kernel",
)  # fmt: skip
