"""The models of the table as `timm.create_model` builds them. Registering them builds and imports none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.registry import create_model, list_models


def register() -> None:
    """Put the vision models of the table into timm's, except names that timm uses itself."""
    for name in list_models("vision"):
        if not timm.is_model(name):
            timm.models.register_model(_entry(name))


def _entry(name: str) -> Callable[..., nn.Module]:
    def build(
        pretrained: bool = False,
        *,
        num_classes: int = 1000,
        img_size: int | Sequence[int] | None = None,
        in_chans: int = 3,
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        feature_cls: str = "getter",
        global_pool: str | None = None,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: Any = None,
        **options: Any,
    ) -> nn.Module:
        # timm hands the last three to every model; of what they can say only a file of weights means something here
        weights = (pretrained_cfg_overlay or {}).get("file")
        side = img_size if img_size is None or isinstance(img_size, int) else img_size[0]
        if isinstance(img_size, Sequence) and set(img_size) != {side}:
            raise ModelError(
                f"img_size is the side of square images, got {tuple(img_size)}; any size goes through anyway"
            )
        if not options.get("drop_rate"):
            options.pop("drop_rate", None)  # timm's training script gives it to every model, 0 where nobody asked
        model: Any = create_model(
            name,
            num_classes=num_classes,
            image_size=side,
            in_chans=in_chans,
            pretrained=pretrained and weights is None,
            weights=weights,
            **options,
        )
        model.set_pooling(global_pool)
        if not features_only:
            return model
        if feature_cls != "getter":
            raise ModelError(f'feature_cls must be "getter", got {feature_cls!r}')
        if not model.feature_info:
            raise ModelError(f"{name} has no pyramid of feature maps; take its backbone from timm instead")
        from timm.models._features import FeatureGetterNet

        indices = list(range(len(model.feature_info))) if out_indices is None else out_indices
        description = dict(model.default_cfg)
        network = FeatureGetterNet(model, out_indices=indices)
        network.pretrained_cfg = network.default_cfg = description | {"num_classes": 0, "classifier": None}
        return network

    build.__name__, build.__module__ = name, __name__
    return build
