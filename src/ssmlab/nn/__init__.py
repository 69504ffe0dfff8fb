"""Blocks: parameters and calls to ops. Every sequence block is `forward(u, state=None, *, mask=None, seq_idx=None)`."""

from ssmlab.nn.attention import Attention, AttentionState
from ssmlab.nn.bidirectional import Bidirectional
from ssmlab.nn.bimamba import BiMamba
from ssmlab.nn.blocks import Blocks, Residual
from ssmlab.nn.conv import CausalConv1d
from ssmlab.nn.cross_attention import CrossAttention, CrossKeys
from ssmlab.nn.drop_path import DropPath, drop_path_rates
from ssmlab.nn.factorized import Factorized, factorize_like_, factorized_ranks
from ssmlab.nn.head import ClassifierHead
from ssmlab.nn.layers2d import LayerNorm2d, Linear2d, Mlp, PatchMerging, Permute
from ssmlab.nn.linear import Linear, QuantizedLinear, quantize_linear_
from ssmlab.nn.mamba import Mamba, MambaState
from ssmlab.nn.mamba2 import Mamba2, Mamba2State
from ssmlab.nn.mamba3 import Mamba3, Mamba3State
from ssmlab.nn.mambavision_mixer import MambaVisionMixer, SameConv1d
from ssmlab.nn.mlp import FeedForward, GatedMLP
from ssmlab.nn.norm import GatedRMSNorm
from ssmlab.nn.s4d import S4D, S4DState
from ssmlab.nn.self_attention import SelfAttention
from ssmlab.nn.ss2d import SS2D

__all__ = [
    "S4D",
    "SS2D",
    "Attention",
    "AttentionState",
    "BiMamba",
    "Bidirectional",
    "Blocks",
    "CausalConv1d",
    "ClassifierHead",
    "CrossAttention",
    "CrossKeys",
    "DropPath",
    "Factorized",
    "FeedForward",
    "GatedMLP",
    "GatedRMSNorm",
    "LayerNorm2d",
    "Linear",
    "Linear2d",
    "Mamba",
    "Mamba2",
    "Mamba2State",
    "Mamba3",
    "Mamba3State",
    "MambaState",
    "MambaVisionMixer",
    "Mlp",
    "PatchMerging",
    "Permute",
    "QuantizedLinear",
    "Residual",
    "S4DState",
    "SameConv1d",
    "SelfAttention",
    "drop_path_rates",
    "factorize_like_",
    "factorized_ranks",
    "quantize_linear_",
]
