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
S = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2)
A = dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)
B = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_expand=2)
OPTIONS = {
    "mamba": dict(state_size=8),
    "falcon_mamba": dict(state_size=8),
    "mamba2": dict(state_size=8, num_heads=8, head_dim=8, n_groups=2),
    "jamba": dict(**A, num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
                  expert_layer_offset=1, num_experts=2, mamba_d_state=8, mamba_dt_rank=4),
    "zamba": dict(**A, num_hidden_layers=6, attn_layer_period=3, attn_layer_offset=2, mamba_d_state=8, mamba_dt_rank=4,
                  n_mamba_heads=2, attention_hidden_size=64, attention_head_dim=16),
    "bamba": dict(**A, **B, attn_layer_indices=[1]),
    "falcon_h1": dict(**A, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1),
    "granitemoehybrid": dict(**A, **B, layer_types=["mamba", "attention"], num_local_experts=2, num_experts_per_tok=1,
                             shared_intermediate_size=32),
    "nemotron_h": dict(**A, hybrid_override_pattern="M*M-", num_hidden_layers=4, mamba_num_heads=8, mamba_head_dim=8,
                       ssm_state_size=8, n_groups=1, head_dim=8),
}
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(S | OPTIONS[name])))
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
FIRST = {"selective_scan_fn", "selective_state_update"} | CONVOLUTIONS
SECOND = {"mamba_chunk_scan_combined", "selective_state_update"} | CONVOLUTIONS
CALLED = {"mamba": FIRST, "falcon_mamba": FIRST, "mamba2": SECOND}
HYBRIDS = {"jamba": FIRST, "zamba": FIRST, "bamba": SECOND, "falcon_h1": SECOND, "granitemoehybrid": SECOND,
           "nemotron_h": SECOND}  # fmt: skip
EVERY = ["mamba", *(pytest.param(name, marks=pytest.mark.slow) for name in [*CALLED, *HYBRIDS] if name != "mamba")]


@pytest.mark.parametrize("name", EVERY)
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
    assert not nothing and set(called) == (CALLED | HYBRIDS)[name]
    assert torch.equal(plain.pop("tokens"), compat.pop("tokens"))
    assert plain.keys() == compat.keys() and len(plain) > 10
    assert max(relative_error(compat[k], plain[k]) for k in plain) < 1e-5  # with padding and in training too
