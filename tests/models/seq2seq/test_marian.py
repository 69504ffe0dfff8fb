"""transformers' Marian models in folders, as OPUS-MT has them: the same logits here, and back."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import MarianConfig, MarianMTModel

from hub import at_home, serving
from ssmlab.checkpoints import from_upstream
from ssmlab.checkpoints.files import save_language_model
from ssmlab.checkpoints.find import find_model
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError
from ssmlab.generation.beams import BeamOptions
from ssmlab.generation.translate import translate_tokens
from ssmlab.models import create_model
from ssmlab.models.download import local_folder

PAD, EOS = 60, 0
SIZES = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
    "eos_token_id": EOS,
    "forced_eos_token_id": EOS,
    "scale_embedding": True,
    "activation_function": "swish",
    "max_position_embeddings": 64,
    "dropout": 0.2,
    "bad_words_ids": [[PAD], [7, 8]],
}


def original(**options):
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(**SIZES | options)).eval()
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            parameter.data.add_(0.15 * torch.randn_like(parameter))
    model.final_logits_bias.normal_()
    return model


def pair(length=9):
    random = torch.Generator().manual_seed(1)
    source, target = (torch.randint(1, 60, (3, n), generator=random) for n in (length, 6))
    mask = torch.ones(3, length, dtype=torch.bool)
    mask[1, 5:] = False
    return source, torch.cat([torch.full((3, 1), PAD), target], 1), mask


@torch.no_grad()
def theirs(model, source, target, mask):
    return model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits


@torch.no_grad()
def ours(model, source, target, mask):
    return model(target, model.read_source(source, mask))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marian") / "opus-mt-aa-bb"
    original().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"scale_embedding": False, "activation_function": "gelu"}, {"activation_function": "relu"}],
)
def test_a_folder_of_transformers_has_the_same_logits(options, tmp_path):
    model, inputs = original(**options), pair()
    model.save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path)
    expected = theirs(model, *inputs)
    assert float(expected.std()) > 0.5
    assert_close(ours(loaded, *inputs), expected, rtol=1e-5, atol=1e-5)
    other = inputs[0].clone()
    other[:, 0] = inputs[0][:, 0] % 50 + 4
    assert not torch.allclose(theirs(model, other, *inputs[1:]), expected, atol=1e-2), "the source decides"


@pytest.mark.parametrize("beams", [1, 5])
def test_a_search_finds_what_transformers_finds(folder, beams):
    """`early_stopping="never"` is the rule that stops when nothing better can come, as ours."""
    model, (source, _, mask) = MarianMTModel.from_pretrained(folder).eval(), pair()
    length = {"max_new_tokens": 12, "forced_eos_token_id": None, "bad_words_ids": [[PAD]]}
    search = {"num_beams": beams, "do_sample": False} | ({"early_stopping": "never"} if beams > 1 else {})
    expected = model.generate(source, attention_mask=mask.long(), **length, **search)
    sources = [row[seen].tolist() for row, seen in zip(source, mask, strict=True)]
    options = {"options": BeamOptions(beams=beams), "suppress": [PAD], "max_tokens": 12}
    found = translate_tokens(load_model(folder)[0], sources, separator=PAD, eos=EOS, **options)
    for row, (best, *_) in zip(expected[:, 1:].tolist(), found, strict=True):
        assert best.tokens == row[: len(best.tokens)] and set(row[len(best.tokens) :]) <= {PAD}


def test_what_the_folder_means(folder):
    found = find_model(folder)
    assert (found.kind, found.folder) == ("translation", folder)
    model, about = load_model(folder, "translation")
    assert about == {"task": "translate", "separator_id": PAD, "eos": EOS, "pad": PAD, "suppress": [PAD]}
    config = model.config
    assert model.registry_name == "translation_transformer" and config.logits == config.vocab_size == 61
    assert (config.heads, config.encoder_heads, config.n_encoder_layer, config.n_layer) == (2, 4, 2, 3)
    assert config.residual_dropout == config.dropout_embedding == 0.2 and not model.training
    assert model.lm_head.weight is model.backbone.embedding.weight


def test_one_token_at_a_time_is_their_cache(folder):
    model, inputs = load_model(folder)[0], pair()
    expected = theirs(MarianMTModel.from_pretrained(folder).eval(), *inputs)
    with torch.no_grad():
        state = model.read_source(inputs[0], inputs[2])
        for t in range(7):
            logits, state = model(inputs[1][:, t : t + 1], state)
            assert_close(logits, expected[:, t : t + 1], rtol=1e-5, atol=1e-5)


def test_a_source_longer_than_their_table_is_read(folder):
    """Theirs fails from max_position_embeddings on; a table that is long enough gives what ours computes."""
    source, target, _ = pair(100)
    mask = torch.ones(3, 100, dtype=torch.bool)
    short, long = MarianMTModel.from_pretrained(folder).eval(), original(max_position_embeddings=128)
    state = {name: tensor for name, tensor in short.state_dict().items() if "embed_positions" not in name}
    assert all("embed_positions" in name for name in long.load_state_dict(state, strict=False).missing_keys)
    with pytest.raises(IndexError):
        theirs(short, source, target, mask)
    found = ours(load_model(folder)[0], source, target, mask)
    assert_close(found, theirs(long, source, target, mask), rtol=1e-5, atol=1e-5)


def test_older_files_repeat_tensors_and_hold_positions(folder, tmp_path):
    """Old versions wrote all of a state_dict as pytorch_model.bin, with names that their configuration has no more."""
    model = MarianMTModel.from_pretrained(folder).eval()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    old = {"normalize_before": False, "static_position_embeddings": True, "max_length": 512, "num_beams": 6}
    config = json.loads((folder / "config.json").read_text()) | old
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert len(model.state_dict()) > len(dict(model.named_parameters())) + 1
    assert_close(ours(load_model(tmp_path)[0], *pair()), theirs(model, *pair()), rtol=1e-5, atol=1e-5)


def test_a_fine_tuned_model_is_a_folder_of_ours(folder, tmp_path):
    model, about = load_model(folder)
    model.train()
    source, target, mask = pair()
    before = ours(model.eval(), source, target, mask)
    optimizer = torch.optim.SGD(model.train().parameters(), 0.1)
    model(target[:, :-1], model.read_source(source, mask))[0].log_softmax(-1)[..., 5].sum().neg().backward()
    assert model.lm_head.bias.grad is not None
    optimizer.step()
    save_model(model, tmp_path, about)
    again, how = load_model(tmp_path)
    assert how == about
    after = ours(again, source, target, mask)
    assert torch.equal(after, ours(model.eval(), source, target, mask)) and not torch.allclose(after, before)


@pytest.mark.parametrize("source", ["theirs", "ours"])
def test_transformers_opens_what_we_write(folder, source, tmp_path):
    torch.manual_seed(0)
    model = load_model(folder)[0] if source == "theirs" else create_model("translation_transformer_test").eval()
    special = {"pad_token_id": PAD, "decoder_start_token_id": PAD}
    save_language_model(model, tmp_path, layout="huggingface", ends=(EOS,), special=special)
    again = MarianMTModel.from_pretrained(tmp_path).eval()
    assert (again.config.eos_token_id, again.config.decoder_start_token_id) == (EOS, PAD)
    assert_close(theirs(again, *pair()), ours(model, *pair()), rtol=1e-5, atol=1e-5)


def test_from_upstream_takes_a_state_dict():
    model = original()
    loaded = from_upstream("marian", model.config.to_dict(), model.state_dict())
    assert_close(ours(loaded, *pair()), theirs(model, *pair()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False, which our network does"),
        ({"decoder_vocab_size": 50}, "decoder_vocab_size=50"),
        ({"normalize_before": True}, "normalize_before=True"),
        ({"activation_function": "tanh"}, "activation must be one of relu, gelu, silu, swish, got 'tanh'"),
        ({"decoder_layers": 2}, "unknown to the model: backbone.layers.2"),
        ({"eos_token_id": None}, "one token each for begin, end and padding, got eos=None"),
    ],
)
def test_what_ours_has_not_is_told(folder, tmp_path, options, message):
    config = json.loads((folder / "config.json").read_text()) | options
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_a_missing_tensor_is_named():
    model = original()
    state = model.state_dict()
    del state["model.decoder.layers.0.encoder_attn.v_proj.bias"]
    with pytest.raises(ModelError, match=r"backbone.layers.0.cross.block.kv_proj.bias has only 1 of its parts"):
        from_upstream("marian", model.config.to_dict(), state)


def test_what_their_layout_has_no_name_for_is_refused(tmp_path):
    for options in ({"dropout_skip": 0.1}, {"post_norm": False}, {"tie_embeddings": False}):
        with pytest.raises(ModelError, match="cannot hold a model with"):
            save_language_model(create_model("translation_transformer_test", **options), tmp_path, layout="huggingface")
    with pytest.raises(ModelError, match="has no models of the family translation_mamba"):
        save_language_model(create_model("translation_mamba_test"), tmp_path, layout="huggingface")


def test_a_repository_comes_with_its_tokenizer(folder, tmp_path, monkeypatch):
    with serving() as server, at_home(tmp_path, server.address, monkeypatch):
        server.add("aa/opus-mt-aa-bb", folder)
        for name in ("source.spm", "target.spm", "vocab.json"):
            server.files["aa/opus-mt-aa-bb", name] = b"{}"
        found = local_folder("aa/opus-mt-aa-bb")
        assert {"source.spm", "target.spm", "vocab.json", "config.json"} <= {file.name for file in found.iterdir()}
        assert torch.equal(ours(load_model(found)[0], *pair()), ours(load_model(folder)[0], *pair()))
