"""What a vision-language model is made of. torch is not imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ssmlab.core.errors import ModelError

FITS = ("crop", "pad", "stretch")
TOKENS = ("patch", "cls_patch", "cls")
TRANSFORMERS = "transformers"  # the name of an encoder or a language model that one of transformers' configs describes


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """An image encoder, its preprocessing, and which of its features are taken.

    name: of a model of images of the table, `timm/<name>`, or "transformers".
    network: options of that model (of ours and timm's), or a configuration of transformers with its model_type:
        clip_vision_model, siglip_vision_model, dinov2 and what else has `hidden_states` of patches.
    layer: negative: after which block, counted from the end (LLaVA takes -2), or which feature map of a pyramid;
        0: what comes out behind all of them, the last norm (or the last convolution) included.
    tokens: patch: without the CLS token and registers; cls_patch: with them; cls: the CLS token alone.
    image_size: side of the square images, in pixels.
    fit: how an image becomes a square: crop: the shorter side fits; pad: filled up with `background` (LLaVA-1.5);
        stretch.
    background: RGB from 0 to 255; () is the mean.
    mean, std: of values from 0 to 1.
    interpolation: bicubic, bilinear, lanczos or nearest.
    processor: configuration of one of transformers' image processors, which then does all of this but `pad`.
    """

    name: str
    network: dict[str, Any] = field(default_factory=dict)
    layer: int = 0
    tokens: str = "patch"
    image_size: int = 224
    fit: str = "crop"
    background: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    processor: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("mean", "std", "background"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, where they were read from a file
        for name, known in (("tokens", TOKENS), ("fit", FITS)):
            if getattr(self, name) not in known:
                raise ModelError(f"encoder: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.layer > 0:
            raise ModelError(f"encoder: layer counts from the end, -1 is the last block, got {self.layer}")
        if self.image_size < 1:
            raise ModelError(f"encoder: image_size must be at least 1 pixel, got {self.image_size}")


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """The arguments of `Projector`."""

    kind: str = "mlp"
    depth: int = 2
    factor: int = 2
    queries: int = 64
    norm: bool | str = False
    newline: bool = False


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """A vision-language model.

    encoders: one or several; the features of several, which must be of one grid, are joined channel by channel.
    projector: see `ProjectorConfig`.
    language: {"model": name of the table, and fields of its config}, or {"model": "transformers", "config": a
        configuration of a causal language model of transformers}.
    template: the form of a conversation, of `data.conversations`.
    """

    encoders: tuple[EncoderConfig, ...]
    projector: ProjectorConfig = ProjectorConfig()
    language: dict[str, Any] = field(default_factory=lambda: {"model": "mamba_lm_130m"})
    template: str = "vicuna_v1"

    def __post_init__(self):
        found: Any = self.encoders
        found = [found] if isinstance(found, (str, dict, EncoderConfig)) else found
        tables = [{"name": one} if isinstance(one, str) else one for one in found]
        try:
            found = [one if isinstance(one, EncoderConfig) else EncoderConfig(**one) for one in tables]
        except TypeError as error:
            raise ModelError(f"encoder: {error}".replace("EncoderConfig.__init__() ", "")) from error
        object.__setattr__(self, "encoders", tuple(found))
        if isinstance(self.projector, (str, dict)):
            values: Any = {"kind": self.projector} if isinstance(self.projector, str) else self.projector
            object.__setattr__(self, "projector", ProjectorConfig(**values))
        if isinstance(self.language, str):
            object.__setattr__(self, "language", {"model": self.language})
        if not self.encoders:
            raise ModelError("a vision-language model needs an encoder; name one, such as timm/vit_small_patch16_224")
        if not isinstance(self.language.get("model"), str):
            raise ModelError("language must be {'model': NAME, ...}, with a name such as mamba_lm_130m")
