"""A tiny model of every family, with a batch that it reads."""

import pytest
import torch

from ssmlab.models import create_model

VOCABULARY = 40
LANGUAGE = ("mamba_lm_test", "mamba2_lm_test")
VISION = ("vmamba_test", "mambavision_test", "resnet_mamba_test", "vim_test", "medmamba_test")
BARS = (*LANGUAGE, *VISION[:3])  # the families that every preset must train on


def some_slow(names, quick=("mamba_lm_test", "mamba2_lm_test", "vmamba_test", "umamba_bot")):
    """Names as parameters: language and images are tested by every run, the other families by `make test-all`."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def build(name: str, seed: int = 0):
    """The model, in float32 and in training mode."""
    torch.manual_seed(seed)
    if name in LANGUAGE:
        return create_model(name, vocab_size=VOCABULARY)
    return create_model(name, num_classes=5, image_size=32)


def batch_for(name: str, rows: int = 2, seed: int = 0):
    """Tokens (rows, 12) or images (rows, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    if name in LANGUAGE:
        return torch.randint(0, VOCABULARY, (rows, 12), generator=generator)
    return torch.randn(rows, 3, 32, 32, generator=generator)


def output(model, batch):
    """Logits, whatever stands beside them."""
    found = model(batch)
    return found[0] if isinstance(found, tuple) else found


@torch.no_grad()
def shake(model, seed: int = 1, size: float = 0.02):
    """Give every trained parameter other values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += torch.randn(parameter.shape, generator=generator) * size


def relative(found, expected) -> float:
    """The largest difference over the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
