"""transformers' own models with our kernels and on its slow path: with the cache = without it = plain transformers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compat.ten_families import FAMILIES, KERNELS
from ops.common import relative_error
from ssmlab.compat.importing import ASKING_MODELS

# Two interpreters that import transformers: half a minute of one core.
pytestmark = [pytest.mark.slow, pytest.mark.versions]

FIRST = {"mamba", "falcon_mamba", "jamba", "zamba"}  # the others are of Mamba-2
CALLED = {True: set(KERNELS) - {"mamba_chunk_scan_combined"}, False: set(KERNELS) - {"selective_scan_fn"}}
EXACT = ("tokens whole", "tokens padded")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What every family computes on transformers' slow path, and with our kernels: two processes, side by side."""
    folder = tmp_path_factory.mktemp("families")
    env = {k: v for k, v in os.environ.items() if k != "PATH"} | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    program = str(Path(__file__).parent / "ten_families.py")
    running = {
        mode: subprocess.Popen(
            [sys.executable, program, mode, str(folder / mode)], stderr=subprocess.PIPE, text=True, env=env
        )
        for mode in ("plain", "compat")
    }
    results = {}
    for mode, process in running.items():
        errors = process.communicate()[1]
        assert process.returncode == 0, errors[-3000:]
        results[mode] = torch.load(folder / mode, weights_only=True)
    return results


def test_the_families_are_those_that_ask_for_the_kernels():
    assert set(FAMILIES) == set(ASKING_MODELS)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_cache_is_without_it_is_plain_transformers(family, both):
    """A training step with padding on the left, prefill, and greedy text of a whole and of a padded batch."""
    assert not [of[family] for of in both.values() if isinstance(of[family], str)]
    (plain, nothing), (compat, called) = both["plain"][family], both["compat"][family]
    assert not nothing and set(called) == CALLED[family in FIRST]
    assert plain.keys() == compat.keys() and sum(key.startswith("gradient") for key in plain) > 20
    for key, value in plain.items():
        if key.startswith(EXACT):
            assert torch.equal(compat[key], value), key
        else:
            assert relative_error(compat[key], value) < 1e-5, key
    for rows in ("whole", "padded"):
        assert torch.equal(compat[f"tokens {rows} cached"], compat[f"tokens {rows} again"])
        assert relative_error(compat[f"logits {rows} cached"], compat[f"logits {rows} again"]) < 2e-5
    seen = relative_error(plain["logits padded again"][0], plain["logits whole again"][0])
    assert seen > 1e-3  # padding hides tokens
