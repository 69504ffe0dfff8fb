"""The initial eigenvalues of a diagonal state space model."""

import math

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError

INITS = ("lin", "inv", "real")


def initial_A(n: int, init: str) -> Tensor:
    """The n initial eigenvalues, complex64 or for "real" float32.

    Source: Gu et al. 2022 (arXiv:2206.11893), section 4: S4D-Lin, S4D-Inv (with N = 2 n), S4D-Real.
    """
    k = torch.arange(n, dtype=torch.float32, device="cpu")
    if init == "real":
        return -(k + 1)
    imaginary = math.pi * k if init == "lin" else 2 * n / math.pi * (2 * n / (2 * k + 1) - 1)
    return torch.complex(torch.full_like(imaginary, -0.5), imaginary)


def initial_parts(d: int, n: int, init: str) -> tuple[nn.Parameter, nn.Parameter | None]:
    """`initial_A` for d channels, (d, n): the logarithm of the real part's absolute value, and the imaginary part.

    Computed on the CPU: arithmetic on the meta device, where models are outlined before they are loaded, would import
    torch's compiler, a second and 150 MB.
    """
    A = initial_A(n, init)
    device = torch.empty(0).device  # torch 2.8 cannot say its default once one was taken back
    imaginary = nn.Parameter(A.imag.repeat(d, 1).to(device)) if A.is_complex() else None
    return nn.Parameter((-A.real).log().repeat(d, 1).to(device)), imaginary


def kept_states(block: str, init: str, d_state: int) -> int:
    """How many states a channel keeps: all real ones, one of every conjugate pair.

    Raises:
        ModelError: there is no such `init`, or complex states do not come in pairs.
    """
    if init not in INITS:
        raise ModelError(f"{block}: init must be one of {', '.join(INITS)}, got {init!r}")
    if init == "real":
        return d_state
    if d_state % 2:
        raise ModelError(f"{block}: complex states come in pairs, so d_state must be even, got {d_state}")
    return d_state // 2
