"""Whole vision models with random weights, next to timm's: images a second."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssmlab.models import create_model
from ssmlab.profiling.bench.results import Result, attempt, rates

# Of the outputs, as a share of their norm: in float32 against plain torch, in bfloat16 against float32.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


@dataclass(frozen=True)
class Gallery:
    """Models that are compared; the first is the one that the others are compared with.

    Args:
        models: names in the table of models.
        size: pixels of a side.
        batches: images of a call.
        dtypes: of weights and activations.
    """

    models: tuple[str, ...]
    size: int = 224
    batches: tuple[int, ...] = (1, 128)
    dtypes: tuple[str, ...] = ("bfloat16", "float32")


FULL = Gallery(
    ("timm/vit_small_patch16_224", "timm/swin_tiny_patch4_window7_224", "timm/convnext_tiny", "vmamba_tiny",
     "mambavision_tiny", "vim_small", "medmamba_tiny")
)  # fmt: skip
QUICK = Gallery(("timm/test_vit", "vmamba_test", "mambavision_test", "vim_test", "medmamba_test"), 32, (1, 2))


def vision(gallery: Gallery, device: str, budget: float, wait: Callable[[], None]) -> Iterator[list[Result]]:
    """All models in turns, for every dtype and batch; what computes something else is not timed."""
    for dtype in gallery.dtypes:
        models: dict[str, nn.Module] = {}
        wrong: dict[str, str] = {}
        for name in gallery.models:
            torch.manual_seed(0)
            model = create_model(name, num_classes=1000, image_size=gallery.size).eval().to(device)
            error = _error(model, name, dtype, gallery.size, device)
            if not error <= TOLERANCE[dtype]:
                wrong[name] = f"its outputs are {error:.1e} off, limit {TOLERANCE[dtype]:g}"
            else:
                models[name] = model.to(getattr(torch, dtype))
        for batch in gallery.batches:
            yield _batch(gallery, models, wrong, dtype, batch, device, budget, wait)


def _batch(gallery, models, wrong, dtype, batch, device, budget, wait) -> list[Result]:
    what = f"{batch} images of {gallery.size} x {gallery.size}, {dtype}"
    images, skipped = _images(batch, gallery.size, device, dtype), dict(wrong)
    calls: dict[str, Callable[[], Tensor]] = {}
    for name, model in models.items():
        calls[name] = caller(model, images)
        why = attempt(calls[name], 0, device)
        if why:
            skipped[name] = why
            del calls[name]
    return rates("images", what, "images", calls, batch, budget, wait, skipped)


def caller(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """A function that runs the model."""

    def call() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return call


@torch.no_grad()
def _error(model: nn.Module, name: str, dtype: str, size: int, device: str) -> float:
    """Of ours in float32 against plain torch, of any in a half precision against itself in float32."""
    images = _images(1, size, device, "float32")
    exact = model(images)
    if dtype == "float32":
        with _plain_torch():
            found = model(images)
    else:
        found = model.to(getattr(torch, dtype))(images.to(getattr(torch, dtype))).float()
        model.float()
    return float((found - exact).norm() / exact.norm())


@contextmanager
def _plain_torch() -> Iterator[None]:
    before = os.environ.get("SSMLAB_BACKEND")
    os.environ["SSMLAB_BACKEND"] = "chunked"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSMLAB_BACKEND"]
        else:
            os.environ["SSMLAB_BACKEND"] = before


def _images(batch: int, size: int, device: str, dtype: str) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, size, size, generator=random).to(device, getattr(torch, dtype))
