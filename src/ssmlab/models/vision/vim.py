"""Vision Mamba (Vim): patches as one sequence, read in both directions by Mamba blocks, and a class token in it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models.entry import Preset
from ssmlab.models.fields import read
from ssmlab.models.rules import Original
from ssmlab.models.vision.base import VisionModel
from ssmlab.models.vision.maps import Layout, MapLayer, TokenGrid, token_layout
from ssmlab.models.vision.parts import IMAGENET, channels_last, check_vision_config, last_layer
from ssmlab.nn import BiMamba, DropPath, Mamba

SCANS = ("v2", "v1", "none")
CLASS_TOKENS = ("middle", "first", "none")


@dataclass(frozen=True, kw_only=True)
class VimConfig:
    """Sizes of a Vim; the defaults are those of Vim-Ti.

    num_classes: 0 leaves out the last layer.
    image_size: side of the square images that the position embedding is for; for others it is interpolated.
    in_chans: channels of the images.
    patch_size, stride: side of a patch, and distance between neighbours, in pixels.
    embed_dim: channels of a token.
    depth: layers.
    d_state: states of every inner channel of a Mamba block.
    scans: "v2" or "v1", see `BiMamba`, or "none", Mamba blocks that read forward only.
    divide_out: the mean of the two directions instead of their sum.
    class_token: where it is, "middle" or "first"; with "none" the classifier reads the mean of all tokens.
    pos_embed: whether there is a position embedding.
    rms_norm: RMSNorm instead of LayerNorm.
    norm_epsilon: of the norms.
    residual_in_fp32: whether the residual stream is float32 in a network of half precision.
    drop_rate: dropout of the embedded tokens.
    drop_path_rate: of the last branch; it grows linearly from zero at the second layer's input.
    residual_dropout: probability of dropout on every layer's branch before it is added to the residual stream.
    """

    num_classes: int
    image_size: int = 224
    in_chans: int = 3
    patch_size: int = 16
    stride: int = 16
    embed_dim: int = 192
    depth: int = 24
    d_state: int = 16
    scans: str = "v2"
    divide_out: bool = True
    class_token: str = "middle"
    pos_embed: bool = True
    rms_norm: bool = True
    norm_epsilon: float = 1e-5
    residual_in_fp32: bool = True
    drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    residual_dropout: float = 0.0

    def __post_init__(self):
        check_vision_config(self, ("patch_size", "stride", "embed_dim", "depth", "d_state"))
        for name, value, known in (("scans", self.scans, SCANS), ("class_token", self.class_token, CLASS_TOKENS)):
            if value not in known:
                raise ModelError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.image_size < self.patch_size:
            raise ModelError(f"image_size must be at least patch_size={self.patch_size}, got {self.image_size}")


class Vim(VisionModel):
    """Vision Mamba.

    Source: Zhu et al. 2024 (arXiv:2401.09417), section 3 and algorithm 1. Parameter names are those of the original
    code, and so are the initial values: the backward direction's step sizes start near softplus(0) = 0.69, the
    forward one's between 0.001 and 0.1.

    Args:
        config: the sizes.
        pretrained: refused, see `VisionModel`.
        backbone_weights: a file of weights by the original's names, for any image size.
    Raises:
        ModelError: weights cannot be had or do not fit.
    """

    family = "vim"
    source = "https://huggingface.co/hustvl"
    licence = "Apache-2.0"
    preprocessing = IMAGENET | {"license": "apache-2.0"}
    norm_path = "norm_f"
    stem_pattern = r"^cls_token|^pos_embed|^patch_embed"
    undecayed = ("A_log", "A_b_log", "D", "D_b", "pos_embed", "cls_token")
    isotropic = True

    def __init__(self, config: VimConfig, *, pretrained: bool = False, backbone_weights: Path | None = None):
        super().__init__(config, pretrained=pretrained)
        self.num_features = width = config.embed_dim
        self.feature_info = [
            {"num_chs": width, "reduction": config.stride, "module": f"layers.{i}"} for i in range(config.depth)
        ]
        self.patch_embed = PatchEmbed(config.in_chans, width, config.patch_size, config.stride)
        self.grid = self.patch_embed.grid(config.image_size, config.image_size)
        with_token = config.class_token != "none"
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if with_token else None
        tokens = math.prod(self.grid) + with_token
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width)) if config.pos_embed else None
        self.pos_drop = nn.Dropout(config.drop_rate)
        # the first layer has no branch before it; the last branch is added in front of the last norm
        rates = [0.0] + [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth - 1)]
        self.layers = nn.ModuleList(Layer(config, rate) for rate in rates)
        self.drop_path = DropPath(config.drop_path_rate)
        self.norm_f = _norm(config)
        self.head = last_layer(width, config.num_classes)
        for parameter in (self.cls_token, self.pos_embed):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        self.load(backbone_weights)

    def _stream(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Images -> what every layer gives, its branch and the residual stream before it, each (b, l, embed_dim)."""
        hidden, residual = self._embed(x), None
        for layer in self.layers:
            if self.grad_checkpointing and torch.is_grad_enabled():
                hidden, residual = checkpoint(layer, hidden, residual, use_reentrant=False)
            else:
                hidden, residual = layer(hidden, residual)
            yield hidden, residual

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Images (b, in_chans, h, w) -> the tokens (b, l, embed_dim) after every layer, the class token among them."""
        for hidden, residual in self._stream(x):
            yield residual + hidden

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> tokens (b, l, embed_dim) after the last norm, the class token among them."""
        hidden, residual = deque(self._stream(x), maxlen=1).pop()
        return self.final_norm(residual + self.drop_path(hidden))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits (b, num_classes), or the class token (without one the mean) before them."""
        if self.pooling:
            x = x.mean(1) if self.cls_token is None else x[:, self._place(x.shape[1] - 1)]
        return x if pre_logits else self.head(x)

    def to_nchw(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (b, l, c) of images of `size` -> (b, c, rows, columns), without the class token."""
        return self._apart(x)[0].unflatten(1, self.patch_embed.grid(*size)).permute(0, 3, 1, 2)

    def last_map(self) -> MapLayer:
        """The norm before the last mixer; the output of the last layer where no class token is read."""
        return MapLayer(f"layers.{len(self.layers) - 1}.norm", self._layout(), alike=self.cls_token is None)

    def final_map(self) -> MapLayer:
        """The output of the last layer, with the stream before it."""
        tokens = self._layout()
        return MapLayer(
            f"layers.{len(self.layers) - 1}", Layout(lambda out, size: tokens.to_map(out[0] + out[1], size))
        )

    def _layout(self) -> Layout:
        def patches(length: int, size: tuple[int, int]) -> list[int]:
            own = -1 if self.cls_token is None else self._place(math.prod(self.patch_embed.grid(*size)))
            return [token for token in range(length) if token != own]

        return token_layout(patches, lambda count, size: self.patch_embed.grid(*size))

    def token_grid(
        self, shape: tuple[int, ...], outputs: Mapping[nn.Module, Any], length: int, device: Any
    ) -> TokenGrid:
        """The patches, row by row; the class token lies nowhere."""
        grid = self.patch_embed.grid(shape[-2], shape[-1])
        pixel = list(range(math.prod(grid)))
        if self.cls_token is not None:
            pixel.insert(self._place(len(pixel)), -1)
        return TokenGrid(grid, torch.tensor(pixel, device=device).expand(shape[0], -1))

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `VisionModel`; a position embedding for another image size is interpolated."""
        state, stored = super().adapted(state), state.get("pos_embed")
        if stored is None or self.pos_embed is None or stored.dim() != 3 or stored.shape[-1] != self.num_features:
            return state
        side = math.isqrt(max(stored.shape[1] - (self.cls_token is not None), 0))
        if not side or side * side != stored.shape[1] - (self.cls_token is not None):
            return state  # not of a square image
        return state | {"pos_embed": self._resized(stored, (side, side), self.grid)}

    def _embed(self, x: Tensor) -> Tensor:
        """Images -> tokens with the class token in its place and the position embedding added."""
        grid = self.patch_embed.grid(*x.shape[-2:])
        tokens = self._joined(self.patch_embed(channels_last(x, self.config.in_chans)), self.cls_token)
        if self.pos_embed is not None:
            tokens = tokens + self._resized(self.pos_embed, self.grid, grid)
        return self.pos_drop(tokens)

    def _resized(self, positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
        """A position embedding (1, l, embed_dim) of a grid (rows, columns) of patches, for another grid."""
        if grid == wanted:
            return positions
        patches, token = self._apart(positions)
        image = patches.unflatten(1, grid).permute(0, 3, 1, 2)
        image = F.interpolate(image, size=wanted, mode="bicubic", align_corners=False)
        return self._joined(image.flatten(2).mT, token)

    def _place(self, patches: int) -> int:
        """The number of the class token in a sequence with so many patches."""
        return patches // 2 if self.config.class_token == "middle" else 0

    def _joined(self, patches: Tensor, token: Tensor | None) -> Tensor:
        """Patches (b, m, d) with the class token (1, 1, d) in its place."""
        if token is None:
            return patches
        place = self._place(patches.shape[1])
        return torch.cat([patches[:, :place], token.expand(len(patches), -1, -1), patches[:, place:]], dim=1)

    def _apart(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inverse of `_joined`."""
        if self.cls_token is None:
            return tokens, None
        place = self._place(tokens.shape[1] - 1)
        return torch.cat([tokens[:, :place], tokens[:, place + 1 :]], dim=1), tokens[:, place : place + 1]


class PatchEmbed(nn.Module):
    """One strided convolution, images (b, in_chans, h, w) -> tokens (b, rows * columns, d), row by row."""

    def __init__(self, in_chans: int, width: int, patch_size: int, stride: int):
        super().__init__()
        self.patch_size, self.stride = patch_size, stride
        self.proj = nn.Conv2d(in_chans, width, patch_size, stride)
        # the truncation at two standard deviations takes 12 % of the spread, which is given back
        std = (in_chans * patch_size**2) ** -0.5 / 0.8796
        nn.init.trunc_normal_(self.proj.weight, std=std, a=-2 * std, b=2 * std)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an image.

        Raises:
            ShapeError: the image is smaller than a patch.
        """
        if min(height, width) < self.patch_size:
            raise ShapeError(
                f"Vim: images must be at least {self.patch_size} x {self.patch_size}, the size of a patch, got "
                f"{height} x {width}; enlarge them"
            )
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).mT


class Layer(nn.Module):
    """Add, norm, mix: the branch before is added to the residual stream, and the mixer reads the stream's norm."""

    def __init__(self, config: VimConfig, drop_path: float):
        super().__init__()
        width, d_state = config.embed_dim, config.d_state
        if config.scans == "none":
            self.mixer: nn.Module = Mamba(width, d_state)
        else:
            self.mixer = BiMamba(width, d_state, kind=config.scans, divide=config.divide_out and config.scans == "v2")
        self.norm = _norm(config)
        self.dropout = nn.Dropout(config.residual_dropout)
        self.drop_path = DropPath(drop_path)
        self.residual_in_fp32 = config.residual_in_fp32
        self._init_mixer(config.depth)

    @torch.no_grad()
    def _init_mixer(self, depth: int) -> None:
        """The stream is a sum over the layers, so each starts smaller; the backward step sizes start at softplus(0)."""
        for name, parameter in self.mixer.named_parameters():
            if name == "out_proj.weight":
                parameter.div_(math.sqrt(depth))
            elif name == "dt_proj_b.bias":
                parameter.zero_()

    def forward(self, hidden: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(branch, stream or None), each (b, l, d) -> (this layer's branch, the stream before it)."""
        if residual is not None:
            residual = residual + self.drop_path(hidden)
        elif self.residual_in_fp32:
            residual = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        else:
            residual = hidden
        dtype = next(self.norm.parameters(), residual).dtype  # the stream may be of a wider one
        hidden, _ = self.mixer(self.norm(residual.to(dtype)))
        return self.dropout(hidden), residual


def _norm(config: VimConfig) -> nn.Module:
    return (nn.RMSNorm if config.rms_norm else nn.LayerNorm)(config.embed_dim, eps=config.norm_epsilon)


_SMALL, _BASE = {"embed_dim": 384}, {"embed_dim": 768}
_TEST = {"image_size": 32, "patch_size": 8, "stride": 8, "embed_dim": 16, "depth": 2, "d_state": 4}
VALUES: dict[str, dict[str, Any]] = {
    "vim_tiny": {},
    "vim_small": _SMALL,
    "vim_base": _BASE,
    "vim_tiny_stride8": {"stride": 8},
    "vim_small_stride8": _SMALL | {"stride": 8},
    "vim_test": _TEST,
}
CONFIGS = {name: Preset(Vim, VimConfig, values) for name, values in VALUES.items()}

# the original's arguments and our fields
FIELDS = {name: name for name in (
    "patch_size", "stride", "depth", "embed_dim", "d_state", "num_classes", "drop_rate", "drop_path_rate",
    "norm_epsilon", "rms_norm", "residual_in_fp32",
)} | {
    "img_size": "image_size", "channels": "in_chans", "bimamba_type": "scans", "if_divide_out": "divide_out",
    "if_abs_pos_embed": "pos_embed",
}  # fmt: skip

# what we have in one form only; whether the sum and the norm are fused changes nothing
ONLY = {
    "if_rope": (False,),
    "if_rope_residual": (False,),
    "if_bidirectional": (False,),
    "if_bimamba": (False,),
    "use_double_cls_token": (False,),
    "flip_img_sequences_ratio": (-1.0,),
    "init_layer_scale": (None,),
    "ssm_cfg": (None,),
    "fused_add_norm": (True, False),
}

DEFAULTS = {"num_classes": 1000, "if_cls_token": True, "use_middle_cls_token": True, "final_pool_type": "none"}


def from_arguments(config: dict[str, Any]) -> nn.Module:
    """Our network for the original's arguments.

    Raises:
        ModelError: an argument that the original does not know, or a value that we do not have.
    """
    config = DEFAULTS | config
    with_token, middle, pool = (
        config.pop(name) for name in ("if_cls_token", "use_middle_cls_token", "final_pool_type")
    )
    problems = [f"{name}={config[name]!r}" for name in ONLY if name in config and config[name] not in ONLY[name]]
    problems += [] if with_token or pool == "mean" else [f"final_pool_type={pool!r} without a class token"]
    if problems:
        raise ModelError(f"Vim is not here with {', '.join(problems)}; the published weights need none of that")
    values = read("Vim", config, FIELDS, ignored=ONLY)
    class_token = "none" if not with_token else "middle" if middle else "first"
    return Vim(VimConfig(class_token=class_token, **values))


ORIGINALS = {"vim": Original(licence=Vim.licence, build=from_arguments)}
