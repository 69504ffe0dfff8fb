"""VMamba: a pyramid of SS2D blocks.

Source: Liu et al. 2024 (arXiv:2401.10166), section 4 and figure 3. Parameter names are those of the original code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.entry import Preset
from ssmlab.models.rules import Original, Rule
from ssmlab.models.vision.base import VisionModel
from ssmlab.models.vision.parts import IMAGENET, channels_last, check_vision_config, init_linear, sizes_tuple
from ssmlab.nn import SS2D, Blocks, DropPath, LayerNorm2d, Mlp, PatchMerging, Permute, drop_path_rates

MERGINGS = ("conv3", "conv2", "patch")


def _matrix(weight: Tensor) -> Tensor:
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


@dataclass(frozen=True, kw_only=True)
class VMambaConfig:
    """Sizes of a VMamba.

    num_classes: 0 leaves out the last layer.
    image_size: side of the images it is described with; any size of a patch or more goes through.
    in_chans: channels of the images.
    depths, dims: blocks and channels of every stage.
    d_state: n, states of every inner channel.
    expand: inner channels of SS2D over those of the stage.
    dt_rank: rank of the step size's projection; "auto" is a sixteenth of the channels.
    conv_bias: bias of SS2D's convolution.
    gate: whether SS2D has a gate.
    mlp_ratio: hidden channels of the block's second half over those of the stage; 0 leaves that half out.
    channel_first: maps are (b, c, h, w) by name; in memory the channels are last either way.
    patch_size: side of the patches that the first map is made of.
    stem_convs: 2, two convolutions of stride patch_size / 2, which must then be a multiple of 4, or 1.
    merging: how the map is halved between stages: "conv3" or "conv2", a convolution of that side, or "patch".
    drop_path_rate: probability of leaving out a branch of the last block; it grows linearly from 0.
    residual_dropout: probability of dropout on every branch before it is added to the residual stream.
    """

    num_classes: int = 1000
    image_size: int = 224
    in_chans: int = 3
    depths: tuple[int, ...] = (2, 2, 8, 2)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    d_state: int = 1
    expand: float = 1.0
    dt_rank: int | str = "auto"
    conv_bias: bool = False
    gate: bool = False
    mlp_ratio: float = 4.0
    channel_first: bool = True
    patch_size: int = 4
    stem_convs: int = 2
    merging: str = "conv3"
    drop_path_rate: float = 0.2
    residual_dropout: float = 0.0

    def __post_init__(self):
        sizes_tuple(self, "depths", "dims")
        check_vision_config(self, positive=("depths", "dims", "patch_size"))
        if len(self.depths) != len(self.dims):
            raise ModelError(f"depths and dims must have one number a stage, got {self.depths} and {self.dims}")
        if self.mlp_ratio < 0:
            raise ModelError(f"mlp_ratio must not be negative, got {self.mlp_ratio}")
        if self.stem_convs not in (1, 2):
            raise ModelError(f"stem_convs must be 1 or 2, got {self.stem_convs}")
        if self.stem_convs == 2 and self.patch_size % 4:
            raise ModelError(
                f"two convolutions make patches of 4, 8, ..., got patch_size={self.patch_size}; give stem_convs=1"
            )
        if self.merging not in MERGINGS:
            raise ModelError(f"merging must be one of {', '.join(MERGINGS)}, got {self.merging!r}")
        if self.merging == "patch" and self.channel_first:
            raise ModelError('merging="patch" works on (b, h, w, c); give channel_first=False with it')


class VSSBlock(nn.Module):
    """x + op(norm(x)), then x + mlp(norm2(x)): SS2D and an MLP, each after a norm and next to a residual connection.

    Args:
        config: the sizes.
        width: channels.
        drop_path: probability of leaving a branch out in training.
    """

    def __init__(self, config: VMambaConfig, width: int, drop_path: float):
        super().__init__()
        first = config.channel_first
        self.norm = _norm(config, width)
        self.op = SS2D(
            width,
            config.d_state,
            expand=config.expand,
            dt_rank=config.dt_rank,
            conv_bias=config.conv_bias,
            gate=config.gate,
            channel_first=first,
        )
        self.dropout = nn.Dropout(config.residual_dropout)
        self.drop_path = DropPath(drop_path)
        self.has_mlp = config.mlp_ratio > 0
        if self.has_mlp:
            self.norm2 = _norm(config, width)
            self.mlp = Mlp(width, int(width * config.mlp_ratio), channel_first=first)

    def forward(self, x: Tensor) -> Tensor:
        """A map in the layout of the network -> the same shape."""
        x = x + self.drop_path(self.dropout(self.op(self.norm(x))))
        return x + self.drop_path(self.dropout(self.mlp(self.norm2(x)))) if self.has_mlp else x


class VMamba(VisionModel):
    """Stem, stages of `VSSBlock`s with a halving of the map after each but the last, norm, mean, linear classifier.

    Args:
        config: the sizes.
        pretrained: refused; see `source`.
        backbone_weights: a file of weights, by the original's names, old ones included, or by ours.
    Raises:
        ModelError: pretrained weights are requested, or the file does not fit.
    """

    family = "vmamba"
    source = "https://github.com/MzeroMiko/VMamba/releases"
    licence = "MIT (MzeroMiko/VMamba)"
    rules = RULES
    preprocessing = IMAGENET
    classifier_path = "classifier.head"
    stem_path = "patch_embed.0"
    norm_path = "classifier.norm"
    undecayed = ("A_logs", "Ds", "dt_projs_bias")
    layers: Any

    def __init__(self, config: VMambaConfig, *, pretrained: bool = False, backbone_weights: Path | None = None):
        super().__init__(config, pretrained=pretrained)
        self.channel_first = config.channel_first
        self.num_features = config.dims[-1]
        self.feature_info = [
            {"num_chs": width, "reduction": config.patch_size * 2**i, "module": f"layers.{i}.blocks"}
            for i, width in enumerate(config.dims)
        ]
        self.patch_embed = _stem(config)
        self.layers = _stages(config)
        self.classifier = nn.ModuleDict({"norm": _norm(config, self.num_features), "head": nn.Identity()})
        self.apply(init_linear)
        self.reset_classifier(config.num_classes)
        self.load(backbone_weights)

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Images (b, in_chans, h, w) -> the map of every stage before it is halved, in the layout of the network."""
        x = self.patch_embed(channels_last(x, self.config.in_chans))
        for layer in self.layers:
            x = layer.blocks(x)
            yield x
            x = layer.downsample(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> the last map, normed, in the layout of the network."""
        x = self.patch_embed(channels_last(x, self.config.in_chans))
        for layer in self.layers:
            x = layer(x)
        return self.classifier["norm"](x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map -> logits (b, num_classes), or the mean over positions (b, num_features) before them."""
        x = self.pooled(x if self.channel_first else x.permute(0, 3, 1, 2), 2, 3)
        return x if pre_logits else self.classifier["head"](x)


class VMambaBackbone(nn.Module):
    """VMamba without a classifier, whose maps have a norm each: what detectors and segmentation networks read.

    Args:
        config: the sizes; num_classes plays no part.
        out_indices: the stages whose maps are returned.
    """

    layers: Any

    def __init__(self, config: VMambaConfig, out_indices: Sequence[int] = (0, 1, 2, 3)):
        super().__init__()
        self.config = config
        self.out_indices = tuple(out_indices)
        self.patch_embed = _stem(config)
        self.layers = _stages(config)
        for i in self.out_indices:
            self.add_module(f"outnorm{i}", _norm(config, config.dims[i]))
        self.apply(init_linear)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (b, in_chans, h, w) -> the maps (b, c, h, w) of the stages, from fine to coarse."""
        maps = []
        x = self.patch_embed(channels_last(x, self.config.in_chans))
        for i, layer in enumerate(self.layers):
            x = layer.blocks(x)
            if i in self.out_indices:
                found = self.get_submodule(f"outnorm{i}")(x)
                maps.append(found if self.config.channel_first else found.permute(0, 3, 1, 2))
            x = layer.downsample(x)
        return maps

    def forward_intermediates(self, x: Tensor, intermediates_only: bool = True) -> list[Tensor]:
        """The same, under timm's name.

        Raises:
            ModelError: final features are requested, which there are none of.
        """
        if not intermediates_only:
            raise ModelError("a backbone returns its maps alone; give intermediates_only=True")
        return self(x)


def _norm(config: VMambaConfig, width: int) -> nn.Module:
    return LayerNorm2d(width) if config.channel_first else nn.LayerNorm(width)


def _stem(config: VMambaConfig) -> nn.Sequential:
    """Images -> the first map. Places that the original fills with nothing keep their numbers."""
    width, patch, first = config.dims[0], config.patch_size, config.channel_first
    last = nn.Identity() if first else Permute(0, 2, 3, 1)
    if config.stem_convs == 1:
        return nn.Sequential(nn.Conv2d(config.in_chans, width, patch, patch), last, _norm(config, width))
    stride = patch // 2
    return nn.Sequential(
        nn.Conv2d(config.in_chans, width // 2, stride + 1, stride, padding=1),
        nn.Identity() if first else Permute(0, 2, 3, 1),
        _norm(config, width // 2),
        nn.Identity() if first else Permute(0, 3, 1, 2),
        nn.GELU(),
        nn.Conv2d(width // 2, width, stride + 1, stride, padding=1),
        last,
        _norm(config, width),
    )


def _stages(config: VMambaConfig) -> nn.ModuleList:
    stages = nn.ModuleList()
    for i, rates in enumerate(drop_path_rates(config.drop_path_rate, config.depths)):
        width = config.dims[i]
        blocks = Blocks(*(VSSBlock(config, width, rate) for rate in rates))
        downsample: nn.Module
        if i == len(config.dims) - 1:
            downsample = nn.Identity()
        elif config.merging == "patch":
            downsample = PatchMerging(width, config.dims[i + 1], pad=True)
        else:
            first, side = config.channel_first, 3 if config.merging == "conv3" else 2
            downsample = nn.Sequential(
                nn.Identity() if first else Permute(0, 3, 1, 2),
                nn.Conv2d(width, config.dims[i + 1], side, 2, padding=side - 2),
                nn.Identity() if first else Permute(0, 2, 3, 1),
                _norm(config, config.dims[i + 1]),
            )
        stages.append(nn.Sequential(OrderedDict(blocks=blocks, downsample=downsample)))
    return stages


# The first published form: 16 states, a gate and no MLP, patches by one convolution, merged by a linear layer.
V0: dict[str, Any] = {"d_state": 16, "expand": 2.0, "conv_bias": True, "gate": True, "mlp_ratio": 0.0}
V0 |= {"channel_first": False, "stem_convs": 1, "merging": "patch"}
BASE = (128, 256, 512, 1024)

# A name ends in SS2D's expansion and the depth of the third stage, as in the paper.
_PUBLISHED: dict[str, dict] = {
    "vmamba_tiny_s1l8": {},
    "vmamba_tiny_s2l5": {"depths": (2, 2, 5, 2), "expand": 2.0},
    "vmamba_tiny_v0": V0 | {"depths": (2, 2, 9, 2)},
    "vmamba_small_s1l20": {"depths": (2, 2, 20, 2), "drop_path_rate": 0.3},
    "vmamba_small_s2l15": {"depths": (2, 2, 15, 2), "expand": 2.0, "drop_path_rate": 0.3},
    "vmamba_small_v0": V0 | {"depths": (2, 2, 27, 2), "drop_path_rate": 0.3},
    "vmamba_base_s1l20": {"depths": (2, 2, 20, 2), "dims": BASE, "drop_path_rate": 0.5},
    "vmamba_base_s2l15": {"depths": (2, 2, 15, 2), "dims": BASE, "expand": 2.0, "drop_path_rate": 0.6},
    "vmamba_base_v0": V0 | {"depths": (2, 2, 27, 2), "dims": BASE, "drop_path_rate": 0.5},
}
_VALUES = _PUBLISHED | {
    "vmamba_tiny": _PUBLISHED["vmamba_tiny_s1l8"],
    "vmamba_small": _PUBLISHED["vmamba_small_s2l15"],
    "vmamba_base": _PUBLISHED["vmamba_base_s2l15"],
    "vmamba_test": {"depths": (1, 1), "dims": (16, 32), "image_size": 32, "drop_path_rate": 0.0},
}
CONFIGS: dict[str, Preset] = {name: Preset(VMamba, VMambaConfig, values) for name, values in _VALUES.items()}

# SS2D's forward types: whether there is a gate. They differ besides in kernels and precision, not in what is computed.
_CORES = ("v01", "v02", "v03", "v04", "v05", "v2", "v3")
FORWARD_TYPES = dict.fromkeys(("v0", "v0seq", *_CORES), True) | {f"{core}_noz": False for core in _CORES}
MERGING_VERSIONS = {"v1": "patch", "v2": "conv2", "v3": "conv3"}
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
DEFAULTS: dict[str, Any] = {
    "num_classes": 1000,
    "depths": (2, 2, 9, 2),
    "dims": 96,
    "ssm_d_state": 16,
    "ssm_ratio": 2.0,
    "ssm_conv_bias": True,
    "drop_path_rate": 0.1,
}


def from_arguments(config: dict[str, Any]) -> nn.Module:
    """The network for the original's arguments of VSSM, of Backbone_VSSM (with `out_indices`), or of SS2D (`d_model`).

    Raises:
        ModelError: an argument or a value that we do not know.
    """
    if "d_model" in config:
        rest = dict(config)
        names = ("d_model", "d_state", "dt_rank", "d_conv", "conv_bias", "channel_first")
        values = {name: rest.pop(name) for name in names if name in rest}
        values["expand"] = rest.pop("ssm_ratio", 2.0)
        values["gate"] = _known(rest, "forward_type", FORWARD_TYPES, "v2")
        _refuse(rest)
        return SS2D(**values)
    rest = DEFAULTS | config
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
    values["merging"] = _known(rest, "downsample_version", MERGING_VERSIONS, "v2")
    stages = rest.pop("out_indices", None)
    _refuse(rest)
    ours = VMambaConfig(**values)
    return VMamba(ours) if stages is None else VMambaBackbone(ours, stages)


def _known(rest: dict[str, Any], name: str, table: dict[str, Any], default: str) -> Any:
    """The meaning of an option whose values are names."""
    value = str(rest.pop(name, default)).lower()
    if value not in table:
        raise ModelError(f"vmamba: {name} must be one of {', '.join(table)}, got {value!r}")
    return table[value]


def _refuse(rest: dict[str, Any]) -> None:
    if rest:
        raise ModelError(f"vmamba: we have no counterpart of {', '.join(f'{k}={v!r}' for k, v in rest.items())}")


ORIGINALS = {"vmamba": Original(licence=VMamba.licence, build=from_arguments, rules=RULES)}
