"""VMamba's compiled scan with a choice of the output's dtype: its two passes by the original's signatures."""

from ssmlab.compat import selective_scan_cuda_core
from ssmlab.compat.selective_scan_cuda_core import bwd

__all__ = ["bwd", "fwd"]


def fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows, out_float):
    """[y (b, d, l), what `bwd` takes as x]; y is float32 where `out_float`, else in the dtype of u."""
    y, saved = selective_scan_cuda_core.fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows)
    return [y.float() if out_float else y, saved]
