"""nnU-Net's residual-encoder U-Net, in 2-D and 3-D, built from a plan: the baseline that reviewers ask for.

Source: Isensee et al. 2024 (nnU-Net Revisited, arXiv:2404.09556), section 2 and appendix; blocks of ResNet-D, He et al.
2019 (arXiv:1812.01187). Names of the parameters are the original's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ShapeError
from ssmlab.models.entry import Preset
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Original, Rule
from ssmlab.models.segmentation.plans import RESENC_BLOCKS, Axes, plan_from
from ssmlab.models.segmentation.umamba import UMambaConfig, padded
from ssmlab.models.segmentation.umamba_parts import SLOPE, conv, instance_norm


class ConvBlock(nn.Module):
    """A convolution, its norm, and a leaky ReLU where it is `active`."""

    def __init__(
        self, dims: int, in_chans: int, channels: int, kernel: Axes, stride: Axes | None = None, *, active: bool = True,
        bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.conv = conv(dims, in_chans, channels, kernel, stride)
        if not bias:
            self.conv.bias = None
        self.norm, self.active = instance_norm(dims, channels), active

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_chans, *spatial) -> (b, channels, *spatial / stride)."""
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, SLOPE, inplace=True) if self.active else x


class Pool(nn.Module):
    """The mean of every cell of a map."""

    def __init__(self, stride: Axes):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c, *spatial) -> (b, c, *spatial / stride)."""
        return (F.avg_pool2d if x.ndim == 4 else F.avg_pool3d)(x, self.stride, self.stride)


class ResidualBlock(nn.Module):
    """Two convolutions; around them the identity, averaged where the map shrinks, projected where channels change."""

    def __init__(self, dims: int, in_chans: int, channels: int, kernel: Axes, stride: Axes):
        super().__init__()
        self.conv1 = ConvBlock(dims, in_chans, channels, kernel, stride)
        self.conv2 = ConvBlock(dims, channels, channels, kernel, active=False)
        steps: list[nn.Module] = [Pool(stride)] if max(stride) > 1 else []
        if in_chans != channels:
            steps.append(ConvBlock(dims, in_chans, channels, (1,) * dims, active=False, bias=False))
        self.skip = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_chans, *spatial) -> (b, channels, *spatial / stride)."""
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), SLOPE, inplace=True)


class Blocks(nn.Module):
    """Residual blocks of one stage; the first one shrinks the map."""

    def __init__(self, dims: int, in_chans: int, channels: int, kernel: Axes, stride: Axes, depth: int):
        super().__init__()
        first = ResidualBlock(dims, in_chans, channels, kernel, stride)
        rest = [ResidualBlock(dims, channels, channels, kernel, (1,) * dims) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_chans, *spatial) -> (b, channels, *spatial / stride)."""
        return self.blocks(x)


class Convs(nn.Module):
    """One convolution with its norm, under the name that the original gives to several."""

    def __init__(self, dims: int, in_chans: int, channels: int, kernel: Axes):
        super().__init__()
        self.convs = nn.Sequential(ConvBlock(dims, in_chans, channels, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_chans, *spatial) -> (b, channels, *spatial)."""
        return self.convs(x)


class ResEncUNet(nn.Module):
    """Images to logits at every position; sizes as of `UMamba`.

    The encoder has 1, 3, 4, 6, 6, ... blocks whatever the plan writes, the decoder one convolution a stage: the plan is
    one for all networks of a comparison.

    Args:
        config: the sizes; of the variants there is "plain".
    """

    def __init__(self, config: UMambaConfig):
        super().__init__()
        self.config, plan = config, config.plan
        dims, widths, kernels = plan.dims, plan.features, plan.kernel_sizes
        transposed: Any = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        stages = range(plan.n_stages)
        upwards = range(plan.n_stages - 2, -1, -1)
        self.encoder: Any = nn.Module()
        self.decoder: Any = nn.Module()
        self.encoder.stem = Convs(dims, config.in_chans, widths[0], kernels[0])
        self.encoder.stages = nn.Sequential(
            *(
                Blocks(dims, widths[max(s - 1, 0)], widths[s], kernels[s], plan.strides[s], RESENC_BLOCKS[min(s, 3)])
                for s in stages
            )
        )
        self.decoder.stages = nn.ModuleList(Convs(dims, 2 * widths[s], widths[s], kernels[s]) for s in upwards)
        self.decoder.transpconvs = nn.ModuleList(
            transposed(widths[s + 1], widths[s], plan.strides[s + 1], plan.strides[s + 1]) for s in upwards
        )
        self.decoder.seg_layers = nn.ModuleList(conv(dims, widths[s], config.num_classes, (1,) * dims) for s in upwards)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, ResidualBlock):  # every block begins as the identity
                nn.init.zeros_(module.conv2.norm.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Images (b, in_chans, *spatial) -> logits (b, num_classes, *spatial), in training a list as of `UMamba`.

        Raises:
            ShapeError: another number of axes or channels.
        """
        every = self.training and self.config.plan.deep_supervision
        found = self._scales(x, every)
        return found if every else found[0]

    def forward_scales(self, x: Tensor) -> list[Tensor]:
        """Images (b, in_chans, *spatial) -> logits of every stage of the decoder, highest resolution first."""
        return self._scales(x, every=True)

    def _scales(self, x: Tensor, every: bool) -> list[Tensor]:
        plan = self.config.plan
        if x.ndim != plan.dims + 2 or x.shape[1] != self.config.in_chans:
            axes = "b, c={}, h, w" if plan.dims == 2 else "b, c={}, d, h, w"
            raise ShapeError(
                f"residual-encoder U-Net: images must be ({axes.format(self.config.in_chans)}), got {tuple(x.shape)}"
            )
        size, maps = x.shape[2:], []  # type: tuple[Any, list[Tensor]]
        y = self.encoder.stem(padded(x, plan.divisor))
        for stage in self.encoder.stages:
            y = stage(y)
            maps.append(y)
        logits, last = [], plan.n_stages - 2
        for s, (up, stage, head) in enumerate(
            zip(self.decoder.transpconvs, self.decoder.stages, self.decoder.seg_layers, strict=True)
        ):
            y = stage(torch.cat((up(y), maps[-s - 2]), 1))
            if every or s == last:
                found = head(y)
                for axis, n in enumerate(size):  # without what lies over the padding
                    for stride in plan.strides[: last - s + 1]:
                        n = -(-n // stride[axis])
                    found = found.narrow(axis + 2, 0, n)
                logits.append(found)
        return logits[::-1]


CONFIGS = {"resenc_unet": Preset(ResEncUNet, UMambaConfig, {"variant": "plain"})}

# The original's modules hold one another, so that its state_dict has most tensors twice or four times.
RULES = [
    Rule(r"(?:decoder\.(?=encoder\.))?(.*)\.all_modules\.0\.(.*)", r"\1.conv.\2", alias=True),
    Rule(r"(?:decoder\.(?=encoder\.))?(.*)\.all_modules\.1\.(.*)", r"\1.norm.\2", alias=True),
    Rule(r"decoder\.(encoder\..*)", r"\1", alias=True),
]


def from_arguments(config: dict[str, Any]) -> nn.Module:
    """The network for a configuration of nnU-Net's plans, with the number of channels as `num_input_channels` and of
    logits as `num_segmentation_heads`."""
    rest = dict(config)
    in_chans, classes = rest.pop("num_input_channels"), rest.pop("num_segmentation_heads")
    return create_model("resenc_unet", plan=plan_from(rest), num_classes=classes, in_chans=in_chans)


ORIGINALS = {
    "resenc_unet": Original(
        licence="Apache-2.0 (MIC-DKFZ/dynamic-network-architectures)", build=from_arguments, rules=RULES
    ),
}
