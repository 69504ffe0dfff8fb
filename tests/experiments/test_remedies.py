"""Recipes with a base: factorised models start from it, remedies know its task, and what is forgotten is recorded."""

import json

import pytest
import torch

from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import RecipeError
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.nn import factorized_ranks
from ssmlab.tasks.recipe import load_recipe, validate
from ssmlab.tasks.shared.continual import remembering


def finals(folder):
    return {(r.model, r.metric, r.class_): r.value for r in read_records(folder / "records.jsonl") if r.step is None}


@pytest.mark.slow
def test_forgetting_is_measured_for_every_remedy(tmp_path):
    recipe = load_recipe("adapt/forgetting_vision", ["data.limit=20"], smoke=True)
    folder = run_recipe(recipe, output=tmp_path)
    found = finals(folder)
    base = json.loads((tmp_path / f"{recipe.name}-base" / "run.json").read_text())
    counts = {r.n for r in read_records(folder / "records.jsonl") if r.metric == "base_accuracy"}
    assert counts == {base["data"]["counts"]["test"]}, "of the part by which no setting was chosen"
    before = {found[label, "base_accuracy", None] + found[label, "forgotten_accuracy", None] for label in LABELS}
    assert len(before) == 1 and before.pop() > 0  # all started from the same base
    assert found["lora", "forgotten_accuracy", "adapters off"] == 0
    for label in LABELS:
        model, _ = load_model(tmp_path / recipe.name / "models" / label)
        assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


LABELS = ("full", "rehearsal", "distillation", "ewc", "osf", "lora")


@pytest.mark.slow
def test_factorised_forms_are_trained_and_open_again(tmp_path):
    recipe = load_recipe("classification/svd_in_proj", ["data.limit=20"], smoke=True)
    found = finals(run_recipe(recipe, output=tmp_path))
    ranks = {
        label: factorized_ranks(load_model(tmp_path / recipe.name / "models" / label)[0])
        for label in ("dense", "rank4", "rank16", "energy90", "half")
    }
    assert ranks["dense"] == {}
    assert set(map(tuple, ranks["rank4"].values())) == {(4, 0)}
    assert all(side == 2 for _, side in ranks["half"].values())
    assert found["rank4", "parameters", None] < found["dense", "parameters", None]
    assert found["rank4", "flops", None] < found["dense", "flops", None]


def test_a_remedy_needs_an_old_task_and_one_rule_of_compression():
    table = {"data": {"path": "digits"}, "models": [{"name": "vmamba_test", "remedy": {"method": "ewc"}}]}
    with pytest.raises(RecipeError, match=r"vmamba_test: remedy.method=ewc needs the old task; give base.recipe"):
        validate(table, "r")
    based = table | {"base": {"recipe": "adapt/base_vision"}}
    needs = pytest.raises(RecipeError, match=r"vmamba_test: remedy.method=ewc needs the old task; give base.recipe")
    with needs, remembering(None, validate(based, "r").models[0], torch.nn.Linear(2, 2), None, "cpu"):
        pass
    based["models"][0]["remedy"] = {"method": "reward"}
    with pytest.raises(RecipeError, match="remedy.method=reward is for language models"):
        validate(based, "r")
    based["models"][0]["remedy"] = {"method": "ewc", "reward": "a.py:b"}
    with pytest.raises(RecipeError, match="does nothing with method=ewc"):
        validate(based, "r")
    both = {"name": "vmamba_test", "compress": {"rank": 2, "energy": 0.5}}
    with pytest.raises(RecipeError, match="compress takes one of rank, energy and flops, got rank and energy"):
        validate({"data": {"path": "digits"}, "models": [both]}, "r")
