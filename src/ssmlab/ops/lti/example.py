"""What others know of the time-invariant operator."""

from itertools import product

import torch
from torch import Tensor

from ssmlab.ops._example import CHANNELS, LENGTHS, Example, Grid, Maker
from ssmlab.ops.lti import lti


def inputs(make: Maker, b: int, d: int, l: int, n: int, real: bool = False) -> dict[str, Tensor]:
    """S4D-Lin: A_n = -1/2 + i pi n (Gu et al. 2022, arXiv:2206.11893, section 4.3), steps of 0.001 to 0.1; or random
    real numbers."""
    if real:
        return {
            "u": make.uniform(b, d, l) - 0.5, "dt": 0.1 * make.uniform(d) + 0.01, "A": -4 * make.uniform(d, n) - 0.1,
            "B": make.uniform(d, n) - 0.5, "C": make.uniform(d, n) - 0.5, "D": make.uniform(d),
        }  # fmt: skip
    imaginary = torch.pi * torch.arange(n, dtype=torch.float32, device=make.device)
    return {
        "u": make.tokens(b, d, l, channels=1),
        "dt": torch.logspace(-3, -1, d, dtype=torch.float32, device=make.device),
        "A": torch.complex(torch.full((d, n), -0.5, dtype=torch.float32, device=make.device), imaginary.expand(d, n)),
        "B": torch.complex(make.parameter(d, n), make.parameter(d, n)),
        "C": torch.complex(make.parameter(d, n), make.parameter(d, n)),
        "D": make.parameter(d),
    }


def call(form: str, **arguments) -> tuple[Tensor, Tensor]:
    """The view `form`; the recurrence is the definition."""
    return lti(**arguments, view="recurrence" if form == "reference" else form)


EXAMPLE = Example(
    inputs=inputs,
    axes={"u": "b d l", "dt": "d", "A": "d n", "B": "d n", "C": "d n", "D": "d"},
    odd={"b": 2, "d": 67, "l": 131, "n": 8, "real": True},
    forms=("convolution", "recurrence"),
    call=call,
    counted=("long_conv", "long_conv_filter"),
    full=Grid([*product((1,), CHANNELS, LENGTHS, (16, 64))], dtypes=("float32",)),
    quick=Grid([(1, 64, 1, 16), (1, 64, 196, 16), (1, 256, 196, 16)], dtypes=("float32",)),
)
