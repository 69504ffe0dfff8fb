"""MedMamba: golden cases of the original, the published sizes, how a block treats its halves."""

import hashlib
from pathlib import Path

import pytest
import torch

import parity
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import create_model
from ssmlab.models.registry import original
from ssmlab.models.vision.medmamba import CONFIGS, SSConvSSM

upstream = original("medmamba")

ROOT, CASES = parity.cases_in(Path(__file__).parent.parent / "parity_data" / "medmamba")

# Of the original's state_dict: number of entries, parameters, and the digest of its sorted lines "name shape".
PUBLISHED = {
    "medmamba_tiny": (355, 14_457_222, "208a3a2de6ebfb4a"),
    "medmamba_small": (491, 18_625_158, "565f595d9b5b007a"),
    "medmamba_base": (627, 39_864_838, "9e9881724d383a41"),
}


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_golden_case(path):
    worst, where = parity.check_case(ROOT, path, parity.load_fill(ROOT))
    assert worst <= 1, where


def test_the_golden_cases_are_there():
    assert len(CASES) == 2
    assert set(CONFIGS) == {*PUBLISHED, "medmamba_test"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=6)
    lines = sorted(f"{key} {list(value.shape)}" for key, value in model.state_dict().items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), sum(p.numel() for p in model.parameters()), digest) == PUBLISHED[name]


@torch.no_grad()
def test_halves_are_shuffled_into_each_other():
    block = SSConvSSM(8, 2, 0.0).eval()
    x = torch.randn(2, 5, 6, 8)
    left = block.conv33conv33conv11(x[..., :4].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    right = block.self_attention(block.ln_1(x[..., 4:]))
    y = block(x) - x
    torch.testing.assert_close(y[..., 0::2], left, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y[..., 1::2], right, rtol=1e-4, atol=1e-5)


def test_drop_path_leaves_out_the_scan_only():
    torch.manual_seed(0)
    block = SSConvSSM(8, 2, 0.999).train()
    x = torch.randn(2, 5, 6, 8)
    y = block(x) - x
    assert not y[..., 1::2].abs().max() > 1e-6
    assert y[..., 0::2].any()
    rates = [m.probability for m in create_model("medmamba_tiny", num_classes=2).modules() if hasattr(m, "probability")]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.1, 10))


def test_initial_values():
    torch.manual_seed(0)
    model = create_model("medmamba_test", num_classes=50, dims=(32, 64))
    block = model.layers[1].blocks[0]
    conv = block.conv33conv33conv11[1].weight
    assert conv.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.1)  # Kaiming, by the outputs
    for layer in (block.self_attention.in_proj, model.head, model.layers[0].downsample.reduction):
        assert 0.017 < layer.weight.std() < 0.023
    assert not model.head.bias.any()


@torch.no_grad()
def test_odd_maps_are_cropped():
    model = create_model("medmamba_test", num_classes=2).eval()
    x = torch.randn(1, 3, 44, 36)  # maps of 11 x 9, then 5 x 4
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [m.shape[2:] for m in maps] == [(11, 9), (5, 4)]


def test_images_that_leave_nothing_are_named():
    model = create_model("medmamba_tiny", num_classes=2)
    with pytest.raises(ShapeError, match="at least 32 x 32.*got 40 x 28"):
        model(torch.randn(1, 3, 40, 28))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": (1,)}, "one number a stage"),
        ({"dims": (15, 30)}, "dims must be even"),
        ({"depths": (1, 0)}, "depths must be at least 1"),
        ({"d_state": 0}, "d_state must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        create_model("medmamba_test", **({"num_classes": 2} | options))


def test_the_originals_options():
    assert upstream.build({"dims": 24, "d_state": None, "depths": [1, 1]}).config.dims == (24, 48)
    assert upstream.build({"dims": 24, "d_state": None, "depths": [1, 1]}).config.d_state == 4
    assert upstream.build({"depths": [1], "dims": [8]}).num_classes == 1000
    with pytest.raises(ModelError, match="no counterpart of ape=True"):
        upstream.build({"ape": True})
