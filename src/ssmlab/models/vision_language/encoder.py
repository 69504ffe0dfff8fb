"""Image encoders: ours, timm's and transformers', with which layer's features of which tokens are taken."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_file
from ssmlab.models.registry import create_model, kind_of
from ssmlab.models.vision_language.config import TRANSFORMERS, EncoderConfig
from ssmlab.models.vision_language.pixels import hash_of, pixels
from ssmlab.models.weights import one_line

Grid = tuple[int, int]


class Features(NamedTuple):
    """What an encoder finds in b images: values (b, n, c), and the grid (h, w) of the n, row by row, None without."""

    values: Tensor
    grid: Grid | None


class Encoder(nn.Module):
    """One network and which of its features are taken.

    Args:
        config: see `EncoderConfig`.
        network: with weights; None builds one with initial weights.
    Attributes:
        channels: of a feature. count, grid: of the features of an image.
    Raises:
        ModelError: there is no such network, or it has no such layer.
    """

    def __init__(self, config: EncoderConfig, network: Any = None):
        super().__init__()
        self.config = config
        self.network: Any = build_network(config) if network is None else network
        with torch.no_grad():
            self.network.eval()
            device = next(self.network.parameters()).device
            try:
                shown = self(torch.zeros(1, 3, config.image_size, config.image_size, device=device))
            except (RuntimeError, AssertionError, IndexError) as error:
                raise ModelError(
                    f"{config.name} gives no features of layer {config.layer} for images of {config.image_size} "
                    f"pixels: {one_line(error)}"
                ) from error
        self.count, self.channels, self.grid = shown.values.shape[1], shown.values.shape[2], shown.grid

    def forward(self, x: Tensor) -> Features:
        """Images (b, 3, size, size), normalised, -> their features."""
        return (self._transformers if self.config.name == TRANSFORMERS else self._timm)(x)

    def _transformers(self, x: Tensor) -> Features:
        found = self.network(pixel_values=x, output_hidden_states=True)
        states = found.hidden_states
        if self.config.layer and -self.config.layer > len(states):
            raise IndexError(f"there are {len(states)} hidden states")
        values = states[self.config.layer] if self.config.layer else found.last_hidden_state
        side = self.config.image_size // self.network.config.patch_size
        return self._selected(values, values.shape[1] - side * side, (side, side))

    def _timm(self, x: Tensor) -> Features:
        network, layer = self.network, self.config.layer
        prefix = int(getattr(network, "num_prefix_tokens", 0))
        if layer and not hasattr(network, "forward_intermediates"):
            raise IndexError("it has no layers to choose from; take layer=0")
        if layer and prefix and self.config.tokens != "patch":
            maps, before = network.forward_intermediates(
                x, indices=[layer], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
            )[0]
            side = math.isqrt(maps.shape[1])
            return self._selected(torch.cat([before, maps], 1), prefix, (side, maps.shape[1] // side))
        if layer:
            values = network.forward_intermediates(x, indices=[layer], intermediates_only=True)[0]
        else:
            values = network.forward_features(x)
            if values.dim() == 3:
                side = math.isqrt(values.shape[1] - prefix)
                return self._selected(values, prefix, (side, (values.shape[1] - prefix) // side))
            if hasattr(network, "to_nchw"):
                values = network.to_nchw(values, (x.shape[-2], x.shape[-1]))
            elif getattr(network, "output_fmt", "NCHW") == "NHWC":
                values = values.permute(0, 3, 1, 2)
        grid = (values.shape[2], values.shape[3])
        return self._selected(values.flatten(2).mT, 0, grid)

    def _selected(self, values: Tensor, prefix: int, grid: Grid) -> Features:
        """Of tokens (b, prefix + h w, c) those that the config takes."""
        tokens = self.config.tokens
        if tokens != "patch" and prefix == 0:
            raise IndexError(f"it has no CLS token for tokens={tokens!r}")
        if tokens == "patch":
            return Features(values[:, prefix:], grid)
        return Features(values[:, :1] if tokens == "cls" else values, None)


class Encoders(nn.Module):
    """One or several encoders side by side: their features are joined channel by channel.

    Each sees the image through its own preprocessing. All must give as many features.

    Args:
        configs: of each. networks: with weights, where there are some.
    Raises:
        ModelError: they give different numbers of features.
    """

    def __init__(self, configs: Sequence[EncoderConfig], networks: Sequence[Any] = ()):
        super().__init__()
        given = list(networks) or [None] * len(configs)
        self.each = nn.ModuleList(Encoder(*pair) for pair in zip(configs, given, strict=True))
        counts = [encoder.count for encoder in self]
        if len(set(counts)) > 1:
            sizes = ", ".join(f"{encoder.config.name}: {encoder.count}" for encoder in self)
            raise ModelError(f"encoders side by side must give as many features, got {sizes}; change image_size")
        first = next(iter(self))
        self.count, self.grid = first.count, first.grid
        self.channels = sum(encoder.channels for encoder in self)

    def __iter__(self):
        yield from self.each

    def pixels(self, picture: Image.Image) -> list[Tensor]:
        """A picture as each encoder takes it, (3, size, size)."""
        return [pixels(picture, encoder.config) for encoder in self]

    def forward(self, inputs: Sequence[Tensor]) -> Features:
        """A batch of images for each encoder (b, 3, size, size) -> joined features."""
        found = [encoder(x) for encoder, x in zip(self, inputs, strict=True)]
        return Features(torch.cat([features.values for features in found], -1), found[0].grid)

    def preprocessing_hash(self) -> str:
        """Of everything that pictures go through before the networks, and of what is taken from these."""
        rows = [{k: v for k, v in asdict(encoder.config).items() if k != "network"} for encoder in self]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def build_network(config: EncoderConfig) -> Any:
    """An encoder's network with initial weights, without a classifier.

    Raises:
        ModelError: there is no such network.
    """
    if config.name == TRANSFORMERS:
        from transformers import AutoConfig, AutoModel

        values = dict(config.network)
        kind = values.pop("model_type", None)
        try:
            built = AutoConfig.for_model(kind, **values)
            network = AutoModel.from_config(built)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"transformers has no encoder of model_type {kind!r}: {one_line(error)}") from error
        return network
    if kind_of(config.name) != "vision":
        raise ModelError(f"an encoder is a model of images, timm/<name> or 'transformers', got {config.name!r}")
    return create_model(config.name, **{"num_classes": 0, "image_size": config.image_size} | config.network)


def hash_weights(module: nn.Module) -> str:
    """A hash of every value of a module's parameters and buffers, and of their names, shapes and dtypes."""
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FeatureCache:
    """Features of images by the content of the image and of the encoders; in memory, and in a folder if one is given.

    A file is one image's features, float32; it is read without copying what is not looked at.

    Args:
        encoders: in evaluation mode; what is trained has no cache.
        folder: of the files; None keeps them in memory alone.
        batch_size: images that are encoded at once.
    Attributes:
        encoded: images that were computed and not found.
    """

    def __init__(self, encoders: Encoders, folder: Path | None = None, batch_size: int = 16):
        self.encoders, self.batch_size, self.encoded = encoders, batch_size, 0
        self._key = hashlib.sha256((hash_weights(encoders) + encoders.preprocessing_hash()).encode()).hexdigest()
        self.folder = None if folder is None else folder / self._key[:32]
        self._held: dict[str, np.ndarray] = {}
        self._named: dict[str, str] = {}

    def of_keys(self, keys: Sequence[str], picture: Callable[[str], Image.Image]) -> list[np.ndarray]:
        """The features of pictures that have been seen under their keys, such as paths; others are opened.

        Args:
            picture: opens what a key stands for.
        """
        new = [key for key in dict.fromkeys(keys) if key not in self._named]
        for begin in range(0, len(new), self.batch_size):
            part = new[begin : begin + self.batch_size]
            pictures = [picture(key) for key in part]
            self.of(pictures)
            self._named |= {key: hash_of(found) for key, found in zip(part, pictures, strict=True)}
        return [self._held[self._named[key]] for key in keys]

    @torch.no_grad()
    def of(self, pictures: Sequence[Image.Image]) -> list[np.ndarray]:
        """The features (n, c) of pictures."""
        names = [hash_of(picture) for picture in pictures]
        new = {name: picture for name, picture in zip(names, pictures, strict=True) if self._find(name) is None}
        todo = list(new.items())
        device = next(self.encoders.parameters()).device
        for begin in range(0, len(todo), self.batch_size):
            part = todo[begin : begin + self.batch_size]
            rows = [self.encoders.pixels(picture) for _, picture in part]
            inputs = [torch.stack(column).to(device) for column in zip(*rows, strict=True)]
            found = self.encoders(inputs).values.float().cpu().numpy()
            self.encoded += len(part)
            for (name, _), values in zip(part, found, strict=True):
                self._keep(name, values)
        return [self._held[name] for name in names]

    def _find(self, name: str) -> np.ndarray | None:
        if name not in self._held and self.folder is not None and (file := self.folder / f"{name}.npy").is_file():
            self._held[name] = np.load(file, mmap_mode="r")
        return self._held.get(name)

    def _keep(self, name: str, values: np.ndarray) -> None:
        self._held[name] = values
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

            def write(path: Path) -> None:
                with open(path, "wb") as file:
                    np.save(file, values)

            write_file(self.folder / f"{name}.npy", write)
            self._held[name] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
