"""TileLang kernels of Mamba-3's forward pass over packed sequences."""

from ssmlab.compat._absent import absent

__getattr__ = absent(
    __name__,
    "mamba_mimo_fwd mamba_mimo_forward_varlen",
    "call mamba3_mimo instead",
)  # fmt: skip
