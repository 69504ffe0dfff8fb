"""Plans: nnU-Net's files in both forms, our own, what is refused, and what is proposed for images."""

import json
from dataclasses import replace

import pytest

from ssmlab.core.errors import ModelError
from ssmlab.models.segmentation.plans import Plan, plan_from, propose_plan, read_plan, topology, training_bytes

SMALL = Plan(
    patch_size=[32, 48],
    features=[8, 16, 32],
    kernel_sizes=[[3, 3]] * 3,
    strides=[[1, 1], [2, 2], [2, 2]],
    n_conv_encoder=[2, 2, 2],
    n_conv_decoder=[2, 2],
)
OLD = {
    "patch_size": [32, 48],
    "conv_kernel_sizes": [[3, 3]] * 3,
    "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2]],
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "UNet_base_num_features": 8,
    "unet_max_num_features": 32,
}
SIZES = {
    "features_per_stage": [8, 16, 32],
    "kernel_sizes": [[3, 3]] * 3,
    "strides": [[1, 1], [2, 2], [2, 2]],
    "n_conv_per_stage_decoder": [2, 2],
}


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_written_plan_is_read_again(tmp_path, suffix):
    plan = replace(SMALL, spacing=(0.5, 2.0), batch_size=7, deep_supervision=False)
    assert read_plan(plan.write(tmp_path / f"plan.{suffix}")) == plan
    assert (plan.dims, plan.n_stages, plan.divisor) == (2, 3, (4, 4))
    assert plan.map_sizes() == [(32, 48), (16, 24), (8, 12)]


def test_a_plan_can_be_edited(tmp_path):
    file = SMALL.write(tmp_path / "plan.toml")
    text = file.read_text()
    assert "patch_size = [32, 48]\n" in text
    file.write_text(text.replace("[32, 48]", "[64, 64]"))
    assert read_plan(file) == replace(SMALL, patch_size=(64, 64))


@pytest.mark.parametrize("count", ["n_conv_per_stage", "n_blocks_per_stage"])
def test_both_forms_of_nnunets_plans(tmp_path, count):
    new = {"patch_size": [32, 48], "architecture": {"arch_kwargs": SIZES | {count: [2, 2, 2]}}}
    assert plan_from(OLD) == plan_from(new) == SMALL
    file = tmp_path / "plans.json"
    content = {"configurations": {"2d": new, "small": {"inherits_from": "2d", "batch_size": 5}}}
    file.write_text(json.dumps(content))
    assert read_plan(file, "2d") == SMALL
    assert read_plan(file, "small").batch_size == 5
    with pytest.raises(ModelError, match="the configurations 2d, small; name one"):
        read_plan(file)
    with pytest.raises(ModelError, match="the configurations 2d, small; name one of them, got '3d'"):
        read_plan(file, "3d")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": (32,)}, "2 or 3 numbers"),
        ({"patch_size": (30, 48)}, r"must be a multiple of \(4, 4\)"),
        ({"features": (8,)}, "at least 2 stages"),
        ({"strides": ((1, 1), (2, 2))}, "strides must have 3 entries for 3 stages"),
        ({"n_conv_decoder": (2, 2, 2)}, "n_conv_decoder must have 2 entries"),
        ({"kernel_sizes": ((3, 3), (3, 3), (3,))}, "kernel_sizes must have 2 numbers a stage"),
        ({"kernel_sizes": ((3, 3), (3, 3), (2, 3))}, "must be odd"),
        ({"n_conv_encoder": (2, 2, 0)}, "at least 1"),
        ({"batch_size": 1.5}, "whole number"),
        ({"spacing": (1.0,)}, "spacing must have 2 numbers"),
        ({"spacing": (1.0, -1.0)}, "spacing must be above 0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(change, words):
    with pytest.raises(ModelError, match=words):
        replace(SMALL, **change)


def test_files_that_are_no_plans(tmp_path):
    with pytest.raises(ModelError, match="there is no plan .*none.toml; `ssmlab plan DATA -o plan.toml` writes one"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ModelError, match=r"neither TOML nor JSON \(Expecting .*`ssmlab plan DATA -o plan.toml` writes"):
        read_plan(tmp_path / "a.json")
    (tmp_path / "long.txt").write_text("First Citizen:\n")
    with pytest.raises(
        ModelError, match=r"long.txt is neither TOML nor JSON; a plan is a .toml or .json file, `ssmlab"
    ):
        read_plan(tmp_path / "long.txt")
    with pytest.raises(ModelError, match=r"plan: unknown colour; missing kernel_sizes, n_conv_decoder, strides"):
        plan_from({"colour": 1, "features": [1, 2], "patch_size": [4, 4], "n_conv_encoder": [1, 1]})
    with pytest.raises(ModelError, match="nnU-Net's plan has no UNet_base_num_features"):
        plan_from({key: value for key, value in OLD.items() if key != "UNet_base_num_features"})
    with pytest.raises(ModelError, match=r"as \.toml or \.json"):
        SMALL.write(tmp_path / "plan.yaml")


def test_anisotropic_volumes_are_pooled_in_the_plane_first():
    """By nnU-Net's rule, with spacings 3, 0.8, 0.8: the coarse axis waits until the others are within a factor 2."""
    strides, kernels, patch = topology((48, 160, 224), (3.0, 0.8, 0.8))
    assert strides == [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert kernels == [(1, 3, 3), *[(3, 3, 3)] * 5]
    assert patch == (48, 160, 224)


@pytest.mark.parametrize("size", [(400, 400), (565, 584), (100, 37), (96, 96, 96), (20, 300, 200)])
def test_a_proposal_keeps_the_rules(size):
    most = {2: 512, 3: 320}[len(size)]
    for memory in (4, 16):
        plan = propose_plan(size, None, memory * 2**30, 3, 2)
        assert training_bytes(plan, 3, 2) <= memory * 2**30
        assert plan.features == tuple(min(32 * 2**i, most) for i in range(plan.n_stages))
        last = sorted(plan.map_sizes()[-1])
        assert last[0] >= 4 and last[-2] < 8 and last[-1] < 12  # one axis alone is halved from 12 on only
        assert all(n < most + step for n, most, step in zip(plan.patch_size, size, plan.divisor, strict=True))
        assert 2 <= plan.batch_size <= 12


def test_more_memory_never_makes_a_smaller_patch():
    areas = [propose_plan((400, 400), None, gib * 2**30, 3, 2).patch_size for gib in (1.5, 2, 4, 8)]
    assert areas == sorted(areas) and areas[0] < areas[-1]


def test_proposals_as_asked():
    plan = propose_plan((40, 512, 512), (5.0, 1.0, 1.0), dims=2, channels=1, base_features=8, batch_size=3)
    assert plan.dims == 2 and plan.features[:3] == (8, 16, 32) and plan.batch_size == 3
    with pytest.raises(ModelError, match="dims=3 does not fit"):
        propose_plan((64, 64), dims=3)
    with pytest.raises(ModelError, match="2 or 3 numbers above 0 each"):
        propose_plan((64, 64), (1.0,))
    with pytest.raises(ModelError, match="need at least 8 pixels along two axes"):
        propose_plan((7, 7))
    with pytest.raises(ModelError, match="must hold 2 patches"):
        propose_plan((96, 96, 96), memory_bytes=2**20)
