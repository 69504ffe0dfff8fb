"""A grid, compared on the validation part."""

import json

import pytest

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.progress import Progress
from ssmlab.experiments.sweep import parse_grid, run_sweep
from ssmlab.tasks.recipe import load_recipe

DIGITS = "classification/digits_resnet18_vs_hybrid"
SMALL = ["data.limit=48", "training.epochs=1", "name=small"]
GRID = [*SMALL, "training.learning_rate=1e-9,3e-3"]


class Log(Progress):
    """Remembers titles, and stops when one of them comes up for the n-th time."""

    def __init__(self, stop=None, n=1):
        self.titles, self.stop_at, self.n = [], stop, n

    def start(self, title, *args, **kwargs):
        self.titles.append(title)
        if title == self.stop_at and self.titles.count(title) == self.n:
            raise KeyboardInterrupt


def lines(folder):
    return [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]


def test_parse_grid():
    grid, overrides = parse_grid(["a.b=1,2", "c=x", "seeds=[0,1],[2]", "d=[1,2]"])
    assert grid == {"a.b": ["1", "2"], "seeds": ["[0,1]", "[2]"]} and overrides == ["c=x", "d=[1,2]"]
    for arguments, message in [
        (["a=1"], "nothing varies"),
        (["a"], "not of the form key=a,b,c"),
        (["a=1,"], "an empty value"),
    ]:
        with pytest.raises(RecipeError, match=message):
            parse_grid(arguments)


def test_a_wrong_point_stops_before_training(tmp_path):
    with pytest.raises(RecipeError, match="training.epochs should be"):
        run_sweep(DIGITS, [*SMALL, "training.epochs=1,0"], smoke=True, output=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_model_with_its_own_value_cannot_be_swept(tmp_path):
    own = 'models.0.training={"learning_rate"=1e-2}'
    with pytest.raises(RecipeError, match=r"models.0.training.learning_rate of resnet_test contradicts a grid"):
        run_sweep(DIGITS, [*SMALL, own, "training.learning_rate=1e-3,2e-3"], smoke=True, output=tmp_path)
    assert not any(tmp_path.iterdir())


def test_sweep_stops_resumes_and_never_predicts_the_test_part(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_sweep(DIGITS, GRID, smoke=True, output=tmp_path, progress=Log("resnet_mamba_test", 2))
    folder = tmp_path / "small-sweep"
    before = lines(folder)
    assert [(row["trial"], row["model"]) for row in before] == [
        (0, "resnet_test"),
        (0, "resnet_mamba_test"),
        (1, "resnet_test"),
    ]
    with pytest.raises(UserError, match="already holds a run"):
        run_sweep(DIGITS, GRID, smoke=True, output=tmp_path)
    with pytest.raises(UserError, match="was started with another grid"):
        run_sweep(DIGITS, [*SMALL, "training.learning_rate=1,2"], smoke=True, output=tmp_path, resume=True)
    log = Log()
    sweep = run_sweep(DIGITS, GRID, smoke=True, output=tmp_path, resume=True, progress=log)
    assert lines(folder)[:3] == before and len(lines(folder)) == 4
    assert not [title for title in log.titles if "test:" in title or title.endswith(": test")]
    for trial in sweep.trials:
        rows = [
            row for row in lines(folder) if row["training.learning_rate"] == trial.changes["training.learning_rate"]
        ]
        assert set(trial.accuracies) == {row["model"] for row in rows} and 0 <= trial.score <= 1
    assert sweep.best.score == max(trial.score for trial in sweep.trials)
    best = load_recipe(folder / "best.toml")
    assert best == sweep.recipe
    for model in best.models:  # each has the rate of its own best trial
        own = max(sweep.trials, key=lambda trial: trial.accuracies[model.label]).recipe.training.learning_rate
        assert best.training_of(model).learning_rate == own
    assert not list(folder.rglob("*.safetensors"))


def test_trials_start_from_the_base_of_the_recipe(tmp_path):
    """The base is trained once, and a rate of nothing leaves every model at its weights."""
    models = 'models=[{name="vmamba_test", label="a", adapt="x_half"}]'
    recipe = ["adapt/lora_targets_vision", [models, "data.limit=24", "training.learning_rate=1e-9,1e-3"]]
    sweep = run_sweep(*recipe, smoke=True, output=tmp_path)
    base = tmp_path / "lora_targets_vision-smoke-base"
    trained = base / "models" / "vmamba"
    assert (trained / "model.safetensors").is_file()
    for trial in sweep.trials:
        assert trial.recipe.models[0].weights == str(trained) and trial.recipe.base.weights == str(base)
    with pytest.raises(RecipeError, match=r"base.data cannot vary"):
        run_sweep("adapt/lora_targets_vision", ["base.data=a,b"], smoke=True, output=tmp_path)
