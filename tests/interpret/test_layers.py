"""The layer that is chosen, its map, Grad-CAM, integrated gradients and the receptive field, for every family."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError
from ssmlab.interpret.attributions import grad_cam, integrated_gradients
from ssmlab.interpret.layers import Tapped, Target, final_of, map_of, target_of
from ssmlab.interpret.receptive_field import receptive_field
from ssmlab.models import create_model

# name: options, (height, width), the layer for Grad-CAM, the one for the receptive field, the grid
FAMILIES = {
    "resnet_test": ({}, (32, 32), "backbone", "backbone", (4, 4)),
    "resnet_mamba_test": ({}, (32, 32), "backbone", "layers.0", (4, 4)),
    "resnet_mamba_test scales": ({"scales": 2}, (32, 32), "backbone", "layers.0", (4, 4)),
    "resnet_mamba_test pooled": ({"tokens": "pooled"}, (32, 32), "backbone", "backbone", (4, 4)),
    "vmamba_test": ({}, (32, 40), "layers.1", "layers.1", (4, 5)),
    "vmamba_test last": ({"channel_first": False}, (32, 40), "layers.1", "layers.1", (4, 5)),
    "medmamba_test": ({}, (32, 40), "layers.1", "layers.1", (4, 5)),
    "mambavision_test": ({}, (72, 80), "levels.3", "levels.3", (3, 3)),
    "vim_test": ({}, (32, 40), "layers.1.norm", "layers.1", (4, 5)),
    "vim_test first": ({"class_token": "first"}, (32, 40), "layers.1.norm", "layers.1", (4, 5)),
    "vim_test mean": ({"class_token": "none"}, (32, 40), "layers.1.norm", "layers.1", (4, 5)),
    "timm/test_vit": ({}, (160, 160), "blocks.5.norm1", "blocks.5", (10, 10)),
    "timm/test_resnet": ({}, (64, 96), "layer4", "layer4", (2, 3)),
    "timm/test_convnext": ({}, (64, 96), "stages.3", "stages.3", (2, 3)),
    "timm/swin_tiny_patch4_window7_224": (
        {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}, (224, 224), "layers.1", "layers.1", (28, 28),
    ),
}  # fmt: skip
each_family = pytest.mark.parametrize("case", FAMILIES)


def build(case):
    options, (h, w), *expected = FAMILIES[case]
    torch.manual_seed(0)
    model = create_model(case.split()[0], num_classes=5, image_size=h, **options).eval()
    return model, torch.randn(2, 3, h, w), *expected


@each_family
def test_the_layer_becomes_a_map(case):
    model, images, name, final, grid = build(case)
    target = target_of(model)
    assert target.name == name and model.get_submodule(name) is target.module and final_of(model).name == final
    with torch.no_grad():
        assert map_of(model, images, target).shape[::3] == (2, grid[1])
        assert map_of(model, images, final_of(model)).shape[2:] == grid
        logits, tapped = model(images), Tapped(model, target)
        assert torch.equal(tapped(images), logits)  # the detour changes nothing
        maps = []
        tapped.tap.register_forward_hook(lambda m, i, out: maps.append(out))
        tapped(images)
        handle = tapped.tap.register_forward_hook(lambda m, i, out: torch.zeros_like(out))
        assert maps[0].shape[2:] == grid and not torch.allclose(tapped(images), logits)  # and its map is what is read
        handle.remove()
    assert not target.module._forward_hooks


@each_family
def test_grad_cam(case):
    model, images, name, _, grid = build(case)
    signed = grad_cam(model, images, [1, 3], relu=False, resize=False)
    by_token = "norm" in name and "mean" not in case
    assert torch.equal(signed, grad_cam(model, images, [1, 3], relu=False, resize=False, elementwise=by_token))
    assert signed.shape == (2, *grid) and signed.std() > 0 and not signed.requires_grad
    each = torch.cat([grad_cam(model, images[i : i + 1], c, relu=False, resize=False) for i, c in enumerate((1, 3))])
    torch.testing.assert_close(signed, each, rtol=1e-3, atol=1e-6)
    other = grad_cam(model, images, [1, 3], relu=False, resize=False, elementwise=not by_token)
    assert other.shape == signed.shape and other.std() > 0
    maps = grad_cam(model, images, torch.tensor([1, 3]))
    assert maps.shape == (2, *images.shape[2:]) and maps.min() >= 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_grad_cam_is_the_formula():
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    images = torch.randn(2, 3, 6, 6)
    activation = F.relu(conv(images))
    weights = head.weight[2] / 36  # the gradient of a mean is the same at every position
    expected = (weights[:, None, None] * activation).sum(1)
    target = Target("1", model[1])
    torch.testing.assert_close(grad_cam(model, images, 2, target=target, relu=False, resize=False), expected)
    torch.testing.assert_close(grad_cam(model, images, 2, target=target), expected.clamp(min=0))
    own = grad_cam(model, images, 2, target=target, relu=False, elementwise=True)
    torch.testing.assert_close(own, expected)  # behind a mean both methods are one
    with pytest.raises(ModelError, match=r'Sequential is no network .* give one, Target\("name", module\)'):
        grad_cam(model, images, 2)


def test_integrated_gradients_add_up():
    model, images, *_ = build("vim_test")
    found = integrated_gradients(model, images, [1, 3], steps=64, baseline=images.mean())
    with torch.no_grad():
        gained = (model(images) - model(torch.full_like(images, float(images.mean()))))[[0, 1], [1, 3]]
    torch.testing.assert_close(found.values.sum((1, 2, 3)) - gained, found.error, atol=1e-6, rtol=1e-3)
    assert found.error.abs().max() < 0.02 * gained.abs().max() and found.maps.shape == (2, 32, 40)


def test_the_receptive_field_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1, stride=2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    field = receptive_field(model, torch.randn(5, 3, 12, 8), target=Target("1", model[1]), batch_size=2)
    (rows, columns) = field.energy.nonzero(as_tuple=True)
    assert sorted(set(rows.tolist())) == [5, 6, 7] and sorted(set(columns.tolist())) == [3, 4, 5]
    torch.testing.assert_close(field.energy[5:8, 3:6], torch.full((3, 3), 1 / 9))
    assert field.centre == (6.5, 4.5)  # of the two pixels that a stride of 2 stands for
    assert field.radius(0.4) == pytest.approx(0.5**0.5) and field.radius(1.0) == pytest.approx(4.5**0.5)


@each_family
def test_the_receptive_field_of_every_family(case):
    model, images, *_ = build(case)
    field = receptive_field(model, images[:1])
    assert field.energy.shape == images.shape[2:] and float(field.energy.sum()) == pytest.approx(1, abs=1e-4)
    assert 0 < field.radius(0.5) <= field.radius(0.95) <= sum(side**2 for side in images.shape[2:]) ** 0.5
