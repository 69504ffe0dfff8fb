"""VMamba (MzeroMiko/VMamba): its options by name, and the parameter names of its first release."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.rules import Rule
from ssmlab.models.vision.vmamba import VMamba, VMambaBackbone, VMambaConfig
from ssmlab.nn import SS2D

LICENSE = "MIT (MzeroMiko/VMamba)"


def _matrix(weight):
    """The weight of a 1 x 1 convolution as that of a linear layer."""
    return weight.flatten(1)


# In the order of the stages: names of the first release, then 1 x 1 convolutions that are linear layers here.
_BLOCK = r"(layers\.\d+\.blocks\.\d+\.)"
_LINEAR = r"((?:in_proj|out_proj)\.weight)"
RULES = [
    Rule(r"patch_embed\.proj\.(.*)", r"patch_embed.0.\1"),
    Rule(r"patch_embed\.norm\.(.*)", r"patch_embed.2.\1"),
    Rule(_BLOCK + r"ln_1\.(.*)", r"\1norm.\2"),
    Rule(_BLOCK + r"self_attention\." + _LINEAR, r"\1op.\2", _matrix),
    Rule(_BLOCK + r"self_attention\.(.*)", r"\1op.\2"),
    Rule(_BLOCK + r"(op\.(?:in_proj|out_proj)\.weight|mlp\.fc[12]\.weight)", r"\1\2", _matrix),
    Rule(r"norm\.(.*)", r"classifier.norm.\1"),
    Rule(r"head\.(.*)", r"classifier.head.\1"),
]

# SS2D's forward types: whether there is a gate. They differ besides in kernels and precision, not in what is computed.
_CORES = ("v01", "v02", "v03", "v04", "v05", "v2", "v3")
FORWARD_TYPES = dict.fromkeys(("v0", "v0seq", *_CORES), True) | {f"{core}_noz": False for core in _CORES}
MERGINGS = {"v1": "patch", "v2": "conv2", "v3": "conv3"}
STEMS = {"v1": 1, "v2": 2}
LAYOUTS = {"ln": False, "ln2d": True}

# Options that have one value in every published network.
FIXED = {
    "ssm_act_layer": "silu",
    "ssm_conv": 3,
    "ssm_drop_rate": 0.0,
    "ssm_init": "v0",
    "mlp_act_layer": "gelu",
    "mlp_drop_rate": 0.0,
    "patch_norm": True,
    "gmlp": False,
    "posembed": False,
}
RENAMED = {
    "ssm_d_state": "d_state",
    "ssm_ratio": "expand",
    "ssm_dt_rank": "dt_rank",
    "ssm_conv_bias": "conv_bias",
    "imgsize": "image_size",
}
SAME = ("patch_size", "in_chans", "num_classes", "depths", "mlp_ratio", "drop_path_rate")
DEFAULTS = {
    "num_classes": 1000,
    "depths": (2, 2, 9, 2),
    "dims": 96,
    "ssm_d_state": 16,
    "ssm_ratio": 2.0,
    "ssm_conv_bias": True,
    "drop_path_rate": 0.1,
}


def build(config: dict[str, Any]) -> nn.Module:
    """The network for the original's arguments of VSSM, of Backbone_VSSM (with `out_indices`), or of SS2D (`d_model`).

    Raises:
        ModelError: an argument or a value that we do not know.
    """
    return _ss2d(dict(config)) if "d_model" in config else _network(DEFAULTS | config)


def _network(rest: dict[str, Any]) -> nn.Module:
    for name, value in FIXED.items():
        if rest.pop(name, value) != value:
            raise ModelError(f"vmamba: {name} must be {value!r}, as in every published network")
    values = {name: rest.pop(name) for name in SAME if name in rest}
    values |= {ours: rest.pop(name) for name, ours in RENAMED.items() if name in rest}
    dims = rest.pop("dims")
    values["dims"] = [dims * 2**i for i in range(len(values["depths"]))] if isinstance(dims, int) else dims
    values["gate"] = _known(rest, "forward_type", FORWARD_TYPES, "v2")
    values["channel_first"] = _known(rest, "norm_layer", LAYOUTS, "ln")
    values["stem_convs"] = _known(rest, "patchembed_version", STEMS, "v1")
    values["merging"] = _known(rest, "downsample_version", MERGINGS, "v2")
    stages = rest.pop("out_indices", None)
    _refuse(rest)
    known = VMambaConfig(**values)
    return VMamba(known) if stages is None else VMambaBackbone(known, stages)


def _ss2d(rest: dict[str, Any]) -> SS2D:
    values = {name: rest.pop(name) for name in ("d_model", "d_state", "dt_rank", "d_conv", "conv_bias") if name in rest}
    values["expand"] = rest.pop("ssm_ratio", 2.0)
    values["gate"] = _known(rest, "forward_type", FORWARD_TYPES, "v2")
    values["channel_first"] = rest.pop("channel_first", False)
    _refuse(rest)
    return SS2D(**values)


def _known(rest: dict[str, Any], name: str, table: dict[str, Any], default: str) -> Any:
    """The meaning of an option whose values are names."""
    value = str(rest.pop(name, default)).lower()
    if value not in table:
        raise ModelError(f"vmamba: {name} must be one of {', '.join(table)}, got {value!r}")
    return table[value]


def _refuse(rest: dict[str, Any]) -> None:
    if rest:
        raise ModelError(f"vmamba: we have no counterpart of {', '.join(f'{k}={v!r}' for k, v in rest.items())}")
