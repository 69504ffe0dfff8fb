"""The language models: their layout in files, generation, hybrids, both versions' signatures."""

import json
import os
import re
from functools import partial

import pytest
import torch
from torch import nn

from hub import at_home, closed_port
from ops.common import relative_error
from ssmlab.checkpoints.files import load_language_model
from ssmlab.compat.mamba_ssm.models.config_mamba import MambaConfig
from ssmlab.compat.mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel, MixerModel, _init_weights, create_block
from ssmlab.compat.mamba_ssm.modules import block as two
from ssmlab.compat.mamba_ssm.modules import mamba_simple as one
from ssmlab.compat.mamba_ssm.modules.mha import MHA
from ssmlab.compat.mamba_ssm.modules.mlp import GatedMLP
from ssmlab.compat.mamba_ssm.ops.triton.layer_norm import RMSNorm
from ssmlab.compat.mamba_ssm.utils import generation
from ssmlab.compat.mamba_ssm.utils.generation import InferenceParams, sample
from ssmlab.core.errors import UserError

MAMBA2 = {"layer": "Mamba2", "headdim": 8, "d_state": 8}
ATTENTION = {"causal": True, "num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 4}
KINDS = {
    "Mamba1": {},
    "LayerNorm": {"rms_norm": False, "fused_add_norm": False, "residual_in_fp32": False, "tie_embeddings": False},
    "Mamba2": {"ssm_cfg": MAMBA2, "d_intermediate": 24},
    "Mamba3": {"ssm_cfg": {"layer": "Mamba3", "headdim": 8, "d_state": 8}},
    "hybrid": {"ssm_cfg": MAMBA2, "attn_layer_idx": [1], "attn_cfg": ATTENTION | {"d_conv": 4, "mlp_dim": 16}},
    "interleaved": {"attn_layer_idx": [0], "attn_cfg": ATTENTION | {"rotary_emb_interleaved": True, "head_dim": 6}},
}


def made(kind, **changes):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layer": 2, "vocab_size": 30} | KINDS[kind] | changes
    return MambaLMHeadModel(MambaConfig(**sizes)).eval()


def tokens(*shape):
    return torch.randint(0, 30, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_what_the_whole_gives(kind):
    model, x = made(kind), tokens(2, 11)
    whole = model(x).logits
    assert whole.shape == (2, 11, 32), "the vocabulary is rounded up"
    for cache in ({}, model.allocate_inference_cache(2, 11)):
        params = InferenceParams(max_seqlen=11, max_batch_size=2, key_value_memory_dict=cache)
        parts = [model(x[:, :5], inference_params=params).logits]
        for t in range(5, 11):
            params.seqlen_offset = t
            parts.append(model(x[:, t : t + 1], inference_params=params, num_last_tokens=1).logits)
        assert relative_error(torch.cat(parts, 1), whole) < 2e-6
        assert sorted(params.key_value_memory_dict) == [0, 1]
    assert relative_error(model(x, num_last_tokens=3).logits, whole[:, -3:]) < 1e-6


@pytest.mark.parametrize("kind", ["Mamba1", "Mamba2", "hybrid"])
def test_generation(kind):
    model, x = made(kind), tokens(2, 5)
    found = model.generate(x, max_length=12, return_dict_in_generate=True, output_scores=True, vocab_size=30)
    expected = x
    for step in range(7):
        logits = model(expected).logits[:, -1, :30]
        assert relative_error(found.scores[step], logits.detach()) < 2e-6
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(found.sequences, expected)
    for options in ({"cg": True}, {"cg": True}, {"temperature": 0.0, "top_k": 0}):  # the second takes the first's cache
        assert torch.equal(model.generate(x, max_length=12, vocab_size=30, **options), expected)
    taught = model.generate(x, max_length=9, teacher_outputs=tokens(2, 8))
    assert torch.equal(taught[:, 5:8], tokens(2, 8)[:, 5:])
    end = int(expected[0, 5])
    assert model.generate(x[:1], max_length=12, vocab_size=30, eos_token_id=end).shape == (1, 6)


def test_generation_streams_times_and_penalizes(capsys):
    model, x, put = made("Mamba1"), tokens(1, 4), []

    class Streamer:
        def put(self, value):
            put.append(value)

        def end(self):
            put.append(None)

    y = model.generate(x, max_length=8, streamer=Streamer(), enable_timing=True, repetition_penalty=1e9)
    assert put[-1] is None and torch.equal(torch.cat(put[:-1], 1), y)
    assert re.search(r"decoding time: \d+ms", capsys.readouterr().out)
    assert len(set(y[0].tolist())) == len(set(x[0].tolist())) + 4, "no token comes twice"
    plain = model.generate(x, max_length=8)
    assert len(set(plain[0].tolist())) < len(set(y[0].tolist()))


def test_sampling():
    torch.manual_seed(0)
    logits = torch.tensor([[3.0, 2.0, 1.0, -5.0]]).repeat(400, 1)

    def drawn(**options):
        return set(sample(logits, **options).tolist())

    assert drawn(top_k=1) == {0} and drawn(top_k=2) == {0, 1} and drawn(top_k=2, top_p=0.5) == {0}
    assert drawn(top_k=0, top_p=0.9) == {0, 1} and {0, 1, 2} <= drawn(top_k=0)
    assert drawn(top_k=0, min_p=0.2) == {0, 1} and drawn(top_k=0, temperature=1e-3) == {0}
    assert drawn(top_k=9, temperature=50.0) == {0, 1, 2, 3}
    with pytest.raises(UserError, match="top_p must be at most 1, got 1.5"):
        sample(logits, top_k=0, top_p=1.5)
    one_row = torch.tensor([[1.0, 3.0, 2.0]])
    generation.modify_logits_for_top_k_filtering(one_row, 2)
    generation.modify_logits_for_min_p_filtering(one_row, 0.5)
    assert one_row.isinf().tolist() == [[True, False, False]]
    penalized = generation.modify_logit_for_repetition_penalty(
        torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1]]), 2
    )
    assert penalized.tolist() == [[1.0, -4.0, 1.0]]


@pytest.mark.parametrize("kind", ["Mamba1", "hybrid", "LayerNorm"])
def test_folders(kind, tmp_path):
    model, x = made(kind), tokens(1, 6)
    model.save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["d_model"] == 16
    again = MambaLMHeadModel.from_pretrained(str(tmp_path / "new")).eval()
    assert torch.equal(again(x).logits, model(x).logits)
    assert (again.lm_head.weight is again.backbone.embedding.weight) == again.config.tie_embeddings
    half = MambaLMHeadModel.from_pretrained(tmp_path / "new", dtype=torch.bfloat16, device="cpu")
    assert half.backbone.embedding.weight.dtype == torch.bfloat16
    if kind == "Mamba1":
        assert relative_error(load_language_model(tmp_path / "new")(x)[0].detach(), model(x).logits.detach()) < 2e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "pytorch_model.bin").unlink(), "has no pytorch_model.bin or model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "mamba"}'), "the unknown 'model_type'"),
        (lambda f: (f / "config.json").write_text("{}"), "no d_model or no n_layer"),
        (lambda f: (f / "config.json").write_text('{"d_model": 8, "n_layer": 2, "vocab_size": 30}'), "do not fit"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "no weights that torch can read"),
    ],
)
def test_damaged_folders(change, message, tmp_path):
    made("Mamba1").save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        MambaLMHeadModel.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_name_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"state-spaces/nothing/resolve/main/config.json cannot be had") as raised:
        MambaLMHeadModel.from_pretrained("state-spaces/nothing")
    assert "\n" not in str(raised.value)
    waits = []
    with at_home(tmp_path, closed_port(), monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", os.environ["HF_ENDPOINT"])
        monkeypatch.setattr("time.sleep", waits.append)
        with pytest.raises(UserError, match=r"config.json cannot be had: .*Connection refused.* and give that"):
            MambaLMHeadModel.from_pretrained("state-spaces/nothing")
    assert not waits, "the client alone tries five times more, for 23 s"


def test_both_versions_signatures():
    options = {"d_state": 4}
    old = [create_block(8, options, 1e-3, True, layer_idx=1), create_block(8, ssm_cfg=options, norm_epsilon=1e-3)]
    new = create_block(8, 16, options, None, None, 1e-3, True)
    for block in (*old, new):
        assert block.norm.eps == 1e-3 and block.mixer.d_state == 4
    assert old[0].mlp is None and isinstance(old[0].norm, RMSNorm) and old[0].layer_idx == old[0].mixer.layer_idx == 1
    assert isinstance(new.mlp, GatedMLP) and isinstance(create_block(8, None).mixer, one.Mamba)
    assert MixerModel(8, 2, 30, options, 1e-3).norm_f.eps == 1e-3, "1.x: (d_model, n_layer, vocab_size, ssm_cfg, ...)"
    assert MixerModel(8, 2, 30).embedding.num_embeddings == 30
    assert MixerModel(8, 2, 16, 30).layers[0].mlp is not None, "2.x: (d_model, n_layer, d_intermediate, vocab_size)"
    with pytest.raises(UserError, match="must be one of Mamba1, Mamba2, Mamba3, got 'Mamba4'"):
        create_block(8, ssm_cfg={"layer": "Mamba4"})


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("norm", [nn.LayerNorm, RMSNorm])
def test_blocks_add_then_norm(fused, norm):
    torch.manual_seed(0)

    class Mixer(nn.Linear):
        def forward(self, x, inference_params=None, scale=1):
            return scale * super().forward(x)

    options = {"norm_cls": norm, "fused_add_norm": fused, "residual_in_fp32": True}
    mixer = partial(Mixer, 8)
    block = two.Block(8, mixer, partial(GatedMLP, hidden_features=8, multiple_of=8), **options)
    x, residual = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    y, after = block(x, residual, scale=2)
    mixed = 2 * nn.Linear.forward(block.mixer, block.norm(x + residual))
    torch.testing.assert_close(after, x + residual + mixed)
    torch.testing.assert_close(y, block.mlp(block.norm2(after)))
    old = one.Block(8, mixer, **options)
    old.load_state_dict({k: t for k, t in block.state_dict().items() if k in old.state_dict()})
    y, after = old(x)
    torch.testing.assert_close(y, nn.Linear.forward(block.mixer, block.norm(x)))
    assert torch.equal(after, x) and len(old.state_dict()) < len(block.state_dict())
    if fused:
        with pytest.raises(UserError, match="needs LayerNorm or RMSNorm, got BatchNorm1d"):
            one.Block(8, mixer, nn.BatchNorm1d, fused_add_norm=True)


def test_initial_values():
    torch.manual_seed(0)
    layer, mlp = nn.Linear(64, 64), GatedMLP(64, 64, bias=True)
    layer.bias._no_reinit = True
    kept = layer.bias.detach().clone()
    _init_weights(layer, 4)
    assert torch.equal(layer.bias, kept)
    before = mlp.fc1.weight.detach().clone()
    mlp.apply(partial(_init_weights, n_layer=4, n_residuals_per_layer=2))
    assert not mlp.fc2.bias.any() and torch.equal(mlp.fc1.weight, before)
    assert 0.9 < float(mlp.fc2.weight.detach().abs().max()) * 128**0.5 * 8**0.5 <= 1
    embedding = nn.Embedding(500, 64)
    _init_weights(embedding, 4, initializer_range=0.5)
    assert float(embedding.weight.detach().std()) == pytest.approx(0.5, rel=0.05)


def test_attention_of_all_tokens_and_its_errors():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    block = MHA(16, 4, softmax_scale=0.5)
    q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in block.in_proj(x).chunk(3, -1))
    y = (0.5 * q @ k.mT).softmax(-1) @ v
    torch.testing.assert_close(block(x), block.out_proj(y.transpose(1, 2).flatten(2)))
    with pytest.raises(UserError, match="layer_idx=None"):
        block(x, InferenceParams(5, 2))
    with pytest.raises(UserError, match="the cache has 2 rows of 4 tokens"):
        MHA(16, 4, layer_idx=0)(x, InferenceParams(4, 2))
    with pytest.raises(UserError, match="num_heads_kv must divide num_heads"):
        MHA(16, 4, num_heads_kv=3)
