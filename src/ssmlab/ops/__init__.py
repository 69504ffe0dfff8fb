"""Pure functions on tensors: the operators of state space models, each with a reference and faster backends."""

from ssmlab.ops._dispatch import BACKENDS, active_backend, explain_backends, load
from ssmlab.ops.causal_conv1d import causal_conv1d
from ssmlab.ops.cross_scan import cross_merge, cross_scan
from ssmlab.ops.directional_scan import directional_scan
from ssmlab.ops.lti import discretize, lti, lti_convolution, lti_kernel, lti_recurrence
from ssmlab.ops.mamba3 import Mamba3State, mamba3
from ssmlab.ops.selective_scan import selective_scan
from ssmlab.ops.ssd import ssd

# At import, so that the torch operators are registered and nothing is left to load while compiling.
for _op, _names in BACKENDS.items():
    for _name in _names:
        load(_op, _name)

__all__ = [
    "Mamba3State",
    "active_backend",
    "causal_conv1d",
    "cross_merge",
    "cross_scan",
    "directional_scan",
    "discretize",
    "explain_backends",
    "lti",
    "lti_convolution",
    "lti_kernel",
    "lti_recurrence",
    "mamba3",
    "selective_scan",
    "ssd",
]
