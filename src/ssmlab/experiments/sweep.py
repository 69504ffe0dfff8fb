"""A grid of recipes, compared on the validation part. The test part is never predicted."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.files import read_json, write_atomically
from ssmlab.core.progress import Progress, duration
from ssmlab.core.world import world_of
from ssmlab.experiments.folder import check_folder, claim, drop_replaced, make_folder
from ssmlab.experiments.jobs import base_task, jobs_of
from ssmlab.experiments.options import SweepOptions
from ssmlab.experiments.published import fetch_published
from ssmlab.experiments.run import run_base
from ssmlab.tasks.overrides import apply_override
from ssmlab.tasks.recipe import load_recipe, validate
from ssmlab.tasks.shared.recipe import AnyRecipe
from ssmlab.tasks.shared.trials import trials_of
from ssmlab.tasks.table import experiment_of, load_data

NOTHING = "nothing varies; give at least one key=a,b,c, e.g. training.learning_rate=1e-4,1e-3"


@dataclass(frozen=True)
class Trial:
    """One point of the grid: what was changed, the recipe, and the validation part's numbers.

    Args:
        accuracies: of every model and seed the value of `metric`, which for classification is the accuracy.
        higher_is_better: whether more of it is better.
        points: of trials that the recipe declares: by model, its settings.
    """

    changes: dict[str, str]
    recipe: AnyRecipe
    accuracies: dict[str, list[float]]
    metric: str = "accuracy"
    higher_is_better: bool = True
    points: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Mean over models and seeds, so that the choice favours no model."""
        return float(np.mean([value for values in self.accuracies.values() for value in values]))

    def goodness(self, label: str = "") -> float:
        """The score, or that of one model, with the sign with which more is better."""
        value = float(np.mean(self.accuracies[label])) if label else self.score
        return value if self.higher_is_better else -value


@dataclass(frozen=True)
class Sweep:
    """All trials in the order of the grid, and the folder with `sweep.jsonl` and `best.toml`.

    Args:
        grid: whether they are the points of one, and were not proposed.
        declared: the recipe, where it declares the trials; then every model has settings of its own.
    """

    folder: Path
    trials: list[Trial]
    grid: bool = True
    declared: AnyRecipe | None = None

    @property
    def best(self) -> Trial:
        return max(self.trials, key=Trial.goodness)  # of equals the first

    def best_of(self, label: str) -> Trial:
        """The best trial of one model."""
        return max(self.trials, key=lambda trial: trial.goodness(label))

    @property
    def at_edge(self) -> list[str]:
        """What to add to the grid: a number that is best at its end may be better beyond it."""
        if not self.grid:
            return []
        if self.declared is None:
            return _at_edge("", self.best.changes, [trial.changes for trial in self.trials])
        found = []
        for label, best in ((label, self.best_of(label)) for label in self.best.points):
            found += _at_edge(f"{label}: ", best.points[label], [trial.points[label] for trial in self.trials])
        return found

    @property
    def recipe(self) -> AnyRecipe:
        """The best trial's recipe. Where models may be trained differently, each one with its own best of the grid."""
        best = self.best.recipe
        if self.declared is not None:
            table = self.declared.model_dump() | {"base": best.base.model_dump()}
            own = [self.best_of(model.label).recipe.models[i] for i, model in enumerate(best.models)]
            table["models"] = [model.model_dump() for model in own]
        else:
            table = best.model_dump()
            training = all(key.startswith("training.") for key in self.best.changes)
            for model in table["models"] if training and hasattr(best.models[0], "training") else ():
                values = self.best_of(model["label"]).recipe.training.model_dump()
                changed = [key.split(".")[1] for key in self.best.changes]
                model["training"] = model["training"] | {key: values[key] for key in changed}
        table["trials"]["had"] = {model.label: len(self.trials) for model in best.models}
        return type(best).model_validate(table)


def _at_edge(whose: str, best: dict[str, Any], tried: list[dict[str, Any]]) -> list[str]:
    found = []
    for key, value in best.items():
        values = sorted({_number(point[key]) for point in tried})
        number = _number(value)
        if len(values) > (2 if whose else 1) and not math.isnan(sum(values)) and number in (values[0], values[-1]):
            side = "smallest" if number == values[0] else "largest"
            found.append(f"{whose}{key}={value} is the best and the {side} of its grid; try values beyond it")
    return found


def _number(value: Any) -> float:
    """The number that a value of the grid is, nan where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def parse_grid(arguments: list[str], *, varies: bool = True) -> tuple[dict[str, list[str]], list[str]]:
    """Split "key=a,b,c" into the grid, and what has one value into overrides; commas within brackets do not count.

    Args:
        varies: whether something must.
    Raises:
        RecipeError: nothing varies that must, or an argument is no key=value.
    """
    grid: dict[str, list[str]] = {}
    overrides = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"{argument!r} is not of the form key=a,b,c, e.g. training.learning_rate=1e-4,1e-3")
        parts, depth, start = [], 0, 0
        for i, character in enumerate(text):
            depth += (character in "[{") - (character in "]}")
            if character == "," and depth == 0:
                parts.append(text[start:i])
                start = i + 1
        values = [part.strip() for part in (*parts, text[start:])]
        if len(values) == 1:
            overrides.append(argument)
        elif not all(values):
            raise RecipeError(f"{argument!r} has an empty value between its commas")
        else:
            grid[key.strip()] = values
    if not grid and varies:
        raise RecipeError(NOTHING)
    return grid, overrides


def run_sweep(
    source: str,
    arguments: list[str],
    options: SweepOptions | None = None,
    *,
    progress: Progress | None = None,
    accept_licence: bool = False,
    **given: Any,
) -> Sweep:
    """Train every point of the grid and compare them on the validation part.

    Args:
        source: the recipe, as for `load_recipe`.
        arguments: "key=a,b,c" spans the grid, "key=a" changes every trial. Where nothing varies, the trials are those
            that the recipe declares.
        options: smoke, device, output, overwrite, and resume, which keeps the trials that an interrupted sweep has
            finished; they may also be given one by one.
        accept_licence: accept the licences of published weights, where they must be accepted once.
    Returns:
        the trials; `output/<name>-sweep/` holds sweep.jsonl, a line for every model, seed and trial, and best.toml.
    """
    options = SweepOptions.of(options, given, "run_sweep")
    if (count := world_of().size) > 1:
        raise UserError(f"a sweep is a single process, WORLD_SIZE is {count}; start it without a launcher")
    progress = progress or Progress()
    grid, overrides = parse_grid([*arguments, *options.changes()], varies=False)
    read = partial(load_recipe, source, smoke=options.smoke)
    base = read(overrides)
    planned = plan(base, grid, lambda point: read([*overrides, *(f"{k}={v}" for k, v in point.items())]))
    recipes = [recipe for _, _, recipe in planned]
    check_keys(base, grid)
    named = base.model_copy(update={"name": f"{base.name}-sweep"})
    output, overwrite = Path(options.output), options.overwrite
    with claim(output / named.name, progress, overwrite=overwrite) as folder:
        check_folder(named, output, resume=options.resume, overwrite=overwrite)
        for recipe in recipes:
            fetch_published(recipe, accept_licence)
        cache = {recipes[0].data.model_dump_json(): load_data(recipes[0], progress)}
        make_folder(named, folder, overwrite=overwrite)
        declared = {model.label: base.trials.lists(model.label) for model in base.models}
        file, tried = folder / "grid.json", dict[str, Any](grid or declared)
        if not file.is_file():
            write_atomically(file, json.dumps(tried, indent=2) + "\n")
        elif read_json(file) != tried:
            raise UserError(f"{folder} was started with another grid ({file}); repeat that, or use --overwrite")
        if recipes[0].base.recipe or recipes[0].base.weights:  # trained once: the models of every trial start from it
            start = run_base(recipes[0], output, progress, overwrite)
            for recipe in recipes[1:]:
                recipe.base.weights = str(start)
                run_base(recipe, output, progress)
        trials = []
        for number, (point, own, recipe) in enumerate(planned):
            key = recipe.data.model_dump_json()
            if key not in cache:
                cache = {key: load_data(recipe, progress)}
            trials.append(run_trial(folder, number, len(planned), point, recipe, cache[key], progress, own))
            drop_replaced(folder)
        sweep = Sweep(folder, trials, declared=None if grid else base)
        write_atomically(folder / "best.toml", sweep.recipe.to_toml())
        return sweep


def plan(
    base: AnyRecipe, grid: dict[str, list[str]], read: Callable[[dict[str, str]], AnyRecipe]
) -> list[tuple[dict[str, str], dict[str, dict[str, Any]], AnyRecipe]]:
    """Of every trial what it changes for all models, what it changes for each, and its recipe; all are checked here.

    Args:
        grid: empty where the trials are those that the recipe declares. read: the recipe of a point of it.
    """
    if grid:
        points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        return [(point, {}, read(point)) for point in points]
    if not base.trials.declared:
        raise RecipeError(f"{NOTHING}; or a recipe with trials.grid")
    found: list[tuple[dict[str, str], dict[str, dict[str, Any]], AnyRecipe]] = []
    for number, settings in enumerate(trials_of(base), 1):
        table = base.model_dump() | {"seeds": base.trials.seeds, "trials": {"price": base.trials.price}}
        for model in table["models"]:
            for key, value in settings[model["label"]].items():
                apply_override(model, key.split("."), value, base.name, type(base))
        found.append(({}, settings, validate(table, f"recipe {base.name}, trial {number}")))
    return found


def run_trial(folder, number, count, point, recipe, data, progress, own=None) -> Trial:
    """Train the models of one recipe; lines of sweep.jsonl that are there already are not trained again.

    Args:
        own: by model, the settings that its recipe declares.
    """
    from ssmlab.tasks.shared.experiment import estimate_jobs, train_job

    experiment, resolved = experiment_of(recipe, data)
    price = recipe.trials.price
    metric, find_base = experiment.primary_metric(data), cache(partial(base_task, recipe))
    known = {(row["trial"], row["model"], row["seed"]): row for row in _read(folder / "sweep.jsonl")}
    scratch = folder / "trials" / str(number)
    jobs = jobs_of(recipe, scratch)
    left = [job for job in jobs if (number, job.model.label, job.seed) not in known]
    text = " ".join(f"{key}={value}" for key, value in point.items()) or "every model with settings of its own"
    if left:
        seconds = estimate_jobs(experiment, resolved, data, left)
        progress.say(f"trial {number + 1} of {count}: {text}, about {duration(max(1.0, seconds))}")
    accuracies: dict[str, list[float]] = {}
    for job in jobs:
        row = known.get((number, job.model.label, job.seed))
        if row is None:
            progress.training()
            how = {"find_base": find_base, "progress": progress, "resume": True}
            network, task, result, _ = train_job(experiment, resolved, data, job, **how)
            row = {
                "trial": number,
                **point,
                **(own or {}).get(job.model.label, {}),
                "model": job.model.label,
                "seed": job.seed,
                **experiment.validate(resolved, data, job, network, task),
                **({r.metric: r.value for r in find_base().forgotten(network, "val")} if price else {}),
                "train_seconds": result.seconds,
            }
            lines = [*_read(folder / "sweep.jsonl"), row]
            write_atomically(folder / "sweep.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        lost = sum(value for name, value in row.items() if name.startswith("forgotten_"))
        worth = row[f"val_{metric}"] - price * lost * (1 if experiment.higher_is_better else -1)
        accuracies.setdefault(job.model.label, []).append(worth)
    shutil.rmtree(scratch, ignore_errors=True)
    return Trial(point, recipe, accuracies, metric, experiment.higher_is_better, own or {})


def check_keys(recipe: AnyRecipe, grid: dict[str, list[str]]) -> None:
    """What a model says for itself would win over every point of the grid; and all trials start from one base."""
    if getattr(recipe, "folded", False):
        raise RecipeError(
            "a sweep compares on the validation part; leave folds out, and give them to the run of best.toml"
        )
    for key in grid:
        if key.startswith("base."):
            raise RecipeError(f"{key} cannot vary: the trials start from one model; sweep base.recipe by itself")
    for i, model in enumerate(recipe.models):
        for name in getattr(model, "training", {}):
            if f"training.{name}" in grid:
                raise RecipeError(
                    f"models.{i}.training.{name} of {model.label} contradicts a grid of training.{name}; sweep the "
                    "recipe without it"
                )


def _read(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
