"""Vim: golden cases of the original, the published sizes, class token, positions for any image, initial values."""

import hashlib
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import parity
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import create_model
from ssmlab.models.registry import original
from ssmlab.models.vision.vim import CONFIGS, Layer, VimConfig
from ssmlab.nn import DropPath, Mamba

upstream = original("vim")

ROOT, CASES = parity.cases_in(Path(__file__).parent.parent / "parity_data" / "vim")
SMALL = {"image_size": 32, "num_classes": 3}

# Of the original: embed_dim, stride, number of parameters, digest of the sorted lines "name shape" of its state_dict.
PUBLISHED = {
    "vim_tiny": (192, 16, 7_148_008, "0697c5b60c1b528d"),
    "vim_small": (384, 16, 25_796_584, "d99a95e502963ccb"),
    "vim_base": (768, 16, 97_598_440, "d7e6c5b4a3541ee6"),
    "vim_tiny_stride8": (192, 8, 7_250_344, "ebf39e00d68fceff"),
    "vim_small_stride8": (384, 8, 26_001_256, "f11716837ef16142"),
}


def build(**options):
    torch.manual_seed(0)
    return create_model("vim_test", **(SMALL | options)).eval()


def digest(model) -> str:
    lines = sorted(f"{name} {list(value.shape)}" for name, value in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_golden_case(path):
    worst, where = parity.check_case(ROOT, path, parity.load_fill(ROOT))
    assert worst <= 1, where


def test_the_golden_cases_and_sizes_are_there():
    assert len(CASES) == 4
    assert set(CONFIGS) == {*PUBLISHED, "vim_test"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name):
    width, stride, parameters, expected = PUBLISHED[name]
    with torch.device("meta"):
        ours = create_model(name, num_classes=1000)
        theirs = upstream.build({"patch_size": 16, "embed_dim": width, "stride": stride, "depth": 24})
    for model in (ours, theirs):
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert digest(model) == expected
    assert ours.config == theirs.config


@torch.no_grad()
def test_initial_values():
    model = build(embed_dim=64, depth=4, num_classes=50, drop_path_rate=0.3)
    assert 0.017 < model.head.weight.std() < 0.023 and not model.head.bias.any()
    assert 0.015 < model.cls_token.std() < 0.025 and 0.017 < model.pos_embed.std() < 0.023
    projection = model.patch_embed.proj
    assert projection.weight.std() == pytest.approx((3 * 8 * 8) ** -0.5, rel=0.03) and not projection.bias.any()
    mixer = model.layers[2].mixer
    steps = F.softplus(mixer.dt_proj.bias)
    assert steps.min() >= 1e-3 - 1e-6 and steps.max() <= 0.1 + 1e-6
    assert not mixer.dt_proj_b.bias.any()
    assert mixer.out_proj.weight.abs().max() == pytest.approx(128**-0.5 / math.sqrt(4), rel=0.02)
    rates = [module.probability for module in model.modules() if isinstance(module, DropPath)]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([0, 0, 0.1, 0.2, 0.3]))


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (33, 75), (8, 8), (9, 64)])
@pytest.mark.parametrize("class_token", ["middle", "first", "none"])
def test_any_size(class_token, size):
    model, x = build(class_token=class_token), torch.randn(2, 3, *size)
    tokens = model.forward_features(x)
    patches = (size[0] // 8) * (size[1] // 8)
    assert tokens.shape == (2, patches + (class_token != "none"), 16)
    place = {"middle": patches // 2, "first": 0}.get(class_token)
    pooled = tokens.mean(1) if place is None else tokens[:, place]
    assert torch.equal(model.forward_head(tokens, pre_logits=True), pooled)
    torch.testing.assert_close(model(x)[1:], model(x[1:]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("class_token", ["middle", "first", "none"])
def test_positions_are_interpolated_with_the_class_token_apart(class_token):
    model = build(class_token=class_token)
    assert model._resized(model.pos_embed, model.grid, (4, 4)) is model.pos_embed
    count = model.pos_embed.shape[1]
    place = {"middle": 8, "first": 0}.get(class_token)
    patches = [i for i in range(count) if i != place]
    model.pos_embed[:, patches] = torch.arange(16.0).view(1, 16, 1) // 4  # the number of the row
    if place is not None:
        model.pos_embed[:, place] = 100
    found = model._resized(model.pos_embed, model.grid, (4, 6))[0, :, 0]
    place = {"middle": 12, "first": 0}.get(class_token)
    rows = found if place is None else torch.cat([found[:place], found[place + 1 :]])
    torch.testing.assert_close(rows.view(4, 6), torch.arange(4.0)[:, None].expand(4, 6))
    assert place is None or found[place] == 100


@torch.no_grad()
def test_every_patch_has_its_position():
    model, x = build(), torch.zeros(1, 3, 32, 48)
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [m.shape for m in maps] == [(1, 16, 4, 6)] * 2
    assert len(torch.unique(maps[0][0, 0])) == 24
    bare = build(pos_embed=False)
    assert "pos_embed" not in bare.state_dict()
    maps = bare.forward_intermediates(torch.randn(1, 3, 32, 48), intermediates_only=True, norm=True)
    assert maps[0].square().mean(1).sqrt().allclose(torch.ones(4, 6), atol=1e-2)


@torch.no_grad()
def test_weights_for_another_image_size_are_interpolated(tmp_path):
    source, x = build(), torch.randn(1, 3, 64, 64)
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    model = build(image_size=64, weights=tmp_path / "w.pth")
    assert model.pos_embed.shape == (1, 65, 16) and model.pos_embed.requires_grad
    assert torch.equal(model(x), source(x))  # which interpolates when it is asked
    other = build(embed_dim=8).state_dict()
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"pos_embed: \(1, 17, 8\) in the file, \(1, 17, 16\) in the model"):
        build(weights=tmp_path / "other.pth")


def test_reads_forward_only_without_a_second_direction():
    model, x = build(scans="none", class_token="none"), torch.randn(1, 3, 32, 32).requires_grad_()
    assert all(type(layer.mixer) is Mamba for layer in model.layers)
    (gradient,) = torch.autograd.grad(model.forward_features(x)[:, 5].sum(), x)
    seen = F.max_pool2d(gradient.abs().sum(1), 8)[0] > 0
    assert seen.flatten().tolist() == [True] * 6 + [False] * 10


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("rms_norm", [True, False])
def test_the_stream_is_float32_in_half_precision(wide, rms_norm):
    config = VimConfig(num_classes=0, embed_dim=8, d_state=2, residual_in_fp32=wide, rms_norm=rms_norm)
    layer, u = Layer(config, 0.0).bfloat16(), torch.randn(1, 3, 8).bfloat16()
    hidden, residual = layer(*layer(u))
    assert hidden.dtype == torch.bfloat16
    assert residual.dtype == (torch.float32 if wide else torch.bfloat16)
    model, x = build(residual_in_fp32=wide, rms_norm=rms_norm), torch.randn(2, 3, 32, 32)
    expected = model(x).detach()
    with torch.no_grad():
        y = model.bfloat16()(x.bfloat16())
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_dropout_is_for_training_only():
    model, x = build(drop_rate=0.5), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), build()(x))
        model.train()
        assert not torch.equal(model(x), model(x))


@torch.no_grad()
def test_a_pruned_network_keeps_its_norm_unless_told_otherwise():
    x = torch.randn(1, 3, 32, 32)
    expected = build().forward_intermediates(x, indices=[0], norm=True, intermediates_only=True)[0]
    model = build()
    assert model.prune_intermediate_layers([0]) == [0]
    assert len(model.layers) == 1 and isinstance(model.head, torch.nn.Identity)
    found = model.forward_intermediates(x, indices=[0], norm=True, intermediates_only=True)[0]
    assert torch.equal(found, expected)
    model.prune_intermediate_layers([0], prune_norm=True)
    plain = model.forward_intermediates(x, indices=[0], norm=True, intermediates_only=True)[0]
    assert torch.equal(plain, build().forward_intermediates(x, indices=[0], intermediates_only=True)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scans": "v3"}, "scans must be one of v2, v1, none, got 'v3'"),
        ({"class_token": "last"}, "class_token must be one of middle, first, none, got 'last'"),
        ({"image_size": 7}, "image_size must be at least patch_size=8, got 7"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        build(**options)


def test_images_smaller_than_a_patch_are_named():
    with pytest.raises(ShapeError, match=r"at least 8 x 8, the size of a patch, got 7 x 32"):
        build()(torch.zeros(1, 3, 7, 32))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"if_rope": True}, "if_rope=True"),
        ({"use_double_cls_token": True, "init_layer_scale": 0.1}, "use_double_cls_token=True, init_layer_scale=0.1"),
        ({"if_cls_token": False}, "final_pool_type='none' without a class token"),
        ({"if_devide_out": True}, "Vim of the original has no if_devide_out"),
    ],
)
def test_what_is_not_here_is_refused(config, words):
    with pytest.raises(ModelError, match=words):
        upstream.build(config)


def test_the_originals_class_tokens():
    small = {"depth": 1, "embed_dim": 8, "img_size": 16}
    for config, expected in [
        ({}, "middle"),
        ({"use_middle_cls_token": False}, "first"),
        ({"if_cls_token": False, "final_pool_type": "mean"}, "none"),
    ]:
        assert upstream.build(small | config).config.class_token == expected
