"""U-Mamba: a residual U-Net with Mamba layers, in 2-D and 3-D, built from a plan; and the same network without them.

Source: Ma, Li and Wang 2024 (arXiv:2401.04722), figure 1. Names and the choices that the paper leaves open are those of
the original code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models.entry import Preset
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Original, Rule, convert
from ssmlab.models.segmentation.plans import Plan, plan_from
from ssmlab.models.segmentation.umamba_parts import SLOPE, Decoder, Encoder, MambaLayer
from ssmlab.models.weights import UNREADABLE, fit, numpy_numbers, one_line

VARIANTS = ("bot", "enc", "plain")


@dataclass(frozen=True, kw_only=True)
class UMambaConfig:
    """What a U-Mamba is built from.

    plan: sizes of the stages; a table of them is turned into a `Plan`.
    num_classes: logits of a position, the background's included.
    in_chans: channels of the images.
    variant: "bot" has one Mamba layer after the lowest stage; "enc" has one after every stage of the encoder, in 2-D
        after every second, the lowest among them; "plain" has none: the baseline of the same plan.
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

    Any size goes in: images are padded after their last row and column with their edge's values to a multiple of the
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
        scales = []
        for logits, sizes in zip(self.decoder(maps, every), self._sizes(size), strict=False):
            for axis, n in enumerate(sizes):  # without what lies over the padding
                logits = logits.narrow(axis + 2, 0, n)
            scales.append(logits)
        return scales

    def scale_sizes(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """The sizes of the logits in training, of images of a size."""
        return self._sizes(size) if self.config.plan.deep_supervision else [tuple(size)]

    def _sizes(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """Of every stage of the decoder, the highest resolution first."""
        sizes, now = [], tuple(size)
        for stride in self.config.plan.strides[:-1]:
            now = tuple(-(-n // step) for n, step in zip(now, stride, strict=True))
            sizes.append(now)
        return sizes

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
    """After which stages of the encoder a Mamba layer is."""
    stages = config.plan.n_stages
    every = 2 if config.plan.dims == 2 else 1
    return [config.variant == "enc" and (stages - 1 - s) % every == 0 for s in range(stages)]


def padded(x: Tensor, divisor: tuple[int, ...]) -> Tensor:
    """x with its last values along every axis repeated, up to multiples of `divisor`."""
    missing = [-size % step for size, step in zip(x.shape[2:], divisor, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, [n for more in reversed(missing) for n in (0, more)], mode="replicate")


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


CONFIGS = {
    "umamba_bot": Preset(UMamba, UMambaConfig, {"variant": "bot"}),
    "umamba_enc": Preset(UMamba, UMambaConfig, {"variant": "enc"}),
    "residual_unet": Preset(UMamba, UMambaConfig, {"variant": "plain"}),
}

# The original's modules hold one another, so that its state_dict has most tensors twice or four times.
RULES = [
    Rule(r"(?:decoder\.(?=encoder\.))?(.*)\.all_modules\.0\.(.*)", r"\1.conv.\2", alias=True),
    Rule(r"(?:decoder\.(?=encoder\.))?(.*)\.all_modules\.1\.(.*)", r"\1.norm.\2", alias=True),
    Rule(r"decoder\.(encoder\..*)", r"\1", alias=True),
]

# The original's classes and its trainers', whose names begin so.
NETWORKS = {"UMambaBot": "umamba_bot", "UMambaEnc": "umamba_enc"}
FIXED = ("dynamic_network_architectures",)


def from_arguments(config: dict[str, Any]) -> nn.Module:
    """The network for a configuration of nnU-Net's plans, with the class's name as `network`, the number of channels
    as `num_input_channels` and of logits as `num_segmentation_heads`.

    Raises:
        ModelError: another network, or sizes that make none.
    """
    rest = {name: value for name, value in config.items() if name not in FIXED}
    try:
        network, in_chans, classes = (
            rest.pop(name) for name in ("network", "num_input_channels", "num_segmentation_heads")
        )
    except KeyError as error:
        raise ModelError(f"umamba: the configuration has no {error.args[0]}") from error
    plan = plan_from(rest)
    name, _, dims = str(network).partition("_")
    if name not in NETWORKS or dims not in ("", f"{plan.dims}d"):
        raise ModelError(f"umamba: network {network!r} for a plan in {plan.dims}-D; known are {', '.join(NETWORKS)}")
    return create_model(NETWORKS[name], plan=plan, num_classes=classes, in_chans=in_chans)


def from_trainer(path: str | Path, configuration: str | None = None) -> nn.Module:
    """The network in a checkpoint of nnU-Net's trainer for U-Mamba, `checkpoint_final.pth`, in evaluation mode.

    The file holds the plans and the name of the trainer. It is read without running code that it holds.

    Args:
        configuration: of the plans; None takes the one that the file names.
    Raises:
        ModelError: no such file, one of another trainer, one that holds code, or weights that do not fit the plans.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}")
    try:
        # nnU-Net logs numbers of numpy, which `weights_only` refuses unless they are named: they are values, not code
        with torch.serialization.safe_globals(numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ModelError(f"{path} holds code, or is no file of PyTorch: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no checkpoint of nnU-Net's trainers, it holds {type(content).__name__}")
    try:
        weights, arguments, trainer = (content[name] for name in ("network_weights", "init_args", "trainer_name"))
        plan = plan_from(arguments["plans"], configuration or arguments["configuration"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is no checkpoint of nnU-Net's trainers: {error} is missing") from error
    found = [name for name in NETWORKS if name in trainer]
    if not found:
        raise ModelError(f"{path} was written by {trainer}; known are trainers of {', '.join(NETWORKS)}")
    state = {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in weights.items()}
    try:
        in_chans = state["encoder.stem.0.conv1.weight"].shape[1]
        classes = state["decoder.seg_layers.0.weight"].shape[0]
    except KeyError as error:
        raise ModelError(f"{path} has no weight {error}, so it is not of U-Mamba") from error
    model = create_model(NETWORKS[found[0]], plan=plan, num_classes=classes, in_chans=in_chans)
    fit(model, convert(state, RULES), str(path))
    return model.eval()


ORIGINALS = {
    "umamba": Original(licence="Apache-2.0 (bowang-lab/U-Mamba)", build=from_arguments, rules=RULES),
}
