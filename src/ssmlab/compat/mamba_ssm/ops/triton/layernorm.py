"""The old name of `layer_norm`, which Vim and others still import."""

from ssmlab.compat.mamba_ssm.ops.triton.layer_norm import (
    LayerNormFn,
    LayerNormLinearFn,
    RMSNorm,
    __getattr__,
    _layer_norm_bwd,
    _layer_norm_fwd,
    layer_norm_fn,
    layer_norm_linear_fn,
    layer_norm_ref,
    rms_norm_fn,
    rms_norm_ref,
)

__all__ = [
    "LayerNormFn", "LayerNormLinearFn", "RMSNorm", "__getattr__", "_layer_norm_bwd", "_layer_norm_fwd", "layer_norm_fn",
    "layer_norm_linear_fn", "layer_norm_ref", "rms_norm_fn", "rms_norm_ref",
]  # fmt: skip
