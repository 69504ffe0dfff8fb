"""nnU-Net's residual-encoder U-Net: golden cases of the original, sizes, and plans of its presets."""

from pathlib import Path

import pytest
import torch

import parity
from ssmlab.core.errors import ShapeError
from ssmlab.models import create_model
from ssmlab.models.segmentation.plans import PRESETS, plan_from, propose_plan, training_bytes

ROOT, CASES = parity.cases_in(Path(__file__).parent.parent / "parity_data" / "resenc_unet")
PLAN = {"patch_size": [16, 16], "features": [4, 8], "kernel_sizes": [[3, 3]] * 2, "strides": [[1, 1], [2, 2]],
        "n_conv_encoder": [1, 1], "n_conv_decoder": [1]}  # fmt: skip


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_case(path):
    worst, where = parity.check_case(ROOT, path, parity.load_fill(ROOT))
    assert worst <= 1, where


def test_sizes_and_scales():
    model = create_model("resenc_unet", plan=PLAN, num_classes=3, in_chans=1, seed=0)
    x = torch.randn(2, 1, 13, 10)
    assert [tuple(y.shape) for y in model.train()(x)] == [(2, 3, 13, 10)]
    assert model.eval()(x).shape == (2, 3, 13, 10)
    with pytest.raises(ShapeError, match="images must be"):
        model(torch.randn(2, 3, 16, 16))
    again = create_model("resenc_unet", plan=PLAN, num_classes=3, in_chans=1, seed=0).eval()
    assert torch.equal(model(x), again(x))
    names = {name for name, _ in model.named_modules()}
    assert {"encoder.stages.0.blocks.0", "encoder.stages.1.blocks.2"} <= names
    assert "encoder.stages.1.blocks.3" not in names, "1 and 3 blocks, whatever the plan says"


def test_plans_of_its_presets():
    found = {}
    for name, gibibytes in PRESETS.items():
        plan = propose_plan((128, 512, 512), (3.0, 0.8, 0.8), gibibytes * 2**30, channels=1, residual_encoder=True)
        assert plan.n_conv_encoder[:4] == (1, 3, 4, 6) and set(plan.n_conv_encoder[4:]) <= {6}
        assert set(plan.n_conv_decoder) == {1} and plan == plan_from(vars(plan))
        assert training_bytes(plan, 1, 2) <= gibibytes * 2**30
        found[name] = plan.batch_size * plan.patch_size[0] * plan.patch_size[1] * plan.patch_size[2]
    assert found["resenc_m"] < found["resenc_l"]
