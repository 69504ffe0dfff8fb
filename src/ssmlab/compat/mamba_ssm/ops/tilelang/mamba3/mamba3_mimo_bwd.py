"""TileLang kernels of Mamba-3's backward pass."""

from ssmlab.compat._absent import AUTOGRAD, absent

__getattr__ = absent(
    __name__,
    "mamba_mimo_bwd_fwd mamba_mimo_bwd_bwd mamba_mimo_bwd_combined",
    f"call mamba3_mimo, {AUTOGRAD}",
)  # fmt: skip
