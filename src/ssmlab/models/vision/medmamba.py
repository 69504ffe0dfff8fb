"""MedMamba: a pyramid of blocks that are half SS2D and half convolution, for medical images.

Source: Yue and Li 2024 (arXiv:2403.03849), section 3. Parameter names are those of the original code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models.entry import Preset
from ssmlab.models.rules import Original
from ssmlab.models.vision.base import VisionModel
from ssmlab.models.vision.parts import IMAGENET, channels_last, check_vision_config, init_linear, sizes_tuple
from ssmlab.nn import SS2D, Blocks, DropPath, PatchMerging, drop_path_rates


@dataclass(frozen=True, kw_only=True)
class MedMambaConfig:
    """Sizes of a MedMamba.

    num_classes: 0 leaves out the last layer.
    image_size: side of the images it is described with; any that leaves a position in the last map goes through.
    in_chans: channels of the images.
    depths, dims: blocks and channels of every stage, channels even.
    d_state: n, states of every inner channel.
    patch_size: side of the patches that the first map is made of.
    drop_path_rate: probability of leaving out the SS2D branch of the last block; it grows linearly from 0.
    residual_dropout: probability of dropout on what both branches add to the residual stream.
    """

    num_classes: int = 6
    image_size: int = 224
    in_chans: int = 3
    depths: tuple[int, ...] = (2, 2, 4, 2)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    d_state: int = 16
    patch_size: int = 4
    drop_path_rate: float = 0.1
    residual_dropout: float = 0.0

    def __post_init__(self):
        sizes_tuple(self, "depths", "dims")
        check_vision_config(self, positive=("depths", "dims", "patch_size"))
        if len(self.depths) != len(self.dims):
            raise ModelError(f"depths and dims must have one number a stage, got {self.depths} and {self.dims}")
        if any(width % 2 for width in self.dims):
            raise ModelError(f"dims must be even, since a block treats their halves differently, got {self.dims}")


class PatchEmbed(nn.Module):
    """Images -> a LayerNormed vector for every patch, (b, h, w, width)."""

    def __init__(self, in_chans: int, width: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, width, patch_size, patch_size)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_chans, h, w) -> (b, h / patch_size, w / patch_size, width), rounded down."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SSConvSSM(nn.Module):
    """One half of the channels through convolutions, the other through SS2D; both shuffled, and added to the input.

    Args:
        width: channels, even.
        d_state: states of SS2D's inner channels.
        drop_path: probability of leaving the SS2D branch out in training.
        dropout: probability of dropout on what is added to the input.
    """

    def __init__(self, width: int, d_state: int, drop_path: float, dropout: float = 0.0):
        super().__init__()
        half = width // 2
        self.ln_1 = nn.LayerNorm(half)
        self.self_attention = SS2D(half, d_state)
        self.drop_path = DropPath(drop_path)
        self.dropout = nn.Dropout(dropout)
        self.conv33conv33conv11 = nn.Sequential(
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (b, h, w, width) -> the same shape."""
        left, right = x.chunk(2, dim=-1)
        right = self.drop_path(self.self_attention(self.ln_1(right)))
        left = left.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        left = self.conv33conv33conv11(left).permute(0, 2, 3, 1)
        # the shuffle: channels of the two branches by turns
        return self.dropout(torch.stack((left, right), dim=-1).flatten(-2)) + x


class Stage(nn.Module):
    """Blocks, and after them the merging of 2 x 2 positions, or nothing."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module):
        super().__init__()
        self.blocks = Blocks(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """x (b, h, w, c) -> (b, h / 2, w / 2, 2 c) rounded down, or x's shape where nothing is merged."""
        return self.downsample(self.blocks(x))


class MedMamba(VisionModel):
    """Patches, stages of `SSConvSSM`s with a merging after each but the last, mean, linear classifier.

    Args:
        config: the sizes.
        pretrained: refused; see `source`.
        backbone_weights: a file of weights, by the original's names, which are ours.
    Raises:
        ModelError: pretrained weights are requested, or the file does not fit.
    """

    family = "medmamba"
    source = "https://github.com/YubiaoYue/MedMamba (the table there has a link for every data set)"
    licence = "no stated licence: YubiaoYue/MedMamba has no licence file, so ask its authors before other use"
    preprocessing = IMAGENET | {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "interpolation": "bilinear"}
    channel_first = False
    undecayed = ("A_logs", "Ds", "dt_projs_bias")
    layers: Any

    def __init__(self, config: MedMambaConfig, *, pretrained: bool = False, backbone_weights: Path | None = None):
        super().__init__(config, pretrained=pretrained)
        self.num_features = config.dims[-1]
        self.feature_info = [
            {"num_chs": width, "reduction": config.patch_size * 2**i, "module": f"layers.{i}.blocks"}
            for i, width in enumerate(config.dims)
        ]
        self.patch_embed = PatchEmbed(config.in_chans, config.dims[0], config.patch_size)
        self.layers = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(config.drop_path_rate, config.depths)):
            blocks = [SSConvSSM(config.dims[i], config.d_state, rate, config.residual_dropout) for rate in rates]
            last = i == len(config.dims) - 1
            merging = nn.Identity() if last else PatchMerging(config.dims[i], config.dims[i + 1], pad=False)
            self.layers.append(Stage(blocks, merging))
        self.head: nn.Module = nn.Identity()
        self.apply(_init)
        self.reset_classifier(config.num_classes)
        self.load(backbone_weights)

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Images (b, in_chans, h, w) -> the map (b, h', w', c) of every stage before it is merged."""
        x = self._embed(x)
        for layer in self.layers:
            x = layer.blocks(x)
            yield x
            x = layer.downsample(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> the last map (b, h', w', num_features).

        Raises:
            ShapeError: the images have other channels, or no pixel would be left for the last map.
        """
        x = self._embed(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map -> logits (b, num_classes), or the mean over positions (b, num_features) before them."""
        x = self.pooled(x, 1, 2)
        return x if pre_logits else self.head(x)

    def _embed(self, x: Tensor) -> Tensor:
        x = channels_last(x, self.config.in_chans)
        least = self.feature_info[-1]["reduction"]
        if min(x.shape[2:]) < least:
            raise ShapeError(
                f"MedMamba: images must be at least {least} x {least}, since every merging drops a last odd row or "
                f"column, got {x.shape[2]} x {x.shape[3]}; enlarge them or give a smaller patch_size"
            )
        return self.patch_embed(x)


def _init(module: nn.Module) -> None:
    init_linear(module)
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_VALUES: dict[str, dict] = {
    "medmamba_tiny": {},
    "medmamba_small": {"depths": (2, 2, 8, 2)},
    "medmamba_base": {"depths": (2, 2, 12, 2), "dims": (128, 256, 512, 1024)},
    "medmamba_test": {"depths": (1, 1), "dims": (16, 32), "d_state": 4, "image_size": 32, "drop_path_rate": 0.0},
}
CONFIGS: dict[str, Preset] = {name: Preset(MedMamba, MedMambaConfig, values) for name, values in _VALUES.items()}


def from_arguments(config: dict[str, Any]) -> nn.Module:
    """The network for the original's arguments of VSSM.

    Raises:
        ModelError: an argument that we do not know.
    """
    rest, same = dict(config), ("patch_size", "in_chans", "depths", "drop_path_rate")
    values: dict[str, Any] = {name: rest.pop(name) for name in same if name in rest}
    values["num_classes"] = rest.pop("num_classes", 1000)
    depths = values.get("depths", (2, 2, 4, 2))
    dims = rest.pop("dims", (96, 192, 384, 768))
    values["dims"] = [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else dims
    d_state = rest.pop("d_state", 16)
    values["d_state"] = math.ceil(values["dims"][0] / 6) if d_state is None else d_state
    if rest:
        raise ModelError(f"medmamba: we have no counterpart of {', '.join(f'{k}={v!r}' for k, v in rest.items())}")
    return MedMamba(MedMambaConfig(**values))


ORIGINALS = {"medmamba": Original(licence=MedMamba.licence, build=from_arguments)}
