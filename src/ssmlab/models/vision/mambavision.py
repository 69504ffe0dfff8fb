"""MambaVision: two stages of convolutions, then two of windows in which Mamba mixers are followed by attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.entry import Preset
from ssmlab.models.fields import read
from ssmlab.models.rules import Original, Rule
from ssmlab.models.vision.base import VisionModel
from ssmlab.models.vision.maps import TokenGrid
from ssmlab.models.vision.parts import (
    IMAGENET,
    channels_last,
    check_vision_config,
    init_linear,
    last_layer,
    sizes_tuple,
)
from ssmlab.nn import Blocks, DropPath, MambaVisionMixer, Mlp, SelfAttention, drop_path_rates
from ssmlab.nn.windows import from_windows, to_windows

CONV_LEVELS = 2  # the first two levels are convolutional


@dataclass(frozen=True, kw_only=True)
class MambaVisionConfig:
    """Sizes of a MambaVision; the defaults are those of MambaVision-T.

    num_classes: 0 leaves out the last layer.
    image_size: side of the square images that it is meant for; it takes any.
    in_chans: channels of the images.
    dim: channels of the first level, doubled at each following one.
    in_dim: channels between the two convolutions of the stem.
    depths: blocks of every level; the first two are convolutional. In the others the last depth // 2 blocks attend.
    num_heads: attention heads of every level.
    window_size: side of the windows of every level, in positions; maps are padded to whole windows.
    mlp_ratio: hidden channels of an MLP, as a multiple.
    qkv_bias, qk_norm: of the attention, see `SelfAttention`.
    drop_rate, attn_drop_rate: dropout after projections and MLPs, and of attention weights.
    drop_path_rate: of the last block; it grows linearly from zero at the first.
    layer_scale, layer_scale_conv: initial factor of every branch of the window and of the convolutional blocks; None
        leaves the factors out.
    crop_pct, crop_mode: how the published weights want an image cut; what is kept of its side, timm's name of the way.
    """

    num_classes: int
    image_size: int = 224
    in_chans: int = 3
    dim: int = 80
    in_dim: int = 32
    depths: tuple[int, ...] = (1, 3, 8, 4)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    window_size: tuple[int, ...] = (8, 8, 14, 7)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.2
    layer_scale: float | None = None
    layer_scale_conv: float | None = None
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def __post_init__(self):
        sizes_tuple(self, "depths", "num_heads", "window_size")
        check_vision_config(self, ("dim", "in_dim", "depths", "num_heads", "window_size"))
        if not len(self.depths) == len(self.num_heads) == len(self.window_size) > CONV_LEVELS:
            raise ModelError(
                f"depths, num_heads and window_size need one number for each of at least {CONV_LEVELS + 1} levels, got "
                f"{self.depths}, {self.num_heads}, {self.window_size}"
            )


class MambaVision(VisionModel):
    """MambaVision, a hierarchy of convolutions, Mamba mixers and self-attention.

    Source: Hatamizadeh & Kautz 2024 (arXiv:2407.08083), section 3 and figure 2. Parameter names are those of the
    original code. Linear layers start as they do there, the one of the step size included: its bias starts at zero,
    so the initial step sizes are near softplus(0) = 0.69.

    Args:
        config: the sizes.
        pretrained: refused, see `VisionModel`.
        backbone_weights: a file of weights by the original's names.
    Raises:
        ModelError: weights cannot be had or do not fit.
    """

    family = "mambavision"
    source = "https://huggingface.co/collections/nvidia/mambavision-66943871a6b36c9e78b327d3"
    licence = "CC-BY-NC-SA-4.0"  # not for commercial use; the code of the original is non-commercial too
    # the files on the hub of Hugging Face hold the network inside a classifier, files of detectors as an encoder
    rules = (Rule(r"(?:model|encoder)\.(.+)", r"\1"),)
    stem_path = "patch_embed.conv_down.0"
    norm_path = "norm"
    stages_path = "levels"
    undecayed = ("A_log", "D")

    def __init__(self, config: MambaVisionConfig, *, pretrained: bool = False, backbone_weights: Path | None = None):
        super().__init__(config, pretrained=pretrained)
        widths = [config.dim * 2**level for level in range(len(config.depths))]
        crop = {"crop_pct": config.crop_pct, "crop_mode": config.crop_mode}
        self.preprocessing = IMAGENET | {"license": self.licence.lower()} | crop
        self.num_features = widths[-1]
        self.feature_info = [
            {"num_chs": width, "reduction": 4 * 2**level, "module": f"levels.{level}.blocks"}
            for level, width in enumerate(widths)
        ]
        self.patch_embed = PatchEmbed(config.in_chans, config.in_dim, config.dim)
        self.levels = nn.ModuleList()
        for level, rates in enumerate(drop_path_rates(config.drop_path_rate, config.depths)):
            blocks = [self._block(level, block, rate) for block, rate in enumerate(rates)]
            last = level == len(widths) - 1
            window = config.window_size[level] if level >= CONV_LEVELS else None
            self.levels.append(Level(blocks, window, nn.Identity() if last else Downsample(widths[level])))
        self.norm = nn.BatchNorm2d(self.num_features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = last_layer(self.num_features, config.num_classes)
        self.apply(init_linear)
        self.load(backbone_weights)

    def _block(self, level: int, block: int, rate: float) -> nn.Module:
        """A block with initial values; in a level of windows the later half of the blocks attends."""
        config, dim = self.config, self.config.dim * 2**level
        if level < CONV_LEVELS:
            return ConvBlock(dim, drop_path=rate, layer_scale=config.layer_scale_conv)
        mixer: nn.Module
        if block < config.depths[level] - config.depths[level] // 2:
            mixer = MambaVisionMixer(dim, d_state=8, d_conv=3, expand=1)
        else:
            mixer = SelfAttention(
                dim,
                config.num_heads[level],
                qkv_bias=config.qkv_bias,
                qk_norm=config.qk_norm,
                attn_drop=config.attn_drop_rate,
                proj_drop=config.drop_rate,
            )
        return MixerBlock(
            dim,
            mixer,
            hidden=int(dim * config.mlp_ratio),
            drop=config.drop_rate,
            drop_path=rate,
            layer_scale=config.layer_scale,
        )

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Images (b, in_chans, h, w) -> the map of every level before its reduction, (b, c, h', w')."""
        x = self.patch_embed(channels_last(x, self.config.in_chans))
        for level in cast(Iterable[Level], self.levels):
            x = level.mix(x)
            yield x
            x = level.downsample(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> the last map after the last norm, (b, num_features, h', w')."""
        x = self.patch_embed(channels_last(x, self.config.in_chans))  # the windows' tokens are the map's own memory
        for level in self.levels:
            x = level(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map -> logits (b, num_classes), or its mean over positions (b, num_features)."""
        x = self.avgpool(x).flatten(1) if self.pooling else self.pooled(x, 2, 3)
        return x if pre_logits else self.head(x)


class PatchEmbed(nn.Module):
    """The stem: two strided convolutions, images (b, in_chans, h, w) -> map (b, dim, h / 4, w / 4), rounded up."""

    def __init__(self, in_chans: int, in_dim: int, dim: int):
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(in_chans, in_dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(in_dim, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(in_dim, dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(dim, eps=1e-4),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_down(x)


class ConvBlock(nn.Module):
    """x + two convolutions with norms, on maps (b, d, h, w)."""

    def __init__(self, dim: int, *, drop_path: float, layer_scale: float | None):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(dim)
        self.act1 = nn.GELU(approximate="tanh")
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.gamma = _scale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return x + self.drop_path(branch if self.gamma is None else self.gamma[:, None, None] * branch)


class MixerBlock(nn.Module):
    """A token mixer and an MLP, each on a residual branch after a norm, on the tokens (b, l, d) of windows."""

    def __init__(
        self, dim: int, mixer: nn.Module, *, hidden: int, drop: float, drop_path: float, layer_scale: float | None
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        self.mlp.add_module("act", nn.Sequential(nn.GELU(), nn.Dropout(drop)))
        self.drop = nn.Dropout(drop)
        self.gamma_1 = _scale(dim, layer_scale)
        self.gamma_2 = _scale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.mixer(self.norm1(x))
        x = x + self.drop_path(branch if self.gamma_1 is None else self.gamma_1 * branch)
        branch = self.drop(self.mlp(self.norm2(x)))
        return x + self.drop_path(branch if self.gamma_2 is None else self.gamma_2 * branch)


class Downsample(nn.Module):
    """A strided convolution to twice the channels, (b, d, h, w) -> (b, 2 d, h / 2, w / 2), rounded up."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(x)


class Level(nn.Module):
    """Blocks of one resolution, and the reduction to the next.

    Args:
        blocks: on maps, or on the tokens of windows where a window size is given.
        window_size: side of the windows.
        downsample: the reduction; the identity at the last level.
    """

    def __init__(self, blocks: list[nn.Module], window_size: int | None, downsample: nn.Module):
        super().__init__()
        self.blocks = Blocks(*blocks)
        self.window_size = window_size
        self.downsample = downsample

    def mix(self, x: Tensor) -> Tensor:
        """Map -> map of the same sizes, (b, d, h, w), before the reduction."""
        if self.window_size is None:
            return self.blocks(x)
        tokens = self.blocks(to_windows(x, self.window_size))
        return from_windows(tokens, self.window_size, x.shape[2], x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.mix(x))

    def token_grid(
        self, shape: tuple[int, ...], outputs: Mapping[nn.Module, Any], length: int, device: Any
    ) -> TokenGrid | None:
        """Where the tokens of its windows lie, see `VisionModel.token_grid`."""
        if self.window_size is None:
            return None
        b, _, h, w = shape
        numbers = torch.arange(1, h * w + 1, dtype=torch.float64, device=device).view(1, 1, h, w)  # padding is 0
        pixel = to_windows(numbers, self.window_size).squeeze(-1).long() - 1
        return TokenGrid((h, w), pixel.repeat(b, 1))


def _scale(dim: int, factor: float | None) -> nn.Parameter | None:
    return None if factor is None else nn.Parameter(torch.full((dim,), float(factor)))


_B = {"dim": 128, "in_dim": 64, "depths": (3, 3, 10, 5), "drop_path_rate": 0.3, "layer_scale": 1e-5}
_L = _B | {"dim": 196, "num_heads": (4, 8, 16, 32)}
_L2 = _L | {"depths": (3, 3, 12, 5)}
_L3 = _L | {"dim": 256, "depths": (3, 3, 20, 10), "drop_path_rate": 0.5}
_512 = {"image_size": 512, "window_size": (8, 8, 32, 16), "crop_pct": 0.93, "crop_mode": "squash"}
_TEST = {"dim": 8, "in_dim": 8, "depths": (1, 1, 2, 2), "num_heads": (1, 1, 2, 2), "window_size": (8, 8, 4, 2)}
VALUES: dict[str, dict[str, Any]] = {
    "mambavision_tiny": {},
    "mambavision_tiny2": {"depths": (1, 3, 11, 4), "crop_pct": 0.98},
    "mambavision_small": {"dim": 96, "in_dim": 64, "depths": (3, 3, 7, 5), "crop_pct": 0.93},
    "mambavision_base": _B,
    "mambavision_large": _L,
    "mambavision_large2": _L2,
    "mambavision_base_21k": _B,
    "mambavision_large_21k": _L,
    "mambavision_large2_512_21k": _L2 | _512,
    "mambavision_large3_256_21k": _L3 | {"image_size": 256, "window_size": (8, 8, 16, 8)},
    "mambavision_large3_512_21k": _L3 | _512,
    "mambavision_test": _TEST | {"image_size": 64},
}
CONFIGS = {name: Preset(MambaVision, MambaVisionConfig, values) for name, values in VALUES.items()}

# the original's arguments and our fields
FIELDS = {name: name for name in (
    "dim", "in_dim", "depths", "num_heads", "window_size", "mlp_ratio", "drop_path_rate", "in_chans", "num_classes",
    "qkv_bias", "drop_rate", "attn_drop_rate", "layer_scale", "layer_scale_conv",
)} | {"resolution": "image_size", "qk_scale": "qk_norm"}  # fmt: skip


def from_arguments(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments.

    Raises:
        ModelError: an argument that the original does not know (it would ignore it).
    """
    values = {"num_classes": 1000} | read("MambaVision", config, FIELDS, ignored=())
    values["qk_norm"] = bool(values.get("qk_norm"))  # what the original calls a scale is a switch
    return MambaVision(MambaVisionConfig(**values))


ORIGINALS = {
    "mambavision": Original(licence=MambaVision.licence, build=from_arguments, rules=MambaVision.rules),
}
