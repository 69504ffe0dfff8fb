"""Blocks: parameters and calls to ops. Every sequence block is `forward(u, state=None, *, mask=None, seq_idx=None)`."""

from ssmlab.nn.bidirectional import Bidirectional
from ssmlab.nn.conv import CausalConv1d
from ssmlab.nn.head import ClassifierHead
from ssmlab.nn.mamba import Mamba, MambaState
from ssmlab.nn.residual import Residual

__all__ = ["Bidirectional", "CausalConv1d", "ClassifierHead", "Mamba", "MambaState", "Residual"]
