"""What a model looked for, and where."""

from ssmlab.interpret.attention import Path, ScanCall
from ssmlab.interpret.attributions import grad_cam, integrated_gradients
from ssmlab.interpret.capture import scans_of
from ssmlab.interpret.layers import Layout, Target, target_of
from ssmlab.interpret.receptive_field import receptive_field
from ssmlab.interpret.scores import deletion, insertion, random_maps, randomised_weights
from ssmlab.interpret.tokens import token_attention, token_curve, token_scores
from ssmlab.interpret.visualise import Search, channel_objective, class_objective, visualise

__all__ = [
    "Layout",
    "Path",
    "ScanCall",
    "Search",
    "Target",
    "channel_objective",
    "class_objective",
    "deletion",
    "grad_cam",
    "insertion",
    "integrated_gradients",
    "random_maps",
    "randomised_weights",
    "receptive_field",
    "scans_of",
    "target_of",
    "token_attention",
    "token_curve",
    "token_scores",
    "visualise",
]
