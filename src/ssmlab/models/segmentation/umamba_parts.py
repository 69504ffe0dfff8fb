"""Parts of U-Mamba: residual blocks, the Mamba layer over a map, encoder and decoder. Names are the original's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ShapeError
from ssmlab.models.segmentation.plans import Axes, Plan
from ssmlab.nn import Mamba
from ssmlab.ops._torch import full_precision

SLOPE = 0.01  # of LeakyReLU


def conv(dims: int, in_chans: int, out_chans: int, kernel: Axes, stride: Axes | None = None) -> Any:
    """A convolution in 2-D or 3-D that keeps the size of a map, or divides it by the stride."""
    kind: Any = nn.Conv2d if dims == 2 else nn.Conv3d
    padding = tuple(size // 2 for size in kernel)
    return kind(in_chans, out_chans, kernel, stride or (1,) * dims, padding)


def instance_norm(dims: int, channels: int) -> nn.Module:
    """Every channel of every image to mean 0 and variance 1, then a learned scale and shift."""
    return (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(channels, affine=True)


class ResBlock(nn.Module):
    """Two convolutions with norms, and a 1 x 1 convolution around both: changes channels and resolution."""

    def __init__(self, dims: int, in_chans: int, channels: int, kernel: Axes, stride: Axes | None = None):
        super().__init__()
        self.conv1 = conv(dims, in_chans, channels, kernel, stride)
        self.norm1 = instance_norm(dims, channels)
        self.conv2 = conv(dims, channels, channels, kernel)
        self.norm2 = instance_norm(dims, channels)
        self.conv3 = conv(dims, in_chans, channels, (1,) * dims, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_chans, *spatial) -> (b, channels, *spatial / stride)."""
        y = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE, inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.conv3(x)
        return F.leaky_relu(y, SLOPE, inplace=True)


class ConvNorm(nn.Module):
    """A convolution and its norm."""

    def __init__(self, dims: int, channels: int, kernel: Axes):
        super().__init__()
        self.conv = conv(dims, channels, channels, kernel)
        self.norm = instance_norm(dims, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, channels, *spatial) -> the same shape."""
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """Two convolutions with norms, and the identity around both."""

    def __init__(self, dims: int, channels: int, kernel: Axes):
        super().__init__()
        self.conv1 = ConvNorm(dims, channels, kernel)
        self.conv2 = ConvNorm(dims, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, channels, *spatial) -> the same shape."""
        y = F.leaky_relu(self.conv1(x), SLOPE, inplace=True)
        y = self.conv2(y)
        y += x
        return F.leaky_relu(y, SLOPE, inplace=True)


def blocks(
    dims: int, in_chans: int, channels: int, kernel: Axes, stride: Axes | None = None, *, depth: int
) -> nn.Sequential:
    """A `ResBlock`, then `BasicBlock`s up to `depth`."""
    rest = [BasicBlock(dims, channels, kernel) for _ in range(depth - 1)]
    return nn.Sequential(ResBlock(dims, in_chans, channels, kernel, stride), *rest)


class MambaLayer(nn.Module):
    """LayerNorm and Mamba over a map's positions in row-major order; its output replaces the map, nothing is added.

    Source: Ma, Li and Wang 2024 (U-Mamba, arXiv:2401.04722), figure 1. Computed in the dtype of its own parameters,
    float32 as a rule, also under autocast: the scan overflows in half precisions.

    Args:
        channels: of the map.
        positions: given, channels are the tokens and the map's positions their values, so that only maps of that many
            positions go through. The original does so where a map has no more positions than channels.
    """

    def __init__(self, channels: int, positions: int | None = None):
        super().__init__()
        self.positions = positions
        width = channels if positions is None else positions
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, channels, *spatial) -> the same shape, in the dtype of the parameters.

        Raises:
            ShapeError: channels are tokens and the map has another number of positions.
        """
        tokens = x.flatten(2)
        if self.positions is None:
            tokens = tokens.mT
        elif tokens.shape[2] != self.positions:
            raise ShapeError(
                f"U-Mamba: this stage scans channels over a map of {self.positions} positions and got "
                f"{tuple(x.shape[2:])}; give patches of the plan's patch_size (tasks.sliding cuts images into them)"
            )
        with full_precision(tokens):
            y, _ = self.mamba(self.norm(tokens.to(self.norm.weight.dtype)))
        y = y.mT if self.positions is None else y
        return y.reshape(x.shape)


class Encoder(nn.Module):
    """A stem and stages of residual blocks, every stage followed by a Mamba layer where `mamba` says so."""

    def __init__(self, plan: Plan, in_chans: int, depths: list[int], mamba: list[bool]):
        super().__init__()
        dims, kernels, widths = plan.dims, plan.kernel_sizes, plan.features
        self.stem = blocks(dims, in_chans, widths[0], kernels[0], depth=depths[0])
        inputs = (widths[0], *widths)
        self.stages = nn.ModuleList(
            blocks(dims, inputs[s], widths[s], kernels[s], plan.strides[s], depth=depths[s])
            for s in range(plan.n_stages)
        )
        self.mamba_layers = nn.ModuleList()
        for channels, size, scanned in zip(plan.features, plan.map_sizes(), mamba, strict=True):
            positions = torch.Size(size).numel()  # they are scanned, or the channels where these are at least as many
            layer = MambaLayer(channels, positions if positions <= channels else None) if scanned else nn.Identity()
            self.mamba_layers.append(layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (b, in_chans, *spatial) -> the map of every stage, highest resolution first."""
        x, maps = self.stem(x), []
        for stage, mamba in zip(self.stages, self.mamba_layers, strict=True):
            x = mamba(stage(x))
            maps.append(x)
        return maps


class Upsample(nn.Module):
    """A 1 x 1 convolution and every position repeated; the original repeats first, which is the same and dearer."""

    def __init__(self, dims: int, in_chans: int, channels: int, stride: Axes):
        super().__init__()
        self.conv = conv(dims, in_chans, channels, (1,) * dims)
        self.factor = [float(step) for step in stride]

    def forward(self, x: Tensor) -> Tensor:
        """x (b, in_chans, *spatial) -> (b, channels, *spatial * stride)."""
        return F.interpolate(self.conv(x), scale_factor=self.factor, mode="nearest")


class Decoder(nn.Module):
    """From the lowest map upwards; a stage's input is (upsampled, skip), in 2-D the last one's has no skip."""

    def __init__(self, plan: Plan, num_classes: int, depths: list[int]):
        super().__init__()
        dims, widths = plan.dims, plan.features
        upsamples, stages, heads = [], [], []
        for depth, s in zip(depths, range(plan.n_stages - 2, -1, -1), strict=True):
            upsamples.append(Upsample(dims, widths[s + 1], widths[s], plan.strides[s + 1]))
            inputs = widths[s] if dims == 2 and s == 0 else 2 * widths[s]
            stages.append(blocks(dims, inputs, widths[s], plan.kernel_sizes[s], depth=depth))
            heads.append(conv(dims, widths[s], num_classes, (1,) * dims))
        self.stages = nn.ModuleList(stages)
        self.upsample_layers = nn.ModuleList(upsamples)
        self.seg_layers = nn.ModuleList(heads)
        self.last_skip = dims == 3

    def forward(self, maps: list[Tensor], every: bool) -> list[Tensor]:
        """Maps of the encoder -> logits (b, num_classes, *spatial), highest resolution first: all, or the first."""
        x, last, logits = maps[-1], len(self.stages) - 1, []
        for s, (upsample, stage, head) in enumerate(
            zip(self.upsample_layers, self.stages, self.seg_layers, strict=True)
        ):
            x = upsample(x)
            if s < last or self.last_skip:
                x = torch.cat((x, maps[-s - 2].to(x.dtype)), 1)
            x = stage(x)
            if every or s == last:
                logits.append(head(x))
        return logits[::-1]
