"""What transformers' state space families compute, with our kernels or without: `ten_families.py plain|compat OUT`.

One process a mode, since a model file looks for the kernels when it is first imported. OUT holds, by family, the
results and the names of the kernels that were called; or the traceback.
"""

import functools
import sys
import traceback

import torch

PROMPT, NEW = 7, 6  # tokens
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
SECOND = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
FAMILIES = {
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "falcon_mamba": {"state_size": 8},
    "jamba": ATTENTION | {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
                          "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "zamba": ATTENTION | {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2, "mamba_d_state": 8,
                          "mamba_dt_rank": 4, "n_mamba_heads": 2, "attention_hidden_size": 64,
                          "attention_head_dim": 16},
    "zamba2": {"num_attention_heads": 4, "intermediate_size": 48, "mamba_d_state": 8, "n_mamba_heads": 8,
               "mamba_ngroups": 2, "chunk_size": 8, "adapter_rank": 4, "num_hidden_layers": 3,
               "layers_block_type": ["linear_attention", "hybrid", "linear_attention"]},
    "bamba": ATTENTION | SECOND | {"attn_layer_indices": [1]},
    "falcon_h1": ATTENTION | {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
                              "mamba_n_groups": 1},
    "granitemoehybrid": ATTENTION | SECOND | {"layer_types": ["mamba", "attention"], "num_local_experts": 2,
                                              "num_experts_per_tok": 1, "shared_intermediate_size": 32},
    "nemotron_h": ATTENTION | {"hybrid_override_pattern": "M*M-", "num_hidden_layers": 4, "mamba_num_heads": 8,
                               "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "head_dim": 8},
}  # fmt: skip
KERNELS = ("selective_scan_fn", "selective_state_update", "mamba_chunk_scan_combined", "causal_conv1d_fn",
           "causal_conv1d_update")  # fmt: skip


def build(family: str):
    """A tiny model that looks back: its embeddings are not its head, and its weights are large."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "tie_word_embeddings": False}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(sizes | FAMILIES[family])))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model


def numbers(family: str) -> dict[str, torch.Tensor]:
    """A training step with padding on the left; then prefill and greedy text, with and without the cache."""
    model = build(family)
    ids = torch.randint(3, 64, (2, 19), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    result = model.train()(ids, labels=ids, attention_mask=mask)
    result.loss.backward()
    found = {f"gradient {k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
    found |= {"loss": result.loss.detach(), "train": result.logits.detach()}
    model.eval()
    prompt = {"whole": torch.ones_like(mask[:, :PROMPT]), "padded": mask[:, :PROMPT]}
    call = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0,
            "return_dict_in_generate": True, "output_logits": True}  # fmt: skip
    for name, kept in prompt.items():
        with torch.no_grad():
            logits = model(ids[:, :PROMPT], attention_mask=kept, use_cache=True).logits
            found[f"prefill {name}"] = logits * kept[..., None]
        for how, cached in (("cached", True), ("again", False)):
            text = model.generate(ids[:, :PROMPT], attention_mask=kept, use_cache=cached, **call)
            found[f"tokens {name} {how}"] = text.sequences
            found[f"logits {name} {how}"] = torch.stack(text.logits, 1)
    return found


def lend() -> set[str]:
    """Install our kernels; the set that every call of one adds its name to."""
    import ssmlab.compat

    ssmlab.compat.install()
    import causal_conv1d
    import mamba_ssm

    called: set[str] = set()

    def counted(name, function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            called.add(name)
            return function(*args, **kwargs)

        return wrapper

    for name in KERNELS:
        module = causal_conv1d if name.startswith("causal_conv1d") else mamba_ssm
        setattr(module, name, counted(name, getattr(module, name)))
    return called


if __name__ == "__main__":
    mode, out = sys.argv[1:]
    called = lend() if mode == "compat" else set()
    results = {}
    for family in FAMILIES:
        called.clear()
        try:
            results[family] = (numbers(family), sorted(called))
        except Exception:
            results[family] = traceback.format_exc()
    torch.save(results, out)
