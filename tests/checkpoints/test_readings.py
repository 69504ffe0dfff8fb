"""Saved readings: what is loaded goes on as if nothing had been saved; files of others are refused."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssmlab.checkpoints.prompts import fingerprint, load_prompt_state, save_prompt_state
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model, list_models

SMALL = [name for name in list_models("language") if name.endswith("_test")]
PROMPTS = [[1, 2, 3, 4, 5], [7], [9, 8, 7]]


def build(name, **options):
    torch.manual_seed(0)
    return create_model(name, **options).eval()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_read_save_load_continue_equals_in_one_go(name, dtype, tmp_path):
    model = build(name).to(dtype)
    options = {"max_tokens": 6, "temperature": 1.0, "repetition_penalty": 1.5}
    path = save_prompt_state(model.read(PROMPTS), tmp_path / "state.safetensors", model)
    loaded = load_prompt_state(path, model)
    assert loaded.tokens == tuple(map(tuple, PROMPTS))
    assert model.generate(loaded, **options) == model.generate(PROMPTS, **options)
    for layer, own in zip(loaded.state, model.read(PROMPTS).state):
        assert type(layer) is type(own)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(layer, own))
    longer = model.read([[6], [6], [6]], loaded)
    assert model.generate(longer, **options) == model.generate(
        model.read([[6], [6], [6]], model.read(PROMPTS)), **options
    )
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_the_header_tells_what_was_read(tmp_path):
    model = build("mamba_lm_test")
    path = save_prompt_state(model.read(PROMPTS), tmp_path / "state", model)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert (header["model"], header["tokens"]) == ("mamba_lm_test", "9")
    assert header["model_hash"] == fingerprint(model) and len(header["text_hash"]) == 64


def test_another_model_is_refused_in_one_line(tmp_path):
    model = build("mamba_lm_test")
    path = save_prompt_state(model.read(PROMPTS), tmp_path / "state", model)
    trained = build("mamba_lm_test")
    with torch.no_grad():
        trained.backbone.layers[1].mixer.D.add_(1e-3)
    for other in (
        trained,
        build("mamba_lm_test").bfloat16(),
        build("mamba_lm_test", norm_eps=1e-6),
        build("mamba2_lm_test"),
    ):
        with pytest.raises(ModelError, match=r"is of another model, or of other weights .* \(mamba_lm_test\)") as error:
            load_prompt_state(path, other)
        assert "\n" not in str(error.value)


def test_files_that_are_no_readings(tmp_path):
    model = build("mamba_lm_test")
    path = tmp_path / "state"
    with pytest.raises(ModelError, match="there is no saved state"):
        load_prompt_state(path, model)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is no saved state, or is damaged; --save-state FILE writes one"):
        load_prompt_state(path, model)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="is no saved state of this version"):
        load_prompt_state(path, model)
    save_prompt_state(model.read(PROMPTS), path, model)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(load_file(path) | {"tokens": torch.zeros(9, dtype=torch.int64)}, tmp_path / "changed", metadata=header)
    with pytest.raises(ModelError, match="is damaged, its tokens are not those of its header"):
        load_prompt_state(tmp_path / "changed", model)
    with pytest.raises(ModelError, match="cannot be written"):
        save_prompt_state(model.read(PROMPTS), tmp_path / "nowhere" / "state", model)


def test_a_changed_value_is_found(tmp_path):
    """One bit of each tensor; files of before have no hash of their values."""
    model, path = build("mamba_lm_test"), tmp_path / "state"
    save_prompt_state(model.read(PROMPTS), path, model)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("layers.0."))
    changed = tensors[name].clone()
    changed.view(torch.uint8).view(-1)[5] ^= 1
    save_file(tensors | {name: changed}, path, metadata=header)
    with pytest.raises(ModelError, match="is damaged, its values are not those that were written; read the text again"):
        load_prompt_state(path, model)
    del header["values_hash"]
    save_file(tensors, path, metadata=header)
    assert load_prompt_state(path, model).tokens == model.read(PROMPTS).tokens


def test_a_state_of_before_is_read_without_the_logits_of_no_token(tmp_path):
    torch.manual_seed(0)
    before = create_model("mamba_lm_test", padded_logits=True).eval()  # as all models were
    save_prompt_state(before.read([[1, 2, 3]]), tmp_path / "state", before)
    now = create_model("mamba_lm_test").eval()
    now.load_state_dict(before.state_dict())
    reading = load_prompt_state(tmp_path / "state", now)
    assert reading.logits.shape == (1, 61)
    assert now.generate(reading, max_tokens=5) == now.generate([[1, 2, 3]], max_tokens=5)
