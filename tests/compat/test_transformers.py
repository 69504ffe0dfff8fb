"""transformers' own models with our kernels and on its slow path, a process each: the same numbers."""

import subprocess
import sys

import pytest
import torch

from ops.common import relative_error

PROGRAM = """
import sys, warnings
import torch
mode, name, out = sys.argv[1:]
called = set()
if mode == "compat":
    import ssmlab.compat
    ssmlab.compat.install()
    import mamba_ssm, causal_conv1d
    def counted(module, name):
        import functools
        function = getattr(module, name)
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            called.add(name)
            return function(*args, **kwargs)
        setattr(module, name, wrapper)
    for n in ("selective_scan_fn", "selective_state_update", "mamba_chunk_scan_combined"):
        counted(mamba_ssm, n)
    for n in ("causal_conv1d_fn", "causal_conv1d_update"):
        counted(causal_conv1d, n)
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(0)
SIZES = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2)
HEADS = dict(num_heads=8, head_dim=8, n_groups=2)
OPTIONS = {"mamba": dict(state_size=8), "falcon_mamba": dict(state_size=8), "mamba2": dict(state_size=8, **HEADS)}
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SIZES, **OPTIONS[name]))
ids = torch.randint(0, 64, (2, 19))
mask = torch.ones_like(ids)
mask[0, :6] = 0  # padding on the left
model.train()
result = model(ids, labels=ids, attention_mask=mask)
result.loss.backward()
found = {"logits": result.logits.detach()} | {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
model.eval()
found["tokens"] = model.generate(ids[:, :7], max_new_tokens=6, min_new_tokens=6, do_sample=False)
torch.save((found, sorted(called)), out)
"""
CONVOLUTIONS = {"causal_conv1d_fn", "causal_conv1d_update"}
CALLED = {
    "mamba": {"selective_scan_fn", "selective_state_update"} | CONVOLUTIONS,
    "falcon_mamba": {"selective_scan_fn", "selective_state_update"} | CONVOLUTIONS,
    "mamba2": {"mamba_chunk_scan_combined", "selective_state_update"} | CONVOLUTIONS,
}


@pytest.mark.parametrize("name", list(CALLED))
def test_same_numbers_on_our_kernels(name, tmp_path):
    results = []
    for mode in ("plain", "compat"):
        out = tmp_path / f"{mode}.pt"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode, name, str(out)], capture_output=True, text=True,
            env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(torch.load(out, weights_only=True))
    (plain, nothing), (compat, called) = results
    assert not nothing and set(called) == CALLED[name]
    assert torch.equal(plain.pop("tokens"), compat.pop("tokens"))
    assert plain.keys() == compat.keys() and len(plain) > 10
    assert max(relative_error(compat[k], plain[k]) for k in plain) < 1e-5  # with padding and in training too
