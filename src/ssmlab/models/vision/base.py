"""timm's interface, which scripts for training and fine-tuning expect of every vision model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ssmlab.models.vision.pooling import Pooled
from ssmlab.nn import ClassifierHead


class VisionModel(Pooled, nn.Module, ABC):
    """A classifier made of a timm backbone, something that reads its feature maps, and a `ClassifierHead`.

    A child sets these, and defines `forward_features` and `forward_head`:

    config: its frozen dataclass, with num_classes, image_size, in_chans, backbone and head_hidden.
    backbone: the timm network. head: the classifier. num_features: channels of the features that the head takes.
    num_tokens: length of the sequence that is scanned at the configured image size, None where nothing is.
    """

    config: Any
    backbone: Any
    head: ClassifierHead
    num_features: int
    num_tokens: int | None = None

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> features."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features -> logits (b, num_classes), or the hidden features (b, head_hidden_size) before them."""

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, h, w) -> logits (b, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for other classes; 0 leaves it out. `global_pool`: "avg", "" for none, None as it is.

        Raises:
            ModelError: there is no such pooling.
        """
        self.set_pooling(global_pool)
        self.config = replace(self.config, num_classes=num_classes)
        self.head.reset(num_classes)

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def head_hidden_size(self) -> int:
        return self.config.head_hidden

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's description of a model: mean, std and interpolation of the backbone, and the sizes of this one."""
        config = self.config
        return dict(self.backbone.default_cfg) | {
            "architecture": config.backbone,
            "num_classes": config.num_classes,
            "input_size": (config.in_chans, config.image_size, config.image_size),
            "pool_size": None,
            "first_conv": None,
            "classifier": "head.classifier",
        }

    pretrained_cfg = default_cfg
