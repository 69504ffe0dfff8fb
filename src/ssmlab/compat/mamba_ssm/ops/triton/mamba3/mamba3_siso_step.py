"""One token of Mamba-3 with one input and output a head, by the original's signature."""

from ssmlab.compat._absent import absent
from ssmlab.compat.mamba_ssm.ops.triton.mamba3.mamba3_siso_combined import mamba3_siso_combined

__all__ = ["mamba3_siso_step"]
__getattr__ = absent(__name__, "mamba3_siso_step_kernel _alloc_fn", "call mamba3_siso_step instead")


def mamba3_siso_step(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D=None, Z=None, Input_States=None):
    """y (b, h, p) and the four states after the token; arguments as of `mamba3_siso_combined` without the axis l."""
    y, *states = mamba3_siso_combined(
        Q[:, None], K[:, None], V[:, None], ADT[..., None], DT[..., None], Trap[..., None], Q_bias, K_bias,
        Angles[:, None], D, None if Z is None else Z[:, None], Input_States, return_final_states=True,
    )  # fmt: skip
    return y[:, 0], tuple(states)
