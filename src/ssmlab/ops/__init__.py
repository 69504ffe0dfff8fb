"""Pure functions on tensors: the operators of state space models, each with a reference and faster backends."""

from ssmlab.ops._dispatch import active_backend, explain_backends
from ssmlab.ops.causal_conv1d import causal_conv1d
from ssmlab.ops.selective_scan import selective_scan

__all__ = ["active_backend", "causal_conv1d", "explain_backends", "selective_scan"]
