"""Stands in for Dao-AILab/causal-conv1d: its functions by their names and signatures, for any width and device."""

__version__ = "1.6.1"

from ssmlab.compat.causal_conv1d.causal_conv1d_interface import causal_conv1d_fn, causal_conv1d_update

__all__ = ["causal_conv1d_fn", "causal_conv1d_update"]
