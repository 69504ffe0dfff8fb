"""Residual dropout: off by default, in training only, and on every branch of every block."""

import pytest
import torch
from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models import create_model

NAMES = ["vmamba_test", "medmamba_test", "vim_test"]


def build(name, **options):
    torch.manual_seed(0)
    return create_model(name, num_classes=3, image_size=32, **options)


@pytest.mark.parametrize("name", NAMES)
def test_it_changes_training_alone(name):
    x, plain, dropped = torch.randn(2, 3, 32, 32), build(name), build(name, residual_dropout=0.5)
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    assert torch.equal(plain.eval()(x), dropped.eval()(x))
    dropped.train()
    torch.manual_seed(1)
    one = dropped(x)
    torch.manual_seed(2)
    assert not torch.allclose(one, dropped(x))


def test_every_branch_of_every_block_has_it():
    model = build("vmamba_test", residual_dropout=0.25).train()
    seen = []

    def share(output):
        return float((output == 0).float().mean())

    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p == 0.25:
            module.register_forward_hook(
                lambda module, inputs, output: seen.append(float((output == 0).float().mean()))
            )
    model(torch.randn(4, 3, 32, 32))
    assert len(seen) == 2 * sum(model.config.depths)  # SS2D and MLP
    assert all(found == pytest.approx(0.25, abs=0.08) for found in seen)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_out_of_range_is_told(name):
    with pytest.raises(ModelError, match=r"residual_dropout must be in \[0, 1\), got 1.0"):
        build(name, residual_dropout=1.0)
