"""Adapters in runs: what a recipe says, the check before training, and what is left behind."""

import pytest
import torch
from families import batch_for, build, output, relative, shake

from ssmlab import adapt
from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.models import create_model
from ssmlab.nn import SS2D, QuantizedLinear
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.shared import adapting

CHATS, FOLDER = "language/finetune", "classification/own_folder"
ONE = 'models=[{name="mamba_lm_test", label="one"}]'


def numbers(folder, label):
    return {r.metric: r.value for r in read_records(folder / "records.jsonl") if r.model == label and r.step is None}


def test_lora_is_short_for_the_method():
    recipe = load_recipe(CHATS, ["lora=all", "adapt.rank=4"], smoke=True)
    assert recipe.adapt.method == "all" and recipe.adapt.rank == 4
    assert load_recipe(FOLDER, ["lora=x_half+conv"], smoke=True).adapt.method == "x_half+conv"
    assert load_recipe(FOLDER, smoke=True).adapt.method == ""


def test_an_unknown_method_is_told_before_anything_is_loaded():
    with pytest.raises(RecipeError, match="did you mean projections"):
        load_recipe(CHATS, ["lora=projection"], smoke=True)
    with pytest.raises(RecipeError, match="did you mean all|unknown method 'al'"):
        load_recipe(FOLDER, ["models.0.adapt=al"], smoke=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["adapt.rank=16"], r"adapt.rank=16 has no adapters to act on; give adapt.method"),
        (["adapt.rank=8"], r"adapt.rank=8 has no adapters to act on"),  # the default, but said
        (["adapt.base=bf16"], "adapt.base=bf16 has no adapters to act on"),
        (["lora=none", "adapt.rank=4"], "adapt.rank=4 has no adapters to act on"),
        (["lora=affix", "adapt.rank=4"], "adapt.rank does nothing with affix; it is for projections"),
        (["lora=all", "adapt.tokens=8"], "adapt.tokens does nothing with all; it is for affix"),
        (["lora=vocabulary"], "needs adapt.new_tokens"),
        (["lora=all", "adapt.new_tokens=['a']"], "adapt.new_tokens does nothing with all; it is for vocabulary"),
        (["lora=vocabulary", "adapt.new_tokens=['a', 'a']"], "must be texts, each of them once"),
    ],
)
def test_settings_without_adapters_are_told_before_anything_is_loaded(changes, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(FOLDER, changes, smoke=True)


def test_settings_with_adapters_are_taken():
    for changes in (["adapt.gradient_checkpointing=true"], ["models.0.adapt=all", "adapt.rank=4"], ["lora=affix"]):
        recipe = load_recipe(FOLDER, changes, smoke=True)
        assert type(recipe).model_validate(recipe.model_dump()) == recipe  # as a run writes it down


def test_new_tokens_are_learned_and_kept(tmp_path, monkeypatch):
    from ssmlab.checkpoints.files import load_language_model
    from ssmlab.data.text.tokenizers import find_tokenizer

    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
    new = [f"<{i}>" for i in range(8)] + ["User:", "Assistant:"]  # more than there are rows without a token
    changes = [
        "lora=x_half+vocabulary",
        f"adapt.new_tokens={new}",
        ONE,
        "training.epochs=1",
        "data.limit=16",
        "name=one",
    ]
    folder = run_recipe(load_recipe(CHATS, changes, smoke=True), output=tmp_path) / "models" / "one"
    model = load_language_model(folder)
    words = find_tokenizer(folder, model.config.vocab_size)
    assert model.config.vocab_size == words.size == 267 and model.config.padded_vocab == 272 and words.eos == 256
    assert words.encode("User: h\u00e9") == [265, 32, 104, 195, 169]
    assert words.decode(words.encode("User: h\u00e9")) == "User: h\u00e9"
    base = create_model("mamba_lm_test", vocab_size=257)
    adapt.load(base, folder / "adapter", other_base=True)
    assert base.adaptation.new_tokens == tuple(new) and base(torch.tensor([[266]]))[0].shape == (1, 1, 267)
    assert find_tokenizer(folder / "adapter", 267).encode("<7>") == [264]


def test_tokens_in_the_padding_of_the_vocabulary_are_new_ones():
    model = create_model("mamba_lm_test", vocab_size=37)
    before = model.backbone.embedding.weight.detach().clone()
    adapted = adapt.apply(model, "vocabulary", new_tokens=("a", "b"))
    assert model.config.vocab_size == 39 and adapted.trainable == 3 * before.shape[1]
    shake(model)
    assert torch.equal(model.backbone.embedding.weight[:37], before[:37])
    assert not torch.equal(model.backbone.embedding.weight[37:], before[37:])
    with adapt.disabled(model):
        assert torch.equal(model.backbone.embedding.weight, before)
    with pytest.raises(UserError, match="vocab_size must be more than"):
        adapt.apply(create_model("mamba_lm_test", vocab_size=40), "vocabulary")


def test_fine_tuning_with_lora(tmp_path):
    from ssmlab.checkpoints.files import load_language_model

    changes = ["lora=all", ONE, "training.epochs=1", "data.limit=16", "name=one"]
    folder = run_recipe(load_recipe(CHATS, changes, smoke=True), output=tmp_path)
    model = folder / "models" / "one"
    assert {"adapter.json", "adapter.safetensors"} == {path.name for path in (model / "adapter").iterdir()}
    merged = load_language_model(model)
    assert not hasattr(merged, "adaptation")
    found = numbers(folder, "one")
    assert 0 < found["trained_parameters"] < found["parameters"]


@pytest.mark.slow
def test_the_recipe_of_targets_measures_what_is_forgotten(tmp_path):
    models = 'models=[{name="vmamba_test", label="a", adapt="x_half"}, {name="vmamba_test", label="b", adapt="affix"}]'
    recipe = load_recipe("adapt/lora_targets_vision", [models, "data.limit=24"], smoke=True)
    folder = run_recipe(recipe, output=tmp_path)
    a, b = numbers(folder, "a"), numbers(folder, "b")
    assert 0 <= a["base_accuracy"] <= 1 and "forgotten_accuracy" in a and a["peak_memory"] > 0
    assert a["trained_parameters"] != b["trained_parameters"]
    assert (folder / "models" / "a" / "model.safetensors").is_file()
    assert not (folder / "models" / "b" / "model.safetensors").exists()  # an affix has no place in weights
    assert (folder / "models" / "b" / "adapter" / "adapter.safetensors").is_file()


def test_a_run_does_not_start_with_an_inert_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(SS2D, "scan", lambda self, x: x)  # a block that leaves its scan out
    changes = ['models=[{name="vmamba_test", label="one"}]', "data.limit=16", "lora=projections", "name=one"]
    with pytest.raises(UserError, match=r"receive no gradient: .*x_proj_weight"):
        run_recipe(load_recipe(FOLDER, changes, smoke=True), output=tmp_path)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("base", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["mamba_lm_test", "mambavision_test", "resnet_mamba_test"])
def test_frozen_weights_take_less_memory(name, base):
    model = build(name)
    before = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    adapting.keep_base(model, base, "bf16")
    assert sum(t.numel() * t.element_size() for t in model.state_dict().values()) < 0.9 * before
    adapt.apply(model, "projections+D")
    with torch.autocast("cpu", torch.bfloat16, enabled=base == "bf16" and name != "mamba_lm_test"):
        adapt.check(model).raise_for_inert()
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert all(m.A_log.dtype == torch.float32 for m in model.modules() if hasattr(m, "A_log"))


def test_a_base_of_8_bits_merges_into_float32_and_loads_again(tmp_path):
    model, batch = build("mamba_lm_test").eval(), batch_for("mamba_lm_test")
    names = sorted(model.state_dict())
    adapting.keep_base(model, "int8", "float32")
    adapt.apply(model, "all")
    shake(model)
    assert adapt.check(model).merged < 2e-5
    with torch.no_grad():
        expected = output(model, batch)
        again = build("mamba_lm_test").eval()
        adapting.keep_base(again, "int8", "float32")
        adapt.load(again, adapt.save(model, tmp_path))
        assert torch.equal(output(again, batch), expected)
        adapt.merge(model)
        assert relative(output(model, batch), expected) < 2e-5
    assert sorted(model.state_dict()) == names and all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(("method", "whole"), [("conv+dt_bias", True), ("projections+dt_bias+affix", False)])
def test_a_base_of_8_bits_is_written_in_float32_whatever_was_adapted(method, whole, tmp_path):
    from ssmlab.checkpoints.files import save_language_model

    model = build("mamba_lm_test").eval()
    adapting.keep_base(model, "int8", "float32")
    adapt.apply(model, method)
    shake(model)
    with torch.no_grad():
        expected = output(model, batch_for("mamba_lm_test"))
        assert adapting.merge_and_save(model, tmp_path) == whole
        assert relative(output(model, batch_for("mamba_lm_test")), expected) < 2e-5
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())
    save_language_model(model, tmp_path / "model")


MEMORY = {
    "again": ["adapt.gradient_checkpointing=true"],
    "bf16": ["adapt.base=bf16", "training.precision=bf16"],
    "int8": ["adapt.base=int8"],
}


@pytest.mark.parametrize("how", MEMORY)
@pytest.mark.parametrize("name", ["mamba_lm_test", "vmamba_test"])
def test_runs_that_save_memory_train_and_leave_a_whole_model(name, how, tmp_path, monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
    source = CHATS if name == "mamba_lm_test" else FOLDER
    changes = [f'models=[{{name="{name}", label="one"}}]', "lora=all", "training.epochs=1", "data.limit=16", "name=one"]
    changes += [] if source == CHATS else ["data.path=digits"]
    folder = run_recipe(load_recipe(source, changes + MEMORY[how], smoke=True), output=tmp_path)
    found = numbers(folder, "one")
    assert found["peak_memory"] > 0 and 0 < found["trained_parameters"] < found["parameters"]
    model = load_model(folder / "models" / "one")[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert 0 <= found.get("accuracy", 0) <= 1 and 0 < found.get("bits_per_byte", 8) < 9


def test_what_a_device_or_a_model_cannot_do_is_one_line():
    with pytest.raises(RecipeError, match="has no linear layers for it"):
        adapting.keep_base(torch.nn.Conv2d(2, 2, 1), "int8", "float32")
    with pytest.raises(RecipeError, match="precision=bf16"):
        adapting.keep_base(build("vmamba_test"), "bf16", "float32")
    with pytest.raises(RecipeError, match="cannot compute its blocks again"):
        adapting.checkpoint_blocks(torch.nn.Linear(2, 2))


def test_keys_that_would_do_nothing_are_told():
    with pytest.raises(RecipeError, match="'segment' would ignore it"):
        load_recipe("segmentation/roads_umamba", ["lora=all"], smoke=True)
    recipe = load_recipe(FOLDER, ["lora=projections", "training.freeze=backbone"], smoke=True)
    with pytest.raises(RecipeError, match="training.freeze: with adapters"):
        adapting.attach(recipe, recipe.models[0], build("vmamba_test"), None, {}, "float32")


def test_orthogonal_tuning_is_not_for_adapters():
    from ssmlab.tasks.shared.continual import remembering

    recipe = load_recipe("adapt/forgetting_vision", ["models.4.adapt=projections"], smoke=True)
    network = build("vmamba_test")
    adapt.apply(network, "projections")
    with (
        pytest.raises(RecipeError, match="leave adapters out"),
        remembering(object(), recipe.models[4], network, None, "cpu"),
    ):
        raise AssertionError
