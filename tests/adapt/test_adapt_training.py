"""Adapters in runs: what a recipe says, the check before training, and what is left behind."""

import pytest
import torch
from families import build

from ssmlab import adapt
from ssmlab.errors import RecipeError, UserError
from ssmlab.nn import SS2D
from ssmlab.reports.record import read_records
from ssmlab.training import adapting
from ssmlab.training.recipe import load_recipe
from ssmlab.training.run import run_recipe

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
def test_frozen_weights_take_less_memory(base):
    model = build("mamba_lm_test")
    before = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    adapting.keep_base(model, base, "float32")
    assert sum(t.numel() * t.element_size() for t in model.state_dict().values()) < 0.9 * before
    mixer = model.backbone.layers[0].mixer
    assert mixer.A_log.dtype == torch.float32 and mixer.in_proj.weight.dtype != torch.float32
    adapt.apply(model, "projections+D")
    report = adapt.check(model)
    assert not report.inert
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_what_a_device_or_a_model_cannot_do_is_one_line():
    with pytest.raises(RecipeError, match="int8 is for language models"):
        adapting.keep_base(build("vmamba_test"), "int8", "float32")
    with pytest.raises(RecipeError, match="precision=bf16"):
        adapting.keep_base(build("vmamba_test"), "bf16", "float32")
    with pytest.raises(RecipeError, match="cannot compute its blocks again"):
        adapting.checkpoint_blocks(torch.nn.Linear(2, 2))


def test_keys_that_would_do_nothing_are_told():
    with pytest.raises(RecipeError, match="'segment' would ignore it"):
        load_recipe("segmentation/roads_umamba", ["lora=all"], smoke=True)
    recipe = load_recipe(FOLDER, ["lora=projections", "training.freeze=backbone"], smoke=True)
    with pytest.raises(RecipeError, match="training.freeze: with adapters"):
        adapting.put_on(recipe, recipe.models[0], build("vmamba_test"), None, {}, "float32")


def test_orthogonal_tuning_is_not_for_adapters():
    from ssmlab.training.remedies import remembering

    recipe = load_recipe("adapt/forgetting_vision", ["models.4.adapt=projections"], smoke=True)
    network = build("vmamba_test")
    adapt.apply(network, "projections")
    with (
        pytest.raises(RecipeError, match="leave adapters out"),
        remembering(object(), recipe.models[4], network, None, "cpu"),
    ):
        raise AssertionError
