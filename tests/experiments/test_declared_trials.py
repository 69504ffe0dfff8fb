"""Trials that a recipe declares: as many for every model, with seeds of their own, and the page says how many."""

import json
import tomllib

import pytest

from ssmlab.core.errors import RecipeError
from ssmlab.core.progress import Progress
from ssmlab.experiments.sweep import run_sweep
from ssmlab.tasks.recipe import PACKAGED, list_recipes, load_recipe
from ssmlab.tasks.shared.trials import trials_of

HEADS = "language/induction_heads"
BOTH = 'models=[{name="mamba_lm_test",label="a"},{name="mamba_lm_test",label="b"}]'
DECLARED = [name for name, _ in list_recipes() if "[trials]" in (PACKAGED / f"{name}.toml").read_text()]


class Log(Progress):
    """Remembers what was trained and predicted."""

    def __init__(self):
        self.titles = []

    def start(self, title, *args, **kwargs):
        self.titles.append(title)


@pytest.mark.parametrize("name", DECLARED)
def test_packaged_recipes_give_every_model_as_many_trials(name):
    recipe = load_recipe(name, need_path=False)
    trials = trials_of(recipe)
    assert len(trials) > 1 and len(recipe.seeds) >= 3 and not set(recipe.seeds) & set(recipe.trials.seeds)
    assert all(set(each) == {model.label for model in recipe.models} for each in trials)
    had = recipe.trials.had
    assert not had or had == {model.label: len(trials) for model in recipe.models}
    rates = {label: {each[label]["training.learning_rate"] for each in trials} for label in trials[0]}
    assert all(len(tried) > 1 for tried in rates.values())


def test_a_sweep_trains_what_is_declared_and_every_model_keeps_its_best(tmp_path):
    grid = 'trials.grid={"training.learning_rate"=[1e-9,1e-2]}'
    own = 'trials.own={b={"training.learning_rate"=[1e-9],"options.n_layer"=[1,2]}}'
    log = Log()
    sweep = run_sweep(HEADS, [BOTH, grid, own, "name=s"], smoke=True, output=tmp_path, progress=log)
    rows = [json.loads(line) for line in (tmp_path / "s-sweep" / "sweep.jsonl").read_text().splitlines()]
    assert [(row["trial"], row["model"], row["seed"]) for row in rows] == [(i, m, 100) for i in (0, 1) for m in "ab"]
    assert [row.get("options.n_layer") for row in rows] == [None, 1, None, 2]
    assert not [title for title in log.titles if "test" in title]
    best = load_recipe(tmp_path / "s-sweep" / "best.toml")
    assert best == sweep.recipe and best.seeds == [0] and best.trials.had == {"a": 2, "b": 2}
    for model in best.models:
        mine = [row for row in rows if row["model"] == model.label]
        chosen = max(mine, key=lambda row: row["val_accuracy"])
        assert model.training["learning_rate"] == chosen["training.learning_rate"]
        assert model.options.get("n_layer") == chosen.get("options.n_layer")
    changed = load_recipe(tmp_path / "s-sweep" / "best.toml", ["data.length=16"])
    assert not changed.trials.had, "nothing was chosen for this length"
    assert load_recipe(tmp_path / "s-sweep" / "best.toml", ["seeds=[5]"]).trials.had


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (['trials.own={b={"options.n_layer"=[1,2]}}'], "every model must have as many, got a 3 and b 6"),
        (['trials.own={c={"options.n_layer"=[1,2]}}'], "trials.own.c: no model has this label; there are a and b"),
        (['trials.grid={"data.length"=[8,16]}'], "data.length is no key of a model"),
        (['trials.grid={"training.learning_rate"=[]}'], "training.learning_rate has no values"),
        (["trials.seeds=[0]"], "seed 0 is one of the trials; settings must be chosen with other seeds"),
        (["trials.price=1.0"], "price=1.0 is that of an old task; give base.recipe"),
        (["trials.grid={}"], "nothing varies"),
        (['trials.grid={"training.learning_rat"=[1e-3]}'], "training.learning_rat"),
    ],
)
def test_what_is_not_fair_or_unknown_is_refused(tmp_path, changes, message):
    plain = 'trials.grid={"training.learning_rate"=[1e-3,1e-2,1e-1]}'
    with pytest.raises(RecipeError, match=message):
        run_sweep(HEADS, [BOTH, plain, *changes], smoke=True, output=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_what_is_forgotten_has_its_price(tmp_path):
    models = (
        'models=[{name="vmamba_test",label="full"},{name="vmamba_test",label="ewc",remedy={method="ewc",examples=16}}]'
    )
    trials = ['trials.grid={"training.learning_rate"=[1e-9,1e-2]}', "trials.own={}", "trials.price=2.0"]
    sweep = run_sweep("adapt/forgetting_vision", [models, *trials, "name=s"], smoke=True, output=tmp_path)
    rows = [json.loads(line) for line in (sweep.folder / "sweep.jsonl").read_text().splitlines()]
    for row in rows:
        worth = row["val_accuracy"] - 2 * row["forgotten_accuracy"]
        assert sweep.trials[row["trial"]].accuracies[row["model"]] == [pytest.approx(worth)]
    assert [row["forgotten_accuracy"] for row in rows[:2]] == [0, 0], "a rate of nothing forgets nothing"


def test_a_resolved_recipe_keeps_the_trials():
    recipe = load_recipe("adapt/forgetting_vision", need_path=False)
    assert tomllib.loads(recipe.to_toml())["trials"]["own"]["lora"] == recipe.trials.own["lora"]
    assert len(trials_of(recipe)) == 4 and trials_of(recipe)[1]["ewc"]["remedy.weight"] == 1.0
