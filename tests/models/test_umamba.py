"""U-Mamba: golden cases of the original, its sizes, its checkpoints, sizes of images, precision, saving."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import parity
from ssmlab.checkpoints import from_upstream
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import create_model, list_models
from ssmlab.models.registry import original
from ssmlab.models.rules import convert
from ssmlab.models.segmentation.plans import Plan, plan_from
from ssmlab.models.segmentation.umamba import from_trainer
from ssmlab.models.segmentation.umamba_parts import MambaLayer

upstream = original("umamba")

ROOT, CASES = parity.cases_in(Path(__file__).parent.parent / "parity_data" / "umamba")

# Plans of nnU-Net's usual form. Of the original's state_dict: number of entries, parameters, and the digest of its
# sorted lines "name shape".
PLANS = {
    2: {
        "patch_size": [320, 320],
        "conv_kernel_sizes": [[3, 3]] * 7,
        "pool_op_kernel_sizes": [[1, 1], *[[2, 2]] * 6],
        "n_conv_per_stage_encoder": [2] * 7,
        "n_conv_per_stage_decoder": [2] * 6,
        "UNet_base_num_features": 32,
        "unet_max_num_features": 512,
    },
    3: {
        "patch_size": [48, 160, 224],
        "conv_kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 5],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 3, [1, 2, 2]],
        "n_conv_per_stage_encoder": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
    },
}
ORIGINAL = {
    "UMambaBot_2d": (479, 47_533_012, "e27fc07cdcee3088"),
    "UMambaBot_3d": (397, 41_945_158, "d321f8e58cdd68f1"),
    "UMambaEnc_2d": (556, 47_015_538, "bdf7de4f17669e45"),
    "UMambaEnc_3d": (518, 42_842_798, "33954c25c381a320"),
}


def small_plan(dims: int = 2, patch: int = 16, **values) -> Plan:
    sizes = {
        "patch_size": (patch,) * dims,
        "features": (4, 8, 16),
        "kernel_sizes": ((3,) * dims,) * 3,
        "strides": ((1,) * dims, (2,) * dims, (2,) * dims),
        "n_conv_encoder": (2, 2, 2),
        "n_conv_decoder": (2, 2),
    }
    return Plan(**(sizes | values))


def repeated(state: dict) -> dict:
    """A state_dict of ours as the original writes it: with what its modules hold twice."""
    found = {}
    for prefix in ("", "decoder."):
        for name, value in state.items():
            if prefix and not name.startswith("encoder."):
                continue
            found[prefix + name] = value
            for part, index in ((".conv.", 0), (".norm.", 1)):
                if part in name and (".conv1" + part in name or ".conv2" + part in name):
                    found[prefix + name.replace(part, f".all_modules.{index}.")] = value
    return found


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_golden_case(path):
    worst, where = parity.check_case(ROOT, path, parity.load_fill(ROOT))
    assert worst <= 1, where


def test_the_golden_cases_are_there():
    assert len(CASES) == 2
    assert list_models("segmentation") == ["umamba_bot", "umamba_enc", "residual_unet", "resenc_unet"]


@pytest.mark.parametrize("network", ORIGINAL)
def test_the_originals_entries(network):
    config = PLANS[int(network[-2])] | {"network": network, "num_input_channels": 1, "num_segmentation_heads": 14}
    with torch.device("meta"):
        model = upstream.build(config)
        state = repeated(model.state_dict())
        from_upstream("umamba", config, state)
    lines = sorted(f"{name} {list(value.shape)}" for name, value in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), sum(p.numel() for p in model.parameters()), digest) == ORIGINAL[network]


def test_repetitions_must_agree():
    model = create_model("umamba_bot", plan=small_plan(), num_classes=2)
    state = repeated(model.state_dict())
    assert convert(state, upstream.rules).keys() == model.state_dict().keys()
    one, other = "encoder.stem.1.conv1.conv.weight", "decoder.encoder.stem.1.conv1.all_modules.0.weight"
    state[other] = state[other] + 1
    with pytest.raises(ModelError, match=f"1 keys:\n  {one} and {other} must be one tensor and differ"):
        convert(state, upstream.rules)
    only = {key: value for key, value in state.items() if key.startswith("decoder.encoder.") and "all_mod" not in key}
    assert set(convert(only, upstream.rules)) == {k for k in model.state_dict() if k.startswith("encoder.")}


def test_what_the_original_does_not_have():
    config = PLANS[2] | {"network": "UMambaBot_3d", "num_input_channels": 1, "num_segmentation_heads": 2}
    for wrong in (config, config | {"network": "Other_2d"}):
        with pytest.raises(ModelError, match="for a plan in 2-D; known are UMambaBot, UMambaEnc"):
            upstream.build(wrong)
    with pytest.raises(ModelError, match="has no network"):
        upstream.build(PLANS[2])


def trainer_file(path: Path, **changes) -> torch.nn.Module:
    """What nnU-Net's trainer writes, with the numbers of numpy that it logs."""
    sizes = {
        "patch_size": [16, 16],
        "conv_kernel_sizes": [[3, 3]] * 3,
        "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2]],
        "n_conv_per_stage_encoder": [2] * 3,
        "n_conv_per_stage_decoder": [2] * 2,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 16,
    }
    model = create_model("umamba_enc", plan=plan_from(sizes), num_classes=3, in_chans=2)
    content = {
        "network_weights": {f"_orig_mod.{name}": value for name, value in repeated(model.state_dict()).items()},
        "init_args": {
            "plans": {"configurations": {"2d": sizes}},
            "configuration": "2d",
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainerUMambaEnc",
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.6)], "epoch": [np.int64(3)]},
        "_best_ema": np.float64(0.5),
    }
    torch.save(content | changes, path)
    return model


@torch.no_grad()
def test_a_checkpoint_of_the_originals_trainer(tmp_path):
    model = trainer_file(tmp_path / "checkpoint_final.pth").eval()
    found = from_trainer(tmp_path / "checkpoint_final.pth")
    x = torch.randn(1, 2, 16, 16)
    assert found.registry_name == "umamba_enc" and not found.training
    assert torch.equal(found(x), model(x))


def test_checkpoints_that_are_something_else(tmp_path):
    file = tmp_path / "checkpoint.pth"
    with pytest.raises(ModelError, match="there is no checkpoint"):
        from_trainer(file)
    trainer_file(file, trainer_name="nnUNetTrainer")
    with pytest.raises(ModelError, match="written by nnUNetTrainer; known are"):
        from_trainer(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ModelError, match="no checkpoint of nnU-Net's trainers: 'network_weights' is missing"):
        from_trainer(file)
    torch.save({"network_weights": Path("code")}, file)
    with pytest.raises(ModelError, match="holds code"):
        from_trainer(file)


@pytest.mark.parametrize("name", list_models("segmentation"))
@pytest.mark.parametrize("dims", [2, 3])
def test_every_network_trains_at_every_resolution(name, dims):
    plan = small_plan(dims)
    model = create_model(name, plan=plan, num_classes=2, in_chans=4, seed=0).train()
    x = torch.randn(2, 4, *plan.patch_size)
    outputs = model(x)
    assert [tuple(y.shape) for y in outputs] == [(2, 2, *(16 // 2**i,) * dims) for i in range(2)]
    sum(y.square().mean() for y in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    assert torch.equal(model(x), model.forward_scales(x)[0])
    alone = create_model(name, plan=replace(plan, deep_supervision=False), num_classes=2, in_chans=4).train()
    assert alone(x).shape == (2, 2, *plan.patch_size)


@pytest.mark.parametrize(("name", "dims", "stages"), [
    ("umamba_bot", 2, []), ("residual_unet", 3, []), ("umamba_enc", 2, [0, 2]), ("umamba_enc", 3, [0, 1, 2]),
])  # fmt: skip
def test_where_the_mamba_layers_stand(name, dims, stages):
    model = create_model(name, plan=small_plan(dims), num_classes=2)
    found = [i for i, layer in enumerate(model.encoder.mamba_layers) if isinstance(layer, MambaLayer)]
    assert found == stages
    assert hasattr(model, "mamba_layer") == (name == "umamba_bot")
    bare = {name: value.shape for name, value in model.named_parameters() if "mamba" not in name}
    plain = create_model("residual_unet", plan=small_plan(dims), num_classes=2)
    assert bare == {name: value.shape for name, value in plain.named_parameters()}


@torch.no_grad()
def test_odd_images_are_padded_and_cut_back():
    model = create_model("umamba_bot", plan=small_plan(), num_classes=2, in_chans=1, seed=0).eval()
    x = torch.randn(1, 1, 17, 22)
    larger = torch.cat((x, x[..., -1:].expand(-1, -1, -1, 2)), -1)
    larger = torch.cat((larger, larger[..., -1:, :].expand(-1, -1, 3, -1)), -2)
    torch.testing.assert_close(model(x), model(larger)[..., :17, :22])
    assert [tuple(y.shape[2:]) for y in model.forward_scales(x)] == [(17, 22), (9, 11)]


def test_a_stage_that_scans_channels_takes_its_patch_only():
    model = create_model("umamba_enc", plan=small_plan(), num_classes=2, in_chans=1)
    assert [layer.positions for layer in model.encoder.mamba_layers if isinstance(layer, MambaLayer)] == [None, 16]
    with pytest.raises(ShapeError, match=r"over a map of 16 positions and got \(5, 4\)"):
        model(torch.randn(1, 1, 20, 16))


def test_images_of_another_kind_are_refused():
    model = create_model("umamba_bot", plan=small_plan(), num_classes=2)
    for shape in ((1, 1, 16, 16), (3, 16, 16), (1, 3, 16, 16, 16)):
        with pytest.raises(ShapeError, match=r"must be \(b, c=3, h, w\)"):
            model(torch.randn(shape))


@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
def test_the_scan_stays_in_float32_under_autocast(name):
    model = create_model(name, plan=small_plan(), num_classes=2, in_chans=1, seed=0).train()
    layers = [m for m in model.modules() if isinstance(m, MambaLayer)]
    seen = []
    for layer in layers:
        layer.mamba.in_proj.register_forward_hook(lambda module, given, out: seen.append((given[0].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(2, 1, 16, 16))
        loss = sum(y.float().square().mean() for y in outputs)
    loss.backward()
    assert seen == [(torch.float32, torch.float32)] * len(layers)
    assert outputs[0].dtype == torch.bfloat16  # the convolutions are not
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_seeds():
    plan = small_plan()
    before = torch.random.get_rng_state()
    one, same, other = (create_model("umamba_enc", plan=plan, num_classes=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "encoder.stem.0.conv1.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


@torch.no_grad()
@pytest.mark.parametrize("name", list_models("segmentation"))
def test_a_saved_network_is_built_again(tmp_path, name):
    plan = small_plan(spacing=(0.5, 0.25))
    model = create_model(name, plan=plan, num_classes=3, in_chans=2).eval()
    loaded, how = load_model(save_model(model, tmp_path / "model", {"channels": 2}))
    x = torch.randn(1, 2, 16, 16)
    assert torch.equal(loaded(x), model(x)) and how == {"channels": 2}
    assert loaded.config == model.config and loaded.config.plan == plan


def test_plans_come_in_every_form(tmp_path):
    plan = small_plan()
    file = plan.write(tmp_path / "plan.toml")
    for given in (plan, file, str(file), plan_from(plan.__dict__)):
        assert create_model("umamba_bot", plan=given, num_classes=2).config.plan == plan


def test_initial_values():
    model = create_model("residual_unet", plan=small_plan(features=(32, 64, 64)), num_classes=2, seed=0)
    conv = model.encoder.stages[1][0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # Kaiming, by the inputs
    assert not conv.bias.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "umamba_bott"}, "did you mean umamba_bot"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"plan": {"features": [1]}}, "plan: missing kernel_sizes"),
        ({"plan": "none.toml"}, "there is no plan"),
    ],
)
def test_what_makes_no_network_is_refused(options, words):
    options = {"name": "umamba_bot", "plan": small_plan(), "num_classes": 2} | options
    with pytest.raises(ModelError, match=words):
        create_model(options.pop("name"), **options)


def test_no_decay_of_the_dynamics():
    model = create_model("umamba_bot", plan=small_plan(), num_classes=2)
    assert model.no_weight_decay() == {"mamba_layer.mamba.A_log", "mamba_layer.mamba.D"}
