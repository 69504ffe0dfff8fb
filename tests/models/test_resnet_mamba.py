"""The hybrid and its baseline: tokens, the law of their order, timm's interface."""

import pytest
import timm
import torch

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import create_model
from ssmlab.models.vision.backbones import choose_output_stride
from ssmlab.models.vision.resnet_mamba import ResNetMamba, ResNetMambaConfig

SIZES = {"num_classes": 5, "image_size": 32}


def build(name="resnet_mamba_test", **options):
    torch.manual_seed(0)
    return create_model(name, **(SIZES | options)).eval()


def images(size=32, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def shuffled_logits(model, x):
    """Logits with the positions of the feature maps in another order."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    maps = [m.flatten(2)[..., order].view_as(m) if m[0, 0].numel() == 16 else m for m in model.backbone(x)]
    return model.forward_head(model.forward_tokens(model.to_tokens(maps)))


@pytest.mark.parametrize(("size", "stride"), [(16, 8), (28, 8), (32, 8), (48, 8), (64, 16), (112, 32), (224, 32)])
def test_stride_is_the_largest_that_leaves_four_by_four(size, stride):
    assert choose_output_stride("resnet18", size) == stride


@torch.no_grad()
def test_token_order_matters_to_the_scan_only():
    x = images()
    for name, options, changes in [
        ("resnet_mamba_test", {}, True),
        ("resnet_mamba_test", {"tokens": "pooled"}, False),
    ]:
        model = build(name, **options)
        assert torch.allclose(shuffled_logits(model, x), model(x), atol=1e-5) is not changes


@torch.no_grad()
def test_tokens_are_positions_row_by_row():
    model, x = build(), images()
    maps = model.backbone(x)
    tokens = model.to_tokens(maps)
    assert model.num_tokens == tokens.shape[1] == 16
    assert torch.equal(tokens[1, 4 * 2 + 3], maps[-1][1, :, 2, 3])
    assert torch.equal(model.forward_features(x), model.forward_tokens(tokens))
    pooled = build(tokens="pooled")
    assert pooled.num_tokens == pooled.to_tokens(maps).shape[1] == 1


@torch.no_grad()
def test_scales_are_scanned_as_sequences_of_their_own():
    model = build(image_size=64, scales=3)
    maps = model.backbone(images(64))
    tokens = model.to_tokens(maps)
    assert model.level_lengths == (64, 16, 16)
    assert model.num_tokens == tokens.shape[1] == 96
    layer = model.layers[0]
    alone = torch.cat([layer(part)[0] for part in tokens.split(model.level_lengths, dim=1)], 1)
    torch.testing.assert_close(model.forward_tokens(tokens), alone.mean(1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match="have 96 tokens, got 24"):
        model(images(32))


def test_too_few_tokens_is_an_error_unless_pooled():
    with pytest.raises(ModelError, match=r'leaves 1 tokens.*tokens="pooled"'):
        build(output_stride=32)
    assert build(output_stride=32, tokens="pooled").num_tokens == 1
    assert build("resnet_test", output_stride=32).num_tokens is None


def test_baseline_has_the_same_backbone_and_head():
    hybrid, baseline = build(), build("resnet_test")
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (hybrid, baseline)]
    assert {k: v for k, v in shapes[0].items() if not k.startswith("layers.")} == shapes[1]
    assert hybrid.output_stride == baseline.output_stride == 8


def test_published_sizes():
    model = create_model("resnet18_mamba", num_classes=2, image_size=64)
    block = model.layers[0].block.forward_block
    assert len(model.layers) == 1
    assert model.num_tokens == 16
    assert model.output_stride == 16
    assert (block.d_model, block.d_inner, block.d_state, block.dt_rank) == (512, 512, 8, 8)
    assert block is not model.layers[0].block.backward_block
    kinds = [type(m).__name__ for m in model.head.children()]
    assert kinds == ["Linear", "LayerNorm", "GELU", "Dropout", "Linear"]
    assert model.head.hidden.out_features == 256
    assert model.head.dropout.p == 0.1


@pytest.mark.parametrize("name", ["resnet_test", "resnet_mamba_test"])
def test_timm_interface(name):
    model, x = build(name), images()
    features = model.forward_features(x)
    assert features.shape[1] == model.num_features
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(x))
    assert model.get_classifier().out_features == model.num_classes == 5
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.config.num_classes == model.default_cfg["num_classes"] == 7
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size)
    assert len(model.default_cfg["mean"]) == 3
    assert model.default_cfg["input_size"] == (3, 32, 32)
    assert timm.data.resolve_data_config(model=model)["input_size"] == (3, 32, 32)


def test_other_channels_and_backbones():
    assert build(in_chans=1)(images(channels=1)).shape == (2, 5)
    model = build(backbone="test_convnext")
    assert model.num_tokens == 16
    assert model(images()).shape == (2, 5)


def test_timm_builds_the_hybrids():
    model = timm.create_model("resnet_mamba_test", num_classes=3, img_size=32, depth=2)
    assert isinstance(model, ResNetMamba)
    assert len(model.layers) == 2
    assert "resnet18_mamba" in timm.list_models("*mamba*")


def test_every_parameter_learns():
    model = build(scales=2).train()
    torch.nn.functional.cross_entropy(model(images()), torch.tensor([0, 1])).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # timm starts the last norm of every residual block at zero, and what stands before it waits for one step
    assert not [name for name in idle if not name.startswith("backbone.layer")]


def test_weight_decay_spares_the_scan():
    names = build().no_weight_decay()
    assert "layers.0.block.forward_block.A_log" in names
    assert "layers.0.block.backward_block.D" in names
    assert len(names) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": "pool"}, "spatial, pooled, got 'pool'"),
        ({"scales": 9}, "scales=9"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"output_stride": 4}, "32, 16 or 8"),
        ({"num_classes": -1}, "num_classes"),
        ({"backbone": "test_resnett"}, "did you mean test_resnet"),
        ({"backbone": "test_vit"}, "timm cannot build test_vit"),
        ({"d_state": 0}, "d_state must be at least 1"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        build(**options)


def test_config_is_frozen_and_takes_names_only():
    with pytest.raises(TypeError):
        ResNetMambaConfig(3)
    with pytest.raises(AttributeError):
        ResNetMambaConfig(num_classes=3).depth = 2
