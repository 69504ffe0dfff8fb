"""Pure functions on tensors: the operators of state space models, each with a reference and faster backends."""

from ssmlab.ops._dispatch import BACKENDS, active_backend, explain_backends, load
from ssmlab.ops.causal_conv1d import causal_conv1d
from ssmlab.ops.directional_scan import directional_scan
from ssmlab.ops.selective_scan import selective_scan

# At import, so that the torch operators are registered and nothing is left to load while compiling.
for _op, _names in BACKENDS.items():
    for _name in _names:
        load(_op, _name)

__all__ = ["active_backend", "causal_conv1d", "directional_scan", "explain_backends", "selective_scan"]
