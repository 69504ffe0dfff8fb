"""MambaVision, NVlabs/MambaVision: `mambavision.models.mamba_vision.MambaVision`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.checkpoints.fields import read
from ssmlab.models.rules import Rule
from ssmlab.models.vision.mambavision import MambaVision, MambaVisionConfig

LICENSE = "CC-BY-NC-SA-4.0"  # not for commercial use; the code of the original is non-commercial too

# the original's arguments and our fields
FIELDS = {name: name for name in (
    "dim", "in_dim", "depths", "num_heads", "window_size", "mlp_ratio", "drop_path_rate", "in_chans", "num_classes",
    "qkv_bias", "drop_rate", "attn_drop_rate", "layer_scale", "layer_scale_conv",
)} | {"resolution": "image_size", "qk_scale": "qk_norm"}  # fmt: skip

# the files on the hub of Hugging Face hold the network inside a classifier, files of detectors as an encoder
RULES = [Rule(r"(?:model|encoder)\.(.+)", r"\1")]


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments.

    Raises:
        ModelError: an argument that the original does not know (it would ignore it).
    """
    values = {"num_classes": 1000} | read("MambaVision", config, FIELDS, ignored=())
    values["qk_norm"] = bool(values.get("qk_norm"))  # what the original calls a scale is a switch
    return MambaVision(MambaVisionConfig(**values))
