"""Optuna's sweeps: ranges, trials that end early, and going on after a kill."""

import json

import pytest

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.experiments import search
from ssmlab.experiments.search import Pruned, Watched, parse_space, run_search
from ssmlab.tasks.recipe import load_recipe

DIGITS = "classification/digits_resnet18_vs_hybrid"
SMALL = ["data.limit=40", "training.epochs=2", "models=[{name='resnet_test'}]", "training.learning_rate=1e-4..1e-1"]


def test_ranges_and_choices():
    space, overrides = parse_space(["training.learning_rate=1e-4..1e-2", "training.batch_size=8,16", "seeds=1"])
    assert space == {"training.learning_rate": ["1e-4..1e-2"], "training.batch_size": ["8", "16"]}
    assert overrides == ["seeds=1"]
    for text, said in (("a=5..1", "must grow"), ("a=x..y", "low..high, such as"), ("a=1", "nothing varies")):
        with pytest.raises(RecipeError, match=said):
            parse_space([text])


@pytest.mark.slow
def test_a_search_goes_on_after_a_kill(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    whole = run_search(DIGITS, SMALL, budget=3, smoke=True, output=tmp_path / "whole")
    rows = [json.loads(line) for line in (whole.folder / "search.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(1e-4 <= row["params"]["training.learning_rate"] <= 1e-1 for row in rows)
    assert len({row["point"]["training.learning_rate"] for row in rows}) == 3
    assert load_recipe(whole.folder / "best.toml").training.learning_rate == pytest.approx(
        float(whole.best.changes["training.learning_rate"])
    )
    trained = []
    original = search.run_trial

    def killed(*arguments):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(search, "run_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        run_search(DIGITS, SMALL, budget=3, smoke=True, output=tmp_path / "again")
    monkeypatch.setattr(search, "run_trial", original)
    with pytest.raises(UserError, match="another space"):
        run_search(DIGITS, [*SMALL[:-1], "training.learning_rate=1e-4..1"], budget=3, smoke=True,
                   output=tmp_path / "again")  # fmt: skip
    again = run_search(DIGITS, SMALL, budget=3, smoke=True, output=tmp_path / "again")
    assert [t.changes for t in again.trials] == [t.changes for t in whole.trials]
    assert [t.accuracies for t in again.trials] == [t.accuracies for t in whole.trials]


def test_a_trial_that_falls_behind_ends(tmp_path):
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2), direction="maximize")
    for _ in range(3):
        good = optuna.trial.create_trial(value=0.9, params={}, distributions={}, intermediate_values={0: 0.8, 1: 0.9})
        study.add_trial(good)
    from ssmlab.core.progress import Progress

    watched = Watched(Progress(), study.ask({}), 1)
    watched.training()
    watched.evaluated(0.85)
    with pytest.raises(Pruned):
        watched.evaluated(0.3)
    assert watched.curve == {0: 0.85, 1: 0.3}
