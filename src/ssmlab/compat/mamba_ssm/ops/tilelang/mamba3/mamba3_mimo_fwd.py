"""TileLang kernels of Mamba-3's forward pass."""

from ssmlab.compat._absent import absent

__getattr__ = absent(
    __name__,
    "mamba_mimo_fwd mamba_mimo_forward",
    "call mamba3_mimo instead",
)  # fmt: skip
