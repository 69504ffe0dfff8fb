"""Stands in for state-spaces/mamba: its functions and blocks by their names and signatures, on our operators."""

import sys
from typing import Any

from ssmlab.compat.mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
from ssmlab.compat.mamba_ssm.modules.mamba2 import Mamba2
from ssmlab.compat.mamba_ssm.modules.mamba2_simple import Mamba2Simple
from ssmlab.compat.mamba_ssm.modules.mamba3 import Mamba3
from ssmlab.compat.mamba_ssm.modules.mamba_simple import Mamba
from ssmlab.compat.mamba_ssm.ops import selective_scan_interface
from ssmlab.compat.mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from ssmlab.compat.mamba_ssm.ops.triton import ssd_combined
from ssmlab.compat.mamba_ssm.ops.triton.selective_state_update import selective_state_update
from ssmlab.compat.mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

__version__ = "2.3.2"
__all__ = [
    "Mamba", "Mamba2", "Mamba2Simple", "Mamba3", "MambaLMHeadModel", "mamba_chunk_scan_combined", "selective_scan_fn",
    "selective_state_update",
]  # fmt: skip

_FUSED = {
    "mamba_inner_fn": selective_scan_interface.mamba_inner_fn,
    "mamba_split_conv1d_scan_combined": ssd_combined.mamba_split_conv1d_scan_combined,
}


def __getattr__(name: str) -> Any:
    """The two functions that span a whole block, for everybody but transformers, for which there are none.

    Where it has them, transformers hands over the weights of the inner layers instead of calling these: adapters on
    them train nothing, padding reaches the state through the convolution's bias, and FalconMamba's norm of dt is taken
    elsewhere than in inference. Where they return None it calls its layers, with our convolution and scan between them;
    nothing is lost, since ours are compositions too.
    """
    if name not in _FUSED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    asking = sys._getframe(1).f_globals.get("__name__", "")
    return _decline if asking.partition(".")[0] == "transformers" else _FUSED[name]


def _decline(*arguments: Any) -> None:
    """There is no such function. transformers passes on positional arguments, and the keywords of the signature."""
