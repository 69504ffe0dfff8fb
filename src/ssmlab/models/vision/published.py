"""What every published vision network shares: timm's interface, and how weights of the original are loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssmlab.core.checks import check_shapes
from ssmlab.core.errors import ModelError
from ssmlab.models.vision.pooling import Pooled
from ssmlab.models.weights import fit, read_state_dict, warn_once
from ssmlab.nn import Blocks, Linear

LAYOUTS = ("NCHW", "NHWC")
IMAGENET: dict[str, Any] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
}


class PublishedModel(Pooled, nn.Module, ABC):
    """A hierarchy of stages with a classifier behind it, whose weights others have published.

    A child sets these class attributes:

    family: its module under `ssmlab.checkpoints.upstream`, which holds the map of old parameter names.
    source: where the weights can be downloaded.
    preprocessing: mean, std, crop_pct and interpolation that belong to the weights.
    classifier_path, stem_path, norm_path, stages_path: dotted names of the last layer, of the first convolution, of
        the norm after the last stage (None where there is none), and of the list of stages.
    undecayed: last parts of the names of parameters that weight decay would pull away from their meaning.

    Its constructor calls this one, sets `num_features` and `feature_info` (timm's: num_chs, reduction and module for
    every map of `feature_maps`, module a name that is there), and calls `load` at the end.

    Args:
        config: the child's frozen dataclass, with num_classes, image_size and in_chans.
        pretrained: refused; `create_model` fetches what is published, and gives it as a file.
    Raises:
        ModelError: pretrained weights are wanted of a network for which none are published.
    """

    family: ClassVar[str]
    source: ClassVar[str]
    preprocessing: ClassVar[dict[str, Any]]
    classifier_path: ClassVar[str] = "head"
    stem_path: ClassVar[str] = "patch_embed.proj"
    norm_path: ClassVar[str | None] = None
    stages_path: ClassVar[str] = "layers"
    undecayed: ClassVar[tuple[str, ...]] = ()

    config: Any
    num_features: int
    feature_info: list[dict[str, Any]]

    def __init__(self, config: Any, *, pretrained: bool = False):
        super().__init__()
        self.config = config
        if pretrained:
            raise ModelError(
                f"no program can fetch weights of this {self.family}; download them from {self.source} and give "
                "weights=FILE"
            )

    @abstractmethod
    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Images (b, in_chans, h, w) -> one map after another, each computed when it is asked for.

        They have the layout that the network works in. The last one is the input of the last norm.
        """

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> the last map after the last norm, in the layout that the network works in."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` returns -> logits (b, num_classes), or the input of the last layer before them."""

    def to_nchw(self, x: Tensor) -> Tensor:
        """A map in the layout of the network -> (b, c, h, w), without a copy where that is possible."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> logits (b, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Images (b, in_chans, h, w) -> the feature maps, and behind them what `forward_features` returns.

        Args:
            indices: which maps; None takes all, a number the last ones.
            norm: whether the last map goes through the last norm.
            stop_early: compute nothing behind the last map that is asked for; the final features are then its own.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the maps alone.
        Returns:
            (features, maps), or maps.
        Raises:
            ModelError: an index is out of range, or the format is unknown.
        """
        if output_fmt not in LAYOUTS:
            raise ModelError(f"output_fmt must be one of {', '.join(LAYOUTS)}, got {output_fmt!r}")
        taken = taken_indices(len(self.feature_info), indices)
        maps: list[Tensor] = []
        for i, found in enumerate(self.feature_maps(x)):
            normed = self.final_norm(found) if i == len(self.feature_info) - 1 else found
            if i in taken:
                feature = self.to_nchw(normed if norm else found)
                maps.append(feature if output_fmt == "NCHW" else feature.permute(0, 2, 3, 1))
            if i == max(taken) and (stop_early or intermediates_only):
                break
        return maps if intermediates_only else (normed, maps)

    def final_norm(self, x: Tensor) -> Tensor:
        """The norm behind the last stage; the identity where the network has none."""
        return x if self.norm_path is None else self.get_submodule(self.norm_path)(x)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the feature maps `indices` do not need; their indices counted from the front are returned."""
        taken = taken_indices(len(self.feature_info), indices)
        whole = max(taken) == len(self.feature_info) - 1
        self.keep_stages(max(taken) + 1)
        if self.norm_path is not None and (prune_norm or not whole):
            self.set_submodule(self.norm_path, nn.Identity())
        if prune_head or not whole:
            self.reset_classifier(0)
        return taken

    def keep_stages(self, count: int) -> None:
        """Drop the stages behind the first `count`, and the last one's reduction, whose output nobody reads then."""
        stages = self.get_submodule(self.stages_path)
        assert isinstance(stages, nn.ModuleList)
        self.set_submodule(self.stages_path, stages[:count])
        if count < len(stages):
            stages[count - 1].downsample = nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.classifier_path)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for other classes; 0 leaves it out. `global_pool`: "avg", "" for none, None as it is.

        Raises:
            ModelError: there is no such pooling.
        """
        self.set_pooling(global_pool)
        parameter = next(self.parameters())
        self.set_submodule(self.classifier_path, last_layer(self.num_features, num_classes).to(parameter))
        self.config = replace(self.config, num_classes=num_classes)

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def head_hidden_size(self) -> int:
        return self.num_features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks a second time in the backward pass instead of keeping what they computed."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's regular expressions that sort parameters by depth, for learning rates that decay with it."""
        if coarse:
            return {"stem": r"^patch_embed", "blocks": rf"^{self.stages_path}\.(\d+)"}
        blocks = [
            (rf"^{self.stages_path}\.(\d+)\.downsample", (0,)),
            (rf"^{self.stages_path}\.(\d+)\.\w+\.(\d+)", None),
        ]
        if self.norm_path is not None:
            blocks.append(("^" + self.norm_path.replace(".", r"\."), (99999,)))
        return {"stem": r"^patch_embed", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must spare, besides vectors (read by timm's optimisers)."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in self.undecayed}

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's description of the model."""
        config = self.config
        return {
            "architecture": getattr(self, "registry_name", self.family),
            "num_classes": config.num_classes,
            "input_size": (config.in_chans, config.image_size, config.image_size),
            "pool_size": None,
            "fixed_input_size": False,
            **self.preprocessing,
            "first_conv": self.stem_path,
            "classifier": self.classifier_path,
            "origin_url": self.source,
        }

    pretrained_cfg = default_cfg

    def load(self, weights: Path | None, *, exact: bool = False) -> None:
        """Fill the network from a file, by the original's names, old ones included; nothing happens for None.

        A classifier for other classes starts anew, unless the file shall fit exactly. Weights for images with three
        channels are adapted to others.

        Raises:
            ModelError: there is no such file, or names and shapes disagree, all of them listed.
        """
        if weights is None:
            return
        # the maps stand a floor above, beside everything else about checkpoints; only a file needs them
        upstream = import_module(f"ssmlab.checkpoints.upstream.{self.family}")
        state = import_module("ssmlab.checkpoints").convert(read_state_dict(weights), upstream.RULES)
        stem = f"{self.stem_path}.weight"
        if stem in state and state[stem].shape[1] == 3 != self.config.in_chans:
            from timm.models import adapt_input_conv

            state[stem] = adapt_input_conv(self.config.in_chans, state[stem])
        if self.num_classes == 0:
            state = {key: value for key, value in state.items() if not key.startswith(f"{self.classifier_path}.")}
        fit(self, state, str(weights), replaceable=None if exact else self.classifier_path)
        if weights.with_name("preprocess.json").is_file():  # trained here: said at its start
            return
        use = ", not for commercial use" if "-NC" in upstream.LICENSE else ""
        warn_once(f"{weights}: the published weights of {self.family} are under {upstream.LICENSE}{use}")


def taken_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Which of `count` maps are meant: None all, a number the last ones, else themselves, negative from the end.

    Raises:
        ModelError: there are fewer maps.
    """
    if indices is None:
        return list(range(count))
    asked = range(count - indices, count) if isinstance(indices, int) else indices
    taken = [i + count if i < 0 and not isinstance(indices, int) else i for i in asked]
    if not taken or min(taken) < 0 or max(taken) >= count:
        raise ModelError(f"there are {count} feature maps, got indices={indices}")
    return taken


def last_layer(in_features: int, num_classes: int) -> nn.Module:
    """A linear classifier with the initial values that these networks share; the identity for no classes."""
    if num_classes == 0:
        return nn.Identity()
    layer = Linear(in_features, num_classes)
    init_linear(layer)
    return layer


@torch.no_grad()
def init_linear(module: nn.Module) -> None:
    """Truncated normal of 0.02 for the weights of a linear layer, zero for its bias; nothing for other modules."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def channels_last(x: Tensor, in_chans: int) -> Tensor:
    """Images (b, in_chans, h, w) with their channels last in memory, so that no later map has to be turned.

    Raises:
        ShapeError: the channels are others.
    """
    check_shapes("images", x=(x, f"b {in_chans} h w"))
    return x.contiguous(memory_format=torch.channels_last)


def sizes_tuple(config: Any, *names: str) -> None:
    """Make tuples of fields that were read from JSON as lists, so that equal configs are equal."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, (tuple, list)):
            raise ModelError(f"{name} must be a list with one number a stage, got {value!r}")
        object.__setattr__(config, name, tuple(value))


def check_vision_config(config: Any, positive: Sequence[str] = ()) -> None:
    """Refuse sizes that make no network; `positive` names further fields that must be at least 1.

    Raises:
        ModelError: a field is out of its range.
    """
    for name in ("image_size", "in_chans", *positive):
        values = getattr(config, name)
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if value < 1:
                raise ModelError(f"{name} must be at least 1, got {values}")
    if config.num_classes < 0:
        raise ModelError(f"num_classes must not be negative, got {config.num_classes}")
    if not 0 <= config.drop_path_rate < 1:
        raise ModelError(f"drop_path_rate must be in [0, 1), got {config.drop_path_rate}")
    if not 0 <= getattr(config, "residual_dropout", 0.0) < 1:
        raise ModelError(f"residual_dropout must be in [0, 1), got {config.residual_dropout}")
