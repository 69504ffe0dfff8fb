"""MambaVision: golden cases of the original, the published sizes, windows on any image, initial values, cost."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

import parity
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.registry import original
from ssmlab.models.vision.mambavision import CONFIGS
from ssmlab.nn import DropPath, MambaVisionMixer, SelfAttention
from ssmlab.profiling import count_flops

upstream = original("mambavision")

ROOT, CASES = parity.cases_in(Path(__file__).parent.parent / "parity_data" / "mambavision")
SMALL = {"image_size": 64, "num_classes": 3}

# Of the original: dim, in_dim, depths, num_heads, window_size of the last two levels, resolution, layer_scale; number
# of parameters, and the digest of the sorted lines "name shape" of its state_dict.
HEADS, WIDE = (2, 4, 8, 16), (4, 8, 16, 32)
PUBLISHED = {
    "mambavision_tiny": (80, 32, (1, 3, 8, 4), HEADS, (14, 7), 224, None, 31_794_248, "16b98793acf884fb"),
    "mambavision_tiny2": (80, 32, (1, 3, 11, 4), HEADS, (14, 7), 224, None, 35_104_008, "4ad22fe2bf1e0e8e"),
    "mambavision_small": (96, 64, (3, 3, 7, 5), HEADS, (14, 7), 224, None, 50_140_584, "9fce7d760dc52d7e"),
    "mambavision_base": (128, 64, (3, 3, 10, 5), HEADS, (14, 7), 224, 1e-5, 97_685_288, "2ca11001693feeca"),
    "mambavision_large": (196, 64, (3, 3, 10, 5), WIDE, (14, 7), 224, 1e-5, 227_961_048, "4f0fe857026105fe"),
    "mambavision_large2": (196, 64, (3, 3, 12, 5), WIDE, (14, 7), 224, 1e-5, 241_554_824, "c54ee37442597ca0"),
    "mambavision_base_21k": (128, 64, (3, 3, 10, 5), HEADS, (14, 7), 224, 1e-5, 97_685_288, "2ca11001693feeca"),
    "mambavision_large_21k": (196, 64, (3, 3, 10, 5), WIDE, (14, 7), 224, 1e-5, 227_961_048, "4f0fe857026105fe"),
    "mambavision_large2_512_21k": (196, 64, (3, 3, 12, 5), WIDE, (32, 16), 512, 1e-5, 241_554_824, "c54ee37442597ca0"),
    "mambavision_large3_256_21k": (256, 64, (3, 3, 20, 10), WIDE, (16, 8), 256, 1e-5, 739_570_472, "85a027c8ab5a2316"),
    "mambavision_large3_512_21k": (256, 64, (3, 3, 20, 10), WIDE, (32, 16), 512, 1e-5, 739_570_472, "85a027c8ab5a2316"),
}
FIELDS = ("dim", "in_dim", "depths", "num_heads", "window_size", "resolution", "layer_scale")


def build(**options):
    torch.manual_seed(0)
    return create_model("mambavision_test", **(SMALL | options)).eval()


def digest(model) -> str:
    lines = sorted(f"{name} {list(value.shape)}" for name, value in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_golden_case(path):
    worst, where = parity.check_case(ROOT, path, parity.load_fill(ROOT))
    assert worst <= 1, where


def test_the_golden_cases_and_sizes_are_there():
    assert len(CASES) == 2
    assert set(CONFIGS) == {*PUBLISHED, "mambavision_test"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name):
    *sizes, parameters, expected = PUBLISHED[name]
    config = dict(zip(FIELDS, sizes))
    config["window_size"] = (8, 8, *config["window_size"])
    with torch.device("meta"):
        ours, theirs = create_model(name, num_classes=1000), upstream.build(config)
    for model in (ours, theirs):
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert digest(model) == expected
    for field in (*FIELDS[:5], "image_size", "layer_scale", "layer_scale_conv", "mlp_ratio", "qkv_bias", "qk_norm"):
        assert getattr(ours.config, field) == getattr(theirs.config, field), field


def test_the_second_half_of_a_level_attends():
    for depth, attending in [(2, 1), (3, 1), (4, 2), (7, 3)]:
        model = build(depths=(1, 1, depth, 1))
        kinds = [type(block.mixer) for block in model.levels[2].blocks]
        assert kinds == [MambaVisionMixer] * (depth - attending) + [SelfAttention] * attending
    assert [type(block.mixer) for block in model.levels[3].blocks] == [MambaVisionMixer]


def test_initial_values():
    model = build(dim=32, layer_scale=0.1, layer_scale_conv=0.2, drop_path_rate=0.3)
    for name in ("head", "levels.3.blocks.1.mlp.fc1", "levels.3.blocks.0.mixer.in_proj", "levels.3.blocks.1.mixer.qkv"):
        layer = model.get_submodule(name)
        assert 0.017 < layer.weight.std() < 0.023
        assert layer.bias is None or not layer.bias.any()
    assert not model.levels[2].blocks[0].mixer.dt_proj.bias.any()
    assert (model.levels[0].blocks[0].gamma == 0.2).all() and (model.levels[3].blocks[1].gamma_2 == 0.1).all()
    rates = [module.probability for module in model.modules() if isinstance(module, DropPath)]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, 6))
    scaled = {name for name, _ in model.named_parameters() if "gamma" in name}
    assert len(scaled) == 2 + 2 * 4 and not any("gamma" in name for name in build().state_dict())


def test_cost_of_the_tiny_size():
    """4.46 G multiply-accumulates in convolutions and linear layers, 4.57 G with attention."""
    model, x = create_model("mambavision_tiny", num_classes=1000), torch.zeros(1, 3, 224, 224)
    counts = count_flops(model, x)
    attention = sum(2 * 2 * w**4 * d for w, d in [(14, 320)] * 4 + [(7, 640)] * 2) / 2
    assert counts.macs - counts.scan_macs == pytest.approx(4.57e9, rel=0.01)
    assert counts.macs - counts.scan_macs - attention == pytest.approx(4.46e9, rel=0.01)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (33, 61), (7, 100), (1, 1)])
def test_any_size_is_padded_to_windows(size):
    model, x = build(), torch.randn(2, 3, *size)
    whole = model(x)
    assert whole.isfinite().all()
    torch.testing.assert_close(whole[1:], model(x[1:]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_windows_are_apart_from_each_other():
    level = build(depths=(1, 1, 2, 1), window_size=(8, 8, 4, 2)).levels[2]
    for weight in (p for p in level.blocks.parameters() if p.dim() == 2):
        weight.mul_(20)
    x = torch.randn(1, 32, 8, 6)
    changed = x.clone()
    changed[:, 0, 0, 0] += 1
    same = (level.mix(x) == level.mix(changed)).all(1)[0]
    assert same[4:].all() and same[:, 4:].all() and not same[:4, :4].any()


@torch.no_grad()
def test_memory_format_of_the_images_does_not_matter():
    model, x = build(), torch.randn(2, 3, 64, 48)
    assert torch.equal(model(x), model(x.contiguous(memory_format=torch.channels_last)))


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["model.", "encoder.", "module."])
def test_names_with_a_prefix_are_translated_and_the_licence_is_told(prefix, tmp_path, caplog):
    source, x = build(), torch.randn(1, 3, 64, 64)
    torch.save({"state_dict": {prefix + k: v for k, v in source.state_dict().items()}}, tmp_path / "w.pth")
    assert torch.equal(build(weights=tmp_path / "w.pth")(x), source(x))
    assert "published weights of mambavision are under CC-BY-NC-SA-4.0, not for commercial use" in caplog.text


def test_dropout_is_for_training_only():
    model, x = build(drop_rate=0.5, attn_drop_rate=0.5), torch.randn(2, 3, 64, 64)
    plain = build()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        for module in model.modules():  # the norms of the batch stay out of it
            module.training = not isinstance(module, nn.BatchNorm2d)
        assert not torch.equal(model(x), model(x))


def test_half_precision_is_close():
    model, x = build(), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    expected = model(x).detach()
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_description_of_how_images_are_cut():
    with torch.device("meta"):
        found = create_model("mambavision_large3_512_21k", num_classes=2).pretrained_cfg
    assert (found["crop_pct"], found["crop_mode"], found["input_size"]) == (0.93, "squash", (3, 512, 512))
    assert found["license"] == upstream.licence.lower() == "cc-by-nc-sa-4.0"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": (1, 1)}, "one number for each of at least 3 levels"),
        ({"num_heads": (1, 1, 1)}, "one number for each"),
        ({"window_size": (8, 8, 0, 2)}, "window_size must be at least 1"),
        ({"num_heads": (1, 1, 3, 2)}, "num_heads must divide d_model=32, got 3"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"num_classes": -1}, "num_classes"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        build(**options)


def test_what_the_original_would_ignore_is_refused():
    with pytest.raises(ModelError, match=r"MambaVision of the original has no windows; it has dim, in_dim"):
        upstream.build({"windows": 3})
    assert upstream.build({"dim": 8, "depths": [1, 1, 1, 2], "num_heads": [1, 1, 1, 1], "qk_scale": 2}).config.qk_norm
