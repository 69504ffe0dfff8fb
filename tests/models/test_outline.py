"""A model on the meta device is an outline: nothing is computed for it."""

from forked import python

SCRIPT = """
import sys
import torch
from ssmlab.models import create_model
for kind in sys.argv[1:]:
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = create_model(f"{kind}_lm_test", vocab_size=512)
    assert all(parameter.is_meta for parameter in model.parameters()), kind
    assert torch.equal(before, torch.get_rng_state()), kind
    assert "torch._dynamo" not in sys.modules, f"{kind}: arithmetic on the meta device imports torch's compiler"
"""


def test_an_outline_draws_nothing_and_imports_no_compiler():
    kinds = ["mamba", "mamba2", "mamba3", "s4d", "transformer"]
    done = python(SCRIPT, *kinds)
    assert done.returncode == 0, done.stderr
