"""A convolutional backbone whose feature map is read by a bidirectional Mamba, and the same backbone without it.

The experiment that this comes from averaged the feature map first and scanned a sequence of length one; that variant
is kept as `tokens="pooled"`, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models.entry import Preset
from ssmlab.models.vision.backbones import STRIDES, build_backbone, choose_output_stride, map_sizes
from ssmlab.models.vision.base import VisionModel
from ssmlab.models.vision.maps import LAST_OF_LIST, Layout, MapLayer, TokenGrid, token_layout
from ssmlab.nn import Bidirectional, ClassifierHead, Linear, Mamba, Residual

LEAST_TOKENS = 4  # below this a scan has nothing to read
TOKENS = ("spatial", "pooled")


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A timm backbone and the classifier.

    num_classes: 0 leaves out the last layer.
    image_size: side of the square images; it decides the stride.
    in_chans: channels of the images.
    backbone: any timm model that has `features_only`.
    output_stride: 32, 16 or 8; None takes the largest that leaves 4 x 4 positions.
    head_hidden: channels of the classifier's hidden layer.
    dropout: before the last layer.
    """

    num_classes: int
    image_size: int = 224
    in_chans: int = 3
    backbone: str = "resnet18"
    output_stride: int | None = None
    head_hidden: int = 256
    dropout: float = 0.1

    def __post_init__(self):
        _check(self, positive=("image_size", "in_chans", "head_hidden"))


@dataclass(frozen=True, kw_only=True)
class ResNetMambaConfig:
    """A timm backbone, Mamba over its feature map, and the classifier. As `ResNetConfig`, and:

    tokens: "spatial", one token a position of the feature map, or "pooled", one for the whole map.
    scales: how many levels of the pyramid are scanned side by side, the coarsest first chosen.
    depth: bidirectional layers.
    d_state, d_conv, expand, dt_rank: sizes of the Mamba blocks.
    """

    num_classes: int
    image_size: int = 224
    in_chans: int = 3
    backbone: str = "resnet18"
    output_stride: int | None = None
    head_hidden: int = 256
    dropout: float = 0.1
    tokens: str = "spatial"
    scales: int = 1
    depth: int = 1
    d_state: int = 8
    d_conv: int = 4
    expand: float = 1
    dt_rank: int | str = 8

    def __post_init__(self):
        _check(self, positive=("image_size", "in_chans", "head_hidden", "scales", "depth"))
        if self.tokens not in TOKENS:
            raise ModelError(f"tokens must be one of {', '.join(TOKENS)}, got {self.tokens!r}")


class OnTimm(VisionModel):
    """What the two models share: a timm backbone in `backbone`, and a `ClassifierHead` in `head`."""

    family = "resnet_mamba"
    classifier_path = "head.classifier"
    stem_path = None
    backbone: Any
    head: ClassifierHead

    def __init__(self, config: ResNetConfig | ResNetMambaConfig):
        super().__init__(config)
        self.output_stride = config.output_stride or choose_output_stride(config.backbone, config.image_size)

    def take_backbone(self, pretrained: bool, weights: Path | None) -> None:
        """Build the backbone, with the weights that timm publishes or those of a file."""
        config = self.config
        self.backbone = build_backbone(
            config.backbone,
            output_stride=self.output_stride,
            in_chans=config.in_chans,
            pretrained=pretrained,
            weights=weights,
        )
        self.preprocessing = self.backbone.default_cfg

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Images (b, in_chans, h, w) -> the maps of the backbone, (b, c, h', w')."""
        yield from self.backbone(x)

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A last layer with torch's own initial values; the identity for no classes."""
        return Linear(self.head_hidden_size, num_classes) if num_classes > 0 else nn.Identity()

    @property
    def head_hidden_size(self) -> int:
        return self.config.head_hidden

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's description of a model: mean, std and interpolation of the backbone, and the sizes of this one."""
        return super().default_cfg | {"architecture": self.config.backbone}

    pretrained_cfg = default_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused: whether timm's backbones can depends on the backbone.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{type(self).__name__} cannot compute its blocks again")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The stem; the backbone's stages, or the blocks in them, as timm numbers both; the scans; no head."""
        stage = r"^backbone\.(?:layer|(?:stages|blocks|layers)[_.])(\d+)"
        blocks = [(stage + r"\.downsample", (0,)), (stage + r"\.\D*(\d+)", None), (stage, (0,))]
        return {
            "stem": r"^backbone\.(?:conv1|bn1|stem|patch_embed|conv_stem)",
            "backbone": [(stage, None)] if coarse else blocks,
            "scan": [(r"^level_proj", (0,)), (r"^layers\.(\d+)", None)],
        }

    def last_map(self) -> MapLayer:
        """The last map of the backbone."""
        return MapLayer("backbone", LAST_OF_LIST)


class ResNetBaseline(OnTimm):
    """The backbone, mean over positions, and the classifier.

    Args:
        config: the sizes.
        pretrained: fill the backbone with the weights that timm publishes.
        backbone_weights: a file of weights of the timm network instead.
    Raises:
        ModelError: the backbone is unknown, or its weights cannot be had.
    """

    def __init__(self, config: ResNetConfig, *, pretrained: bool = False, backbone_weights: Path | None = None):
        super().__init__(config)
        self.num_features = map_sizes(config.backbone, self.output_stride, config.image_size)[-1][0]
        self.take_backbone(pretrained, backbone_weights)
        self.head = ClassifierHead(
            self.num_features, config.num_classes, hidden=config.head_hidden, dropout=config.dropout
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> the last feature map (b, num_features, h', w')."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map -> logits (b, num_classes), or the hidden features before them."""
        return self.head(self.pooled(x, 2, 3), pre_logits=pre_logits)


class ResNetMamba(OnTimm):
    """The backbone, its feature map as a sequence of tokens, bidirectional Mamba, mean over tokens, the classifier.

    With `scales` = k the last k maps are brought to one width and scanned side by side, each a sequence of its own
    through the same blocks; the mean over all their tokens gathers them.

    Args:
        config: the sizes.
        pretrained: fill the backbone with the weights that timm publishes.
        backbone_weights: a file of weights of the timm network instead.
    Raises:
        ModelError: the backbone is unknown, its weights cannot be had, or the feature map has too few positions.
    """

    undecayed = ("A_log", "D")
    level: Tensor  # which scale a token belongs to, (num_tokens,)

    def __init__(self, config: ResNetMambaConfig, *, pretrained: bool = False, backbone_weights: Path | None = None):
        super().__init__(config)
        levels = map_sizes(config.backbone, self.output_stride, config.image_size)
        if config.scales > len(levels):
            raise ModelError(f"{config.backbone} has {len(levels)} feature maps, scales={config.scales} asks for more")
        levels = levels[-config.scales :]
        self.num_features = width = levels[-1][0]
        pooled = config.tokens == "pooled"
        self.level_lengths = tuple(1 if pooled else height * wide for _, height, wide in levels)
        self.num_tokens = sum(self.level_lengths)
        if not pooled and self.num_tokens < LEAST_TOKENS:
            raise ModelError(
                f"{config.backbone} leaves {self.num_tokens} tokens of an image of {config.image_size} x "
                f"{config.image_size}, a scan needs at least {LEAST_TOKENS}; enlarge the images (image_size=32 gives "
                "16 tokens), choose a smaller output_stride, or ask for the variant that scans a single pooled token "
                'with tokens="pooled"'
            )
        level = [torch.full((length,), number) for number, length in enumerate(self.level_lengths)]
        self.register_buffer("level", torch.cat(level), persistent=False)
        self.take_backbone(pretrained, backbone_weights)
        self.level_proj = nn.ModuleList(Linear(channels, width) for channels, _, _ in levels[:-1])
        sizes = (width, config.d_state, config.d_conv, config.expand, config.dt_rank)
        self.layers = nn.ModuleList(
            Residual(nn.LayerNorm(width), Bidirectional(Mamba(*sizes), Mamba(*sizes))) for _ in range(config.depth)
        )
        self.head = ClassifierHead(width, config.num_classes, hidden=config.head_hidden, dropout=config.dropout)

    def to_tokens(self, maps: list[Tensor]) -> Tensor:
        """Feature maps [(b, c, h, w)] -> tokens (b, l, num_features): row by row, the finest scanned level first."""
        levels = [m.flatten(2).mT for m in maps[-self.config.scales :]]
        if self.config.tokens == "pooled":
            levels = [level.mean(1, keepdim=True) for level in levels]
        levels = [proj(level) for proj, level in zip(self.level_proj, levels, strict=False)] + levels[-1:]
        return levels[0] if len(levels) == 1 else torch.cat(levels, dim=1)

    def forward_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (b, l, num_features) -> their mean after the scans, (b, num_features); without pooling the tokens.

        Raises:
            ShapeError: with several scales, l is not that of the configured image size, so that the levels cannot be
                told apart.
        """
        level = self._level_of_token(tokens)
        for layer in self.layers:
            tokens, _ = layer(tokens, seq_idx=level)
        return tokens.mean(1) if self.pooling else tokens

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> features (b, num_features)."""
        return self.forward_tokens(self.to_tokens(self.backbone(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features -> logits (b, num_classes), or the hidden features before them."""
        return self.head(x, pre_logits=pre_logits)

    def final_map(self) -> MapLayer:
        """The tokens after the last scan, of the last map where several are scanned; a pooled token is no map."""
        if self.config.tokens == "pooled":
            return self.last_map()
        last = self.level_lengths[-1] if self.config.scales > 1 else None
        tokens = token_layout(lambda length, size: list(range(length - (last or length), length)))
        return MapLayer(f"layers.{len(self.layers) - 1}", Layout(lambda out, size: tokens.to_map(out[0], size)))

    def token_grid(
        self, shape: tuple[int, ...], outputs: Mapping[nn.Module, Any], length: int, device: Any
    ) -> TokenGrid | None:
        """The positions of the finest scanned map; tokens of the others, and a pooled one, lie nowhere."""
        maps = outputs.get(self.backbone)
        if maps is None or self.config.tokens == "pooled":
            return None
        b, _, h, w = maps[-self.config.scales].shape
        pixel = torch.full((length,), -1, device=device)
        pixel[: h * w] = torch.arange(h * w, device=device)
        return TokenGrid((h, w), pixel.expand(b, -1))

    def _level_of_token(self, tokens: Tensor) -> Tensor | None:
        if self.config.scales == 1:
            return None
        if tokens.shape[1] != self.num_tokens:
            raise ShapeError(
                f"{self.config.scales} scales at image size {self.config.image_size} have {self.num_tokens} tokens, "
                f"got {tokens.shape[1]}; build the model with the image_size of the images"
            )
        return self.level.expand(tokens.shape[0], -1)


def _check(config: ResNetConfig | ResNetMambaConfig, positive: tuple[str, ...]) -> None:
    for name in positive:
        if getattr(config, name) < 1:
            raise ModelError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.num_classes < 0:
        raise ModelError(f"num_classes must not be negative, got {config.num_classes}")
    if config.output_stride not in (None, *STRIDES):
        raise ModelError(f"output_stride must be 32, 16 or 8, or be left out, got {config.output_stride}")


CONFIGS: dict[str, Preset] = {
    "resnet18": Preset(ResNetBaseline, ResNetConfig, {}),
    "resnet18_mamba": Preset(ResNetMamba, ResNetMambaConfig, {}),
    "resnet18_mamba_pooled": Preset(ResNetMamba, ResNetMambaConfig, {"tokens": "pooled"}),
    "resnet50": Preset(ResNetBaseline, ResNetConfig, {"backbone": "resnet50"}),
    "resnet50_mamba": Preset(ResNetMamba, ResNetMambaConfig, {"backbone": "resnet50"}),
    "resnet_test": Preset(ResNetBaseline, ResNetConfig, {"backbone": "test_resnet", "head_hidden": 32}),
    "resnet_mamba_test": Preset(ResNetMamba, ResNetMambaConfig, {"backbone": "test_resnet", "head_hidden": 32}),
}
