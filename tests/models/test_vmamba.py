"""VMamba: golden cases of the original, the published sizes, old names."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import parity
from ssmlab.checkpoints import from_upstream
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.registry import original
from ssmlab.models.vision.vmamba import CONFIGS, VMamba, VMambaConfig

upstream = original("vmamba")

ROOT, CASES = parity.cases_in(Path(__file__).parent.parent / "parity_data" / "vmamba")
SMALL = {"depths": (1, 1), "dims": (8, 16), "image_size": 32, "num_classes": 3}

# Of the original's state_dict: number of entries, parameters, and the digest of its sorted lines "name shape".
PUBLISHED = {
    "vmamba_tiny_s1l8": (276, 30_249_064, "f7daa071ced91986"),
    "vmamba_tiny_s2l5": (222, 30_705_832, "1420a510363b303f"),
    "vmamba_tiny_v0": (212, 22_893_448, "812c33fc15eca51e"),
    "vmamba_small_s1l20": (492, 49_012_840, "d7e2fba2777a39ea"),
    "vmamba_small_s2l15": (402, 50_147_752, "00709fed9b7cf3f6"),
    "vmamba_small_v0": (446, 44_417_416, "e0ac73ce71f6954f"),
    "vmamba_base_s1l20": (492, 86_614_504, "8a49e41a92070720"),
    "vmamba_base_s2l15": (402, 88_557_800, "24726fd960be0ef4"),
    "vmamba_base_v0": (446, 76_254_056, "88d1407844516536"),
}


def digest(model) -> str:
    lines = sorted(f"{name} {list(value.shape)}" for name, value in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_golden_case(path):
    worst, where = parity.check_case(ROOT, path, parity.load_fill(ROOT))
    assert worst <= 1, where


def test_the_golden_cases_are_there():
    assert len(CASES) == 7


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name):
    entries, parameters, expected = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(name, num_classes=1000)
    assert len(model.state_dict()) == entries
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert digest(model) == expected


def test_short_names_stand_for_the_sizes_of_the_paper():
    for short, full in [("tiny", "tiny_s1l8"), ("small", "small_s2l15"), ("base", "base_s2l15")]:
        assert CONFIGS[f"vmamba_{short}"] == CONFIGS[f"vmamba_{full}"]
    assert set(CONFIGS) == {*PUBLISHED, "vmamba_tiny", "vmamba_small", "vmamba_base", "vmamba_test"}


def test_initial_values():
    torch.manual_seed(0)
    model = create_model("vmamba_test", num_classes=50)
    for name in ("layers.0.blocks.0.mlp.fc1", "layers.1.blocks.0.op.in_proj", "classifier.head"):
        layer = model.get_submodule(name)
        assert 0.017 < layer.weight.std() < 0.023
        assert layer.bias is None or not layer.bias.any()
    rates = [m.probability for m in create_model("vmamba_tiny", num_classes=2).modules() if hasattr(m, "probability")]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.2, 14))


def old_names(state):
    """The names that the first release of the original had, its linear layers as 1 x 1 convolutions."""
    found = {}
    for key, value in state.items():
        key = key.replace("patch_embed.0.", "patch_embed.proj.").replace("patch_embed.2.", "patch_embed.norm.")
        key = key.replace(".norm.", ".ln_1.") if ".blocks." in key else key.removeprefix("classifier.")
        linear = key.endswith(("in_proj.weight", "out_proj.weight"))
        found[key.replace(".op.", ".self_attention.")] = value[..., None, None] if linear else value
    return found


@torch.no_grad()
def test_old_names_are_translated(tmp_path):
    options = CONFIGS["vmamba_tiny_v0"].values | SMALL
    source = VMamba(VMambaConfig(**options)).eval()
    state = old_names(source.state_dict())
    assert {"head.weight", "norm.weight", "patch_embed.norm.bias", "layers.1.blocks.0.ln_1.weight"} <= set(state)
    torch.save(state, tmp_path / "old.pth")
    x = torch.randn(1, 3, 32, 32)
    model = create_model("vmamba_tiny_v0", weights=tmp_path / "old.pth", **SMALL).eval()
    assert torch.equal(model(x), source(x))


@torch.no_grad()
def test_matrices_of_convolutions_are_taken():
    config = {"depths": [1], "dims": [8], "num_classes": 3, "forward_type": "v05_noz", "norm_layer": "ln2d"}
    config |= {"patchembed_version": "v2", "downsample_version": "v3"}
    source = upstream.build(config).eval()
    four = {k: v[..., None, None] if k.endswith(("proj.weight", "fc1.weight", "fc2.weight")) else v
            for k, v in source.state_dict().items()}  # fmt: skip
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(from_upstream("vmamba", config, four)(x), source(x))


@torch.no_grad()
def test_layouts_compute_the_same():
    options = SMALL | {"gate": True, "d_state": 2}
    first = VMamba(VMambaConfig(**options)).eval()
    last = VMamba(VMambaConfig(**options, channel_first=False)).eval()
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, 36, 28)
    torch.testing.assert_close(first(x), last(x), rtol=1e-4, atol=1e-6)
    maps = [model.forward_intermediates(x, intermediates_only=True) for model in (first, last)]
    for a, b in zip(*maps, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert first.forward_features(x).shape == (2, 16, 5, 4)
    assert last.forward_features(x).shape == (2, 5, 4, 16)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vmamba_tiny", "vmamba_tiny_v0"])
@pytest.mark.parametrize("size", [(4, 4), (13, 22), (33, 9)])
def test_small_and_odd_images(name, size):
    assert create_model(name, **SMALL).eval()(torch.randn(2, 3, *size)).isfinite().all()


@torch.no_grad()
def test_smaller_patches_and_other_mergings():
    x = torch.randn(1, 3, 32, 32)
    model = create_model("vmamba_test", **SMALL, patch_size=2, stem_convs=1, merging="conv2").eval()
    assert [m.shape[-1] for m in model.forward_intermediates(x, intermediates_only=True)] == [16, 8]
    assert [info["reduction"] for info in model.feature_info] == [2, 4]
    assert model.layers[0].downsample[1].kernel_size == (2, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": (1, 1, 1)}, "one number a stage"),
        ({"dims": (8, 0)}, "dims must be at least 1"),
        ({"stem_convs": 3}, "stem_convs must be 1 or 2"),
        ({"patch_size": 2}, "patch_size=2; give stem_convs=1"),
        ({"merging": "pool"}, "conv3, conv2, patch, got 'pool'"),
        ({"merging": "patch"}, "channel_first=False"),
        ({"mlp_ratio": -1.0}, "mlp_ratio"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"num_classes": -1}, "num_classes"),
        ({"d_state": 0}, "d_state must be at least 1"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        create_model("vmamba_test", **(SMALL | options))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"forward_type": "v05_onsoftmax_noz"}, "forward_type must be one of v0, .*got 'v05_onsoftmax_noz'"),
        ({"norm_layer": "bn"}, "norm_layer must be one of ln, ln2d"),
        ({"posembed": True}, "posembed must be False"),
        ({"ssm_act_layer": "relu"}, "ssm_act_layer must be 'silu'"),
        ({"use_magic": 3}, "no counterpart of use_magic=3"),
        ({"d_model": 8, "ssm_rank_ratio": 2}, "no counterpart of ssm_rank_ratio=2"),
    ],
)
def test_what_the_map_does_not_know_is_refused(config, words):
    with pytest.raises(ModelError, match=words):
        upstream.build(config)


def test_the_originals_defaults():
    case = json.loads((ROOT / "vmamba" / "small_v0_odd_size.json").read_text())
    assert upstream.build({}).config.depths == (2, 2, 9, 2)
    assert upstream.build({}).config.d_state == 16
    assert upstream.build(case["config"]).config.gate
    assert upstream.build(case["config"]).config.merging == "patch"


def test_a_backbone_returns_maps_alone():
    case = json.loads((ROOT / "vmamba" / "backbone_small.json").read_text())
    model = upstream.build(case["config"] | {"out_indices": [0, 2]})
    assert [m.shape[1] for m in model(torch.randn(1, 3, 32, 32))] == [16, 48]
    with pytest.raises(ModelError, match="maps alone"):
        model.forward_intermediates(torch.randn(1, 3, 32, 32), intermediates_only=False)
