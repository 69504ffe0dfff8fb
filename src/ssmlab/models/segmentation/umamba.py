"""U-Mamba: a residual U-Net with Mamba layers, in 2-D and 3-D, built from a plan; and the same network without them.

Source: Ma, Li and Wang 2024 (arXiv:2401.04722), figure 1. Names and the choices that the paper leaves open are those of
the original code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models.segmentation.plans import Plan, plan_from
from ssmlab.models.segmentation.umamba_parts import SLOPE, Decoder, Encoder, MambaLayer

VARIANTS = ("bot", "enc", "plain")


@dataclass(frozen=True, kw_only=True)
class UMambaConfig:
    """What a U-Mamba is built from.

    plan: sizes of the stages; a table of them is turned into a `Plan`.
    num_classes: logits of a position, the background's included.
    in_chans: channels of the images.
    variant: "bot" has one Mamba layer behind the lowest stage; "enc" has one behind every stage of the encoder, in 2-D
        behind every second, the lowest among them; "plain" has none: the baseline of the same plan.
    """

    plan: Plan
    num_classes: int
    in_chans: int = 3
    variant: str = "bot"

    def __post_init__(self):
        if isinstance(self.plan, Mapping):
            object.__setattr__(self, "plan", plan_from(self.plan))
        if not isinstance(self.plan, Plan):
            raise ModelError(f"plan must be a Plan or a table of its sizes, got {type(self.plan).__name__}")
        if self.variant not in VARIANTS:
            raise ModelError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        for name in ("num_classes", "in_chans"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, got {getattr(self, name)}")


class UMamba(nn.Module):
    """Images to logits at every position.

    Any size goes in: images are padded behind their last row and column with their edge's values to a multiple of the
    plan's divisor, and the logits are cut back. Where a stage scans channels (see `MambaLayer`) only patches of the
    plan's size go in.

    Args:
        config: the sizes.
    """

    def __init__(self, config: UMambaConfig):
        super().__init__()
        self.config, plan = config, config.plan
        encoder, decoder = depths(plan)
        self.encoder = Encoder(plan, config.in_chans, encoder, scanned_stages(config))
        self.decoder = Decoder(plan, config.num_classes, decoder)
        if config.variant == "bot":
            self.mamba_layer = MambaLayer(plan.features[-1])
        self.apply(_init)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Images (b, in_chans, *spatial) -> logits (b, num_classes, *spatial).

        In training with deep supervision a list of them, highest resolution first, each of spatial / (product of the
        strides so far), rounded up.

        Raises:
            ShapeError: another number of axes or channels, or not the plan's patch where a stage scans channels.
        """
        if self.training and self.config.plan.deep_supervision:
            return self.forward_scales(x)
        return self._forward(x, every=False)[0]

    def forward_scales(self, x: Tensor) -> list[Tensor]:
        """Images (b, in_chans, *spatial) -> logits of every stage of the decoder, highest resolution first."""
        return self._forward(x, every=True)

    def _forward(self, x: Tensor, every: bool) -> list[Tensor]:
        plan = self.config.plan
        if x.ndim != plan.dims + 2 or x.shape[1] != self.config.in_chans:
            axes = "b, c={}, h, w" if plan.dims == 2 else "b, c={}, d, h, w"
            raise ShapeError(f"U-Mamba: images must be ({axes.format(self.config.in_chans)}), got {tuple(x.shape)}")
        size = x.shape[2:]
        maps = self.encoder(padded(x, plan.divisor))
        if self.config.variant == "bot":
            maps[-1] = self.mamba_layer(maps[-1])
        return [_cropped(logits, size, plan, i) for i, logits in enumerate(self.decoder(maps, every))]

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay would pull away from their meaning."""
        return {name for name, _ in self.named_parameters() if name.endswith((".A_log", ".D"))}


def depths(plan: Plan) -> tuple[list[int], list[int]]:
    """Blocks of every encoder and decoder stage: the plan's, but 1 in the lower half and in the decoder's upper half.

    The original lowers them so, to pay for its Mamba layers; the baseline does as well.
    """
    n = plan.n_stages
    encoder = [depth if s < (n + 1) // 2 else 1 for s, depth in enumerate(plan.n_conv_encoder)]
    decoder = [depth if s < (n + 1) // 2 else 1 for s, depth in enumerate(plan.n_conv_decoder)]
    return encoder, decoder


def scanned_stages(config: UMambaConfig) -> list[bool]:
    """Behind which stages of the encoder a Mamba layer stands."""
    stages = config.plan.n_stages
    every = 2 if config.plan.dims == 2 else 1
    return [config.variant == "enc" and (stages - 1 - s) % every == 0 for s in range(stages)]


def padded(x: Tensor, divisor: tuple[int, ...]) -> Tensor:
    """x with its last values along every axis repeated, up to multiples of `divisor`."""
    missing = [-size % step for size, step in zip(x.shape[2:], divisor, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, [n for more in reversed(missing) for n in (0, more)], mode="replicate")


def _cropped(logits: Tensor, size: torch.Size, plan: Plan, scale: int) -> Tensor:
    """The logits of the stage `scale` without what stands over the padding."""
    for axis, n in enumerate(size):
        for stride in plan.strides[: scale + 1]:
            n = -(-n // stride[axis])
        logits = logits.narrow(axis + 2, 0, n)
    return logits


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# By the names of `models.segmentation`: the variant.
CONFIGS: dict[str, dict[str, Any]] = {
    "umamba_bot": {"variant": "bot"},
    "umamba_enc": {"variant": "enc"},
    "residual_unet": {"variant": "plain"},
}
