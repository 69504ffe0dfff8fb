"""A model on the meta device is an outline: nothing is computed for it."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import torch
from ssmlab.models.language import create_language_model
before = torch.get_rng_state()
with torch.device("meta"):
    model = create_language_model(sys.argv[1], vocab_size=512)
assert all(parameter.is_meta for parameter in model.parameters())
assert torch.equal(before, torch.get_rng_state())
assert "torch._dynamo" not in sys.modules, "arithmetic on the meta device imports torch's compiler"
"""


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "mamba3", "s4d", "transformer"])
def test_an_outline_draws_nothing_and_imports_no_compiler(kind):
    subprocess.run([sys.executable, "-c", SCRIPT, f"{kind}_lm_test"], check=True)
