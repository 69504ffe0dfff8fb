"""A NaN or an infinity stops a training before the weights have it, and is named with step, layer and operator."""

import pytest
import torch
from torch import nn

from ssmlab.core.errors import UserError
from ssmlab.models import create_model
from ssmlab.tasks.classify.task import Classify
from ssmlab.training.config import FitConfig
from ssmlab.training.fit import fit
from ssmlab.training.resume import newest_complete
from tiny import CPU, fit_tiny

TASK = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)
AT = 9  # the step


class Divides(nn.Module):
    """0 / 0, or 1 / 0, in the forward or the backward pass, from one step on."""

    def __init__(self, how):
        super().__init__()
        self.how, self.step = how, 0

    def forward(self, x):
        self.step += self.training
        if not self.training or self.step < AT:
            return x
        zero = (x * 0).detach()
        if self.how == "nan":
            return x + zero / zero
        if self.how == "infinity":
            return x + (zero + 1) / zero
        return x + (x - x.detach()).abs().sqrt()  # 0, with an infinite slope


def model_with(layer):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(192, 8), nn.ReLU(), nn.Dropout(0.1), layer, nn.Linear(8, 3))
    return nn.Sequential(nn.Flatten(), body)


@pytest.mark.parametrize(
    ("how", "value", "where"),
    [
        ("nan", "the loss is nan", "first in layer 1.3, operator aten::div, forward pass"),
        ("infinity", "the loss is (nan|inf)", "first in layer 1.3, operator aten::div, forward pass"),
        ("slope", "the norm of the gradient is nan", r"first in layer 1.3, operator aten::\w+, backward pass"),
    ],
)
def test_step_layer_and_operator_are_named(tmp_path, how, value, where):
    model = model_with(Divides(how))
    with pytest.raises(
        UserError, match=rf"^tiny: {value} at step {AT} \(epoch 1\.3\): {where}; the last checkpoint is"
    ):
        fit_tiny(tmp_path, TASK, model=model)
    assert newest_complete(tmp_path / "checkpoints").name == "checkpoint-6"
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("clip_norm", [0, 1])
def test_without_clipping_too(tmp_path, clip_norm):
    model = model_with(Divides("slope"))
    with pytest.raises(UserError, match=rf"the norm of the gradient is nan at step {AT}"):
        fit_tiny(tmp_path, TASK, model=model, clip_norm=clip_norm)


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = model_with(nn.Identity())
    with torch.no_grad():
        model[1][4].bias[1] = float("inf")
    where = r"the weights 1\.4\.bias are not finite, first in layer 1\.4, operator aten::addmm, forward pass"
    with pytest.raises(UserError, match=rf"at step 1 \(epoch 0\.0\): {where}"):
        fit_tiny(tmp_path, TASK, model=model)


def test_averages_of_a_batch_norm_are_not_taken_for_the_cause(tmp_path):
    """The step has already brought what it met into them."""
    model = model_with(nn.Sequential(Divides("nan"), nn.BatchNorm1d(8)))
    with pytest.raises(UserError, match=rf"at step {AT} .*: first in layer 1\.3\.0, operator aten::div, forward pass"):
        fit_tiny(tmp_path, TASK, model=model)


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"tokens": torch.arange(i, i + 12) % 16, "labels": torch.arange(i + 1, i + 13) % 16}


def test_the_last_layer_of_a_mamba(tmp_path):
    """With the native kernels, whose operators are seen as any."""
    from ssmlab.tasks.language.task import Language

    model = create_model("mamba_lm_test", vocab_size=16)
    blocks = model.backbone.layers
    number = len(blocks) - 1
    mixer = blocks[number].mixer
    mixer.out_proj.register_forward_hook(lambda module, given, out: out * torch.full_like(out, float("nan")))
    config = FitConfig(epochs=1, batch_size=4, learning_rate=1e-3)
    with pytest.raises(UserError, match=rf"at step 1 .*first in layer backbone\.layers\.{number}\.mixer"):
        fit(model, Language(vocab_size=16), Tokens(), None, config, folder=tmp_path, device=CPU, label="m")
