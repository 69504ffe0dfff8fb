"""The base of every vision model: timm's interface, loading of weights, and what explanations ask of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.rules import Rule, convert
from ssmlab.models.vision.maps import CHANNELS_FIRST, CHANNELS_LAST, MapLayer, TokenGrid
from ssmlab.models.vision.parts import last_layer
from ssmlab.models.weights import fit, read_state_dict, warn_once
from ssmlab.nn import Blocks

LAYOUTS = ("NCHW", "NHWC")
POOLINGS = ("avg", "")


class VisionModel(nn.Module, ABC):
    """A classifier of images with timm's interface, which scripts for training and fine-tuning expect.

    A family sets these class attributes:

    family: its name in the table of models.
    source, licence, rules: of published weights of the whole network: where they can be downloaded, their licence, and
        the map from the original's names.
    preprocessing: mean, std, crop_pct and interpolation that belong to the weights.
    classifier_path, stem_path, norm_path, stages_path: dotted names of the last layer, of the first convolution, of
        the norm after the last stage (None where there is none), and of the list of stages.
    stem_pattern: regular expression of the parameters before the stages.
    undecayed: last parts of the names of parameters that weight decay would pull away from their meaning.
    isotropic: whether all stages have one width, so that the last norm fits every map; a pyramid if not.
    channel_first: whether maps are (b, c, h, w) in the network, (b, h, w, c) if not.

    Its constructor calls this one, sets `num_features` and `feature_info` (timm's: num_chs, reduction and module for
    every map of `feature_maps`, module a name that is there; empty where there are no such maps), and calls `load` at
    the end.

    pooling: "avg", the mean over positions, or "" for a head that works on every position: `forward_head` then keeps
        the layout of what `forward_features` returns, channels last.
    num_tokens: length of the sequence that is scanned at the configured image size, where there is one.

    Args:
        config: the family's frozen dataclass, with num_classes, image_size and in_chans.
        pretrained: refused; `create_model` fetches what is published, and gives it as a file.
    Raises:
        ModelError: pretrained weights are wanted of a network for which none are published.
    """

    family: ClassVar[str]
    source: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    rules: ClassVar[Sequence[Rule]] = ()
    preprocessing: Mapping[str, Any]
    classifier_path: ClassVar[str] = "head"
    stem_path: ClassVar[str | None] = "patch_embed.proj"
    norm_path: ClassVar[str | None] = None
    stages_path: ClassVar[str] = "layers"
    stem_pattern: ClassVar[str] = r"^patch_embed"
    undecayed: ClassVar[tuple[str, ...]] = ()
    isotropic: ClassVar[bool] = False
    channel_first: bool = True

    config: Any
    num_features: int
    feature_info: Sequence[dict[str, Any]] = ()
    num_tokens: int | None = None
    pooling: str = "avg"
    grad_checkpointing: bool = False

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
        """Images (b, in_chans, h, w) -> one map after another, each computed when it is needed.

        They have the layout that the network works in. The last one is the input of the last norm.
        """

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> the last map after the last norm, in the layout that the network works in."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` returns -> logits (b, num_classes), or the input of the last layer before them."""

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> logits (b, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def to_nchw(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """A map in the layout of the network, of images of `size`, -> (b, c, h, w), without a copy where possible."""
        return x if self.channel_first else x.permute(0, 3, 1, 2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Images (b, in_chans, h, w) -> the feature maps, and before them what `forward_features` returns.

        Args:
            indices: which maps; None takes all, a number the last ones.
            norm: whether maps go through the last norm, in a pyramid only the last one.
            stop_early: compute nothing after the last map of `indices`; the final features are then its own.
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
            fits = self.isotropic or i == len(self.feature_info) - 1
            normed = self.final_norm(found) if fits else found
            if i in taken:
                feature = self.to_nchw(normed if norm else found, (x.shape[-2], x.shape[-1]))
                maps.append(feature if output_fmt == "NCHW" else feature.permute(0, 2, 3, 1))
            if i == max(taken) and (stop_early or intermediates_only):
                break
        return maps if intermediates_only else (normed, maps)

    def final_norm(self, x: Tensor) -> Tensor:
        """The norm after the last stage, of what may have a wider dtype than it; the identity where there is none."""
        if self.norm_path is None:
            return x
        norm = self.get_submodule(self.norm_path)
        return norm(x.to(next(norm.parameters(), x).dtype))

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the feature maps `indices` do not need; their indices counted from the front are returned.

        The last stage that stays loses its reduction too, whose output would not be read.
        """
        taken = taken_indices(len(self.feature_info), indices)
        count = max(taken) + 1
        whole = count == len(self.feature_info)
        stages = self.get_submodule(self.stages_path)
        assert isinstance(stages, nn.ModuleList)
        self.set_submodule(self.stages_path, stages[:count])
        if not (whole or self.isotropic):
            stages[count - 1].downsample = nn.Identity()
        if self.norm_path is not None and (prune_norm or not (whole or self.isotropic)):
            self.set_submodule(self.norm_path, nn.Identity())
        if prune_head or not whole:
            self.reset_classifier(0)
        return taken

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.classifier_path)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for other classes; 0 leaves it out. `global_pool`: "avg", "" for none, None as it is.

        Raises:
            ModelError: there is no such pooling.
        """
        self.set_pooling(global_pool)
        self.set_submodule(self.classifier_path, self.new_classifier(num_classes).to(next(self.parameters())))
        self.config = replace(self.config, num_classes=num_classes)

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A last layer with initial values; the identity for no classes."""
        return last_layer(self.head_hidden_size, num_classes)

    def set_pooling(self, global_pool: str | None) -> None:
        """Choose the pooling; None leaves it.

        Raises:
            ModelError: it is neither the mean nor none.
        """
        if global_pool is None:
            return
        if global_pool not in POOLINGS:
            raise ModelError(
                f"{type(self).__name__} averages over positions (global_pool='avg') or leaves them ('');"
                f" global_pool={global_pool!r} is not there, take the map from forward_features"
            )
        self.pooling = global_pool

    def pooled(self, x: Tensor, *axes: int) -> Tensor:
        """The mean over these axes, where there is one; without, the channels are last."""
        if self.pooling == "avg":
            return x.mean(axes)
        return x if 1 in axes else x.permute(0, *axes, 1)

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def head_hidden_size(self) -> int:
        return self.num_features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks a second time in the backward pass instead of keeping what they computed."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's regular expressions that sort parameters by depth, for learning rates that decay with it."""
        stage = rf"^{self.stages_path}\.(\d+)"
        if coarse and not self.isotropic:
            return {"stem": self.stem_pattern, "blocks": stage}
        blocks: list[tuple[str, tuple[int, ...] | None]]
        blocks = [(rf"{stage}\.downsample", (0,)), (rf"{stage}\.\w+\.(\d+)", None)]
        if self.isotropic:
            blocks = [(stage, None)]
        if self.norm_path is not None:
            blocks.append(("^" + self.norm_path.replace(".", r"\."), (99999,)))
        return {"stem": self.stem_pattern, "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must spare, besides vectors (read by timm's optimisers)."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in self.undecayed}

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's description of the model."""
        config = self.config
        return {
            "architecture": getattr(self, "registry_name", self.family),
            "fixed_input_size": False,
            "origin_url": self.source,
            **self.preprocessing,
            "num_classes": config.num_classes,
            "input_size": (config.in_chans, config.image_size, config.image_size),
            "pool_size": None,
            "first_conv": self.stem_path,
            "classifier": self.classifier_path,
        }

    pretrained_cfg = default_cfg

    def last_map(self) -> MapLayer:
        """The layer for Grad-CAM: the last one with a map after which every position still counts for the classes.

        Of models that read a class token that is the norm before the last mixer, since after it only that token
        counts; of all others the output of the last stage.
        """
        stages = self.get_submodule(self.stages_path)
        assert isinstance(stages, nn.ModuleList)
        layout = CHANNELS_FIRST if self.channel_first else CHANNELS_LAST
        return MapLayer(f"{self.stages_path}.{len(stages) - 1}", layout)

    def final_map(self) -> MapLayer:
        """The last map before the last norm and the pooling, for the receptive field; read it, never replace it."""
        return self.last_map()

    def token_grid(
        self, shape: tuple[int, ...], outputs: Mapping[nn.Module, Any], length: int, device: Any
    ) -> TokenGrid | None:
        """Where the tokens of a one-dimensional scan inside this module lie; None where they lie nowhere.

        A part of a network may have this method too; of nested modules the innermost answer counts.

        Args:
            shape: of the module's first input.
            outputs: the last output of modules that have finished.
            length: tokens of the scan.
        """
        return None

    def load(self, weights: Path | None, *, exact: bool = False) -> None:
        """Fill the network from a file, by the original's names, old ones included; nothing happens for None.

        A classifier for other classes starts anew, unless the file shall fit exactly. Weights for images of another
        number of channels or size are adapted.

        Raises:
            ModelError: there is no such file, or names and shapes disagree, all of them listed.
        """
        if weights is None:
            return
        state = self.adapted(convert(read_state_dict(weights), self.rules))
        if self.num_classes == 0:
            state = {key: value for key, value in state.items() if not key.startswith(f"{self.classifier_path}.")}
        fit(self, state, str(weights), replaceable=None if exact else self.classifier_path)
        if weights.with_name("preprocess.json").is_file():  # trained here: reported when it was
            return
        use = ", not for commercial use" if "-NC" in self.licence else ""
        warn_once(f"{weights}: the published weights of {self.family} are under {self.licence}{use}")

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights by our names, made fit for images of another number of channels or size than they were trained on."""
        stem = f"{self.stem_path}.weight"
        if stem in state and state[stem].shape[1] == 3 != self.config.in_chans:
            from timm.models import adapt_input_conv

            state = state | {stem: adapt_input_conv(self.config.in_chans, state[stem])}
        return state


def taken_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Which of `count` maps are meant: None all, a number the last ones, else themselves, negative from the end.

    Raises:
        ModelError: there are fewer maps.
    """
    if indices is None:
        return list(range(count))
    wanted = range(count - indices, count) if isinstance(indices, int) else indices
    taken = [i + count if i < 0 and not isinstance(indices, int) else i for i in wanted]
    if not taken or min(taken) < 0 or max(taken) >= count:
        raise ModelError(f"there are {count} feature maps, got indices={indices}")
    return taken
