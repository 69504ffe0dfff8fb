"""The directional scan in plain PyTorch for any device: the chunked selective scan along every direction."""

from torch import Tensor

from ssmlab.ops.directional_scan import reference
from ssmlab.ops.directional_scan.operator import call
from ssmlab.ops.selective_scan import chunked


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why this call cannot run here: it always can."""
    return None


def forward(*arguments):
    """See the contract in `ssmlab.ops.directional_scan`."""
    return call("chunked", differentiable, *arguments)


def differentiable(x, dt, A, B, C, D, dt_bias, dt_softplus):
    """The same through autograd."""
    return reference.differentiable(x, dt, A, B, C, D, dt_bias, dt_softplus, scan=chunked.differentiable)
