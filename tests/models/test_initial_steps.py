"""The initial step sizes are options of every family of recurrent language models."""

import pytest
import torch
from torch.nn import functional as F

from ssmlab.models import create_model


def initial_steps(name, **options):
    block = create_model(name, **options).backbone.layers[0].mixer
    if name.startswith("s4d"):
        return block.log_dt.exp()
    return F.softplus(block.dt_proj.bias if name == "mamba_lm_test" else block.dt_bias)


@pytest.mark.parametrize("name", ["mamba_lm_test", "mamba2_lm_test", "mamba3_lm_test", "s4d_lm_test"])
def test_initial_steps_lie_in_the_range_that_is_asked_for(name):
    torch.manual_seed(0)
    given = initial_steps(name, dt_min=0.2, dt_max=0.3)
    assert (given > 0.199).all() and (given < 0.301).all()
    default = initial_steps(name)
    assert (default > 0.99e-3).all() and (default < 0.101).all()
